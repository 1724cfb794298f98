"""What an error of SQLite means for a transaction: refused for the moment, or for good.

A refusal for the moment is of the system (a lock of another program, no descriptor, no memory, no room of any kind), so
the same transaction is tried again later. Must never call an error of a sync rolled back: what it held may be on disk.
"""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import NotStoredError, StoreBusyError, StoreFullError, StoreUnavailableError

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""On the disk or of its inodes, in a quota, below `ulimit -f`. SQLite says FULL for the first alone, else IOERR."""
NO_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Descriptors of the process or of the system, and memory."""
NO_DISK: Final = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE})
"""The disk has failed, or the file system was made read-only: waiting does not bring it back."""
_NO_MEMORY: Final = (MemoryError, apsw.NoMemError)


def explain(error: BaseException, code: int, path: Path) -> NotStoredError:
    """Return the refusal that an error of a transaction means which was rolled back.

    Args:
        error: of SQLite.
        code: the system's errno behind it, 0 if there was none.
        path: of the database.
    """
    if isinstance(error, apsw.BusyError):
        return StoreBusyError("another program holds the database locked: it was rolled back, try again")
    if isinstance(error, apsw.FullError):
        return StoreFullError("the disk is full: it was rolled back, free some space")
    extended = getattr(error, "extendedresult", 0)
    if isinstance(error, _NO_MEMORY) or extended == apsw.SQLITE_IOERR_NOMEM:
        return _for_the_moment(errno.ENOMEM)
    if isinstance(error, apsw.CantOpenError) or extended == apsw.SQLITE_READONLY_DIRECTORY:
        code = _why_no_file(path)
        if code not in NO_DISK:
            return _for_the_moment(code)
    elif isinstance(error, apsw.IOError) and code in NO_ROOM | NO_MEANS:
        return _for_the_moment(code)
    return NotStoredError(f"the database refused the transaction ({error}): it was rolled back")


def was_rolled_back(error: BaseException, writer: apsw.Connection) -> bool:
    """Whether a COMMIT that failed has certainly left nothing.

    So it is when there was no room for a write, before any sync could fail or the journal be unlinked, and SQLite has
    undone the transaction, or it is still whole.
    """
    if isinstance(error, apsw.FullError):
        return True
    is_write = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE
    return is_write and writer.system_errno in NO_ROOM | NO_MEANS


def _for_the_moment(code: int) -> StoreUnavailableError:
    if code in NO_ROOM:
        return StoreFullError(f"there is no room ({os.strerror(code)}): it was rolled back, make some")
    why = os.strerror(code) if code else "its journal could not be opened"
    return StoreUnavailableError(f"the system refuses it ({why}): it was rolled back, try again")


def _why_no_file(path: Path) -> int:
    """Return the errno with which no file can be made beside the database, 0 if one can.

    SQLite's own is lost: after it could not make the journal it tries to open it for reading, and that errno is left.
    """
    probe = path.with_name(f"{path.name[:200]}-probe-{secrets.token_hex(4)}")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
