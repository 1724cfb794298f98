"""What an error of SQLite means for a transaction: refused for the moment, or for good. Looks at the disk, no more.

A refusal for the moment is of the system (a lock of another program, no descriptor, no memory, no room of any kind), so
the same transaction is tried again later. Must never call an error of a sync rolled back: what it held may be on disk.
"""

import errno
import os
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import NotStoredError, StoreBusyError, StoreFullError, StoreUnavailableError

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""On the disk or of its inodes, in a quota, below `ulimit -f`. SQLite says FULL for the first alone, else IOERR."""
NO_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Descriptors of the process or of the system, and memory."""
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
    if isinstance(error, apsw.CantOpenError) and code not in NO_MEANS and _has_no_inodes(path):
        code = errno.ENOSPC  # also where the error that SQLite met last is another
    if _is_of_the_system(error) and code in NO_ROOM:
        return StoreFullError(f"there is no room ({os.strerror(code)}): it was rolled back, make some")
    if isinstance(error, _NO_MEMORY) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_NOMEM:
        code = errno.ENOMEM
    if code in NO_MEANS and (_is_of_the_system(error) or isinstance(error, _NO_MEMORY)):
        return StoreUnavailableError(f"the system refuses it ({os.strerror(code)}): it was rolled back, try again")
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


def _is_of_the_system(error: BaseException) -> bool:
    return isinstance(error, (apsw.IOError, apsw.CantOpenError))


def _has_no_inodes(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_files > 0 and found.f_favail == 0
