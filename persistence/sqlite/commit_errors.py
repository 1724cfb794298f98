"""The meaning of an SQLite error in a transaction: refused temporarily, or for good.

A temporary refusal comes from the system (a lock of another program, no descriptor, no memory, no space of any kind),
so the same transaction is tried again later. Must never call a failed sync rolled back: its data may be on disk.
"""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import NotStoredError, StoreBusyError, StoreFullError, StoreUnavailableError
from commitcast.persistence.sqlite import opening

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of disk blocks, inodes, a quota or `ulimit -f`. SQLite says FULL for the first alone, else IOERR."""
NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""No descriptor left, in the process or in the system, or no memory."""
NO_DISK: Final = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE})
"""The disk has failed, or the file system was made read-only: waiting does not bring it back."""
_NO_MEMORY: Final = (MemoryError, apsw.NoMemError)


def explain(error: BaseException, code: int, path: Path) -> NotStoredError:
    """Return the refusal for a transaction that was rolled back; `code` is the system's errno behind it, or 0."""
    if isinstance(error, apsw.BusyError):
        return StoreBusyError("another program has locked the database, so the transaction was rolled back: try again")
    if isinstance(error, apsw.FullError):
        return StoreFullError("the disk is full, so the transaction was rolled back: free some space")
    extended = getattr(error, "extendedresult", 0)
    if isinstance(error, _NO_MEMORY) or extended == apsw.SQLITE_IOERR_NOMEM:
        return _unavailable(errno.ENOMEM)
    if isinstance(error, apsw.CantOpenError) or extended == apsw.SQLITE_READONLY_DIRECTORY:
        code = _creation_errno(path)
        if code not in NO_DISK:
            return _unavailable(code)
    elif isinstance(error, apsw.IOError) and code in NO_SPACE | NO_RESOURCES:
        return _unavailable(code)
    return NotStoredError(f"the database refused the transaction ({error}), which was rolled back")


def was_rolled_back(error: BaseException, writer: apsw.Connection) -> bool:
    """Whether a COMMIT that failed has certainly stored nothing.

    That holds when there was no space for a write: it comes before any sync of the pages or the unlink of the journal,
    and of a log the last page, which completes a transaction, is missing. SQLite has rolled the transaction back, or it
    is still whole.
    """
    if isinstance(error, apsw.FullError):
        return True
    is_write = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE
    return is_write and writer.system_errno in NO_SPACE | NO_RESOURCES


def _unavailable(code: int) -> StoreUnavailableError:
    if code in NO_SPACE:
        return StoreFullError(f"no space is left ({os.strerror(code)}), so the transaction was rolled back: free some")
    why = os.strerror(code) if code else "its journal could not be opened"
    return StoreUnavailableError(f"the system refused the transaction ({why}), so it was rolled back: try again")


def _creation_errno(path: Path) -> int:
    """Return the errno with which creating a file beside the database fails, 0 if it does not.

    SQLite's own is lost: when it cannot create the journal it tries to open it for reading, and reports that errno.
    """
    probe = path.with_name(f"{opening.kept_name(path)}-probe-{secrets.token_hex(4)}")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
