"""The lock that keeps a second runtime from opening the same file.

Owns `FILE.lock` beside the database. Must never delete it. Any thread.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final

from commitcast.persistence import fork
from commitcast.persistence.errors import StoreLockedError, StorePathError

SHARED_LOCK_POLL_S: Final = 0.001
SHARED_LOCK_WAIT_S: Final = 1.0
"""How long the lock is waited for while only probes of `is_locked` hold it."""


class FileLock:
    """Keeps a second runtime out by `flock` on `FILE.lock`; the kernel drops it with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: another runtime has it.
            OSError: the lock cannot be created.
        """
        self._file = _open_lock(path, os.O_RDWR | os.O_CREAT)
        fork.register(self)
        try:
            if not self._take():
                raise StoreLockedError(str(path), _describe_holder(self._file, path))
        except BaseException:  # Ctrl-C too: a descriptor would keep the lock
            self.close()
            raise
        with contextlib.suppress(OSError):  # a note for people: a full disk must not keep the store from being opened
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def _take(self) -> bool:
        deadline = time.monotonic() + SHARED_LOCK_WAIT_S
        while not _try_lock(self._file, fcntl.LOCK_EX):
            if not _try_lock(self._file, fcntl.LOCK_SH) or time.monotonic() > deadline:
                return False
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a probe of `is_locked` had it, which ends in a moment
            time.sleep(SHARED_LOCK_POLL_S)
        return True

    def close(self) -> None:
        """Release the lock. Idempotent. The file stays: unlinking it would let two runtimes lock two files."""
        if self._file >= 0:
            _unlock(self._file)
            self._file = -1

    def _drop_in_child(self) -> None:
        """Close a parent's lock without unlocking it, which would unlock it for the parent too."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _unlock(file: int) -> None:
    """Release a lock and close its file. A close alone would leave the lock to a copy in a forked process."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _describe_holder(lock: int, path: Path) -> str:
    """Describe the process that holds a lock. The note in the lock file is of the last that took it, and may be old."""
    owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    if not owner.isdecimal() or not Path("/proc", owner).exists():
        return f"an unknown process has it open: stop the process that `fuser {path}.lock` shows, or use another file"
    which = ", which is this one" if int(owner) == os.getpid() else ""
    return f"another runtime has it open (process {owner}{which}): stop that runtime, or use another file"


def is_locked(path: Path) -> bool:
    """Whether a runtime has this file open. Changes nothing."""
    try:
        refuse_if_locked(path)
    except StoreLockedError:
        return True
    except OSError:
        return False
    return False


def refuse_if_locked(path: Path) -> None:
    """Check that the lock is free, without creating its file.

    Raises:
        StoreLockedError: a runtime has the file open.
        StoreOpenError: the file in the lock's place is not one.
    """
    try:
        file = _open_lock(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if not _try_lock(file, fcntl.LOCK_SH):
            raise StoreLockedError(str(path), _describe_holder(file, path))
    finally:
        _unlock(file)


def _open_lock(path: Path, flags: int) -> int:
    """Open `FILE.lock`, which must not be a link: a link would be the lock of two databases, or of none."""
    lock = path.with_name(path.name + ".lock")
    try:
        file = os.open(lock, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorePathError(str(path), f"{lock} is a symbolic link: remove it") from error
        raise
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        os.close(file)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(lock))
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(file)
        raise StorePathError(str(path), f"{lock} is not a regular file, or has hard links: remove it")
    return file


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
