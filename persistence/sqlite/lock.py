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
from typing import Final, NamedTuple

from commitcast.persistence import fork
from commitcast.persistence.errors import StoreLockedError, StorePathError
from commitcast.persistence.remote.dismissing import DISMISS_S, dismiss

STARTING: Final = "starting"
"""The note of a server that does not listen yet."""
ENDING: Final = "ending"
"""The note of a server that lets nobody in any more."""
NOTE_BYTES: Final = 512
"""Of the lock file: a number, the path of a socket, which has at most 107 bytes, and empty lines."""
SHARED_LOCK_POLL_S: Final = 0.001
SHARED_LOCK_WAIT_S: Final = 1.0
"""How long the lock is waited for while only probes of `is_locked` hold it, or one without a note, who has just taken
it or is about to release it."""


class FileLock:
    """Keeps a second runtime out by `flock` on `FILE.lock`; the kernel drops it with the process, however it ends."""

    def __init__(self, path: Path, note: str = "") -> None:
        """Take the lock.

        Args:
            path: of the database.
            note: how the file is served, for other processes. See `Holder`.

        Raises:
            StoreLockedError: another runtime has it.
            OSError: the lock cannot be created.
        """
        self._file = _open_lock(path, os.O_RDWR | os.O_CREAT)
        self._is_held = False
        self.note_found = ""
        """That of an earlier holder which was killed; else empty."""
        fork.register(self)
        try:
            self._is_held = self._take()
            if not self._is_held:
                raise StoreLockedError(str(path), _describe_holder(self._file, path))
            self.note_found = _read_holder(self._file).note
        except BaseException:  # Ctrl-C too: a descriptor would keep the lock
            self.close()
            raise
        with contextlib.suppress(OSError):  # mostly for people: a full disk must not keep the store from being opened
            self.announce(note)

    def announce(self, note: str) -> None:
        """Write who has the file open, and how it is served. Raises `OSError`."""
        self._write(f"{os.getpid()}\n{note}\n")

    def _write(self, text: str) -> None:
        """Write a note over the one before. It keeps its length, so that a full disk does not matter later."""
        os.pwrite(self._file, text.encode(errors="surrogateescape").ljust(NOTE_BYTES, b"\n"), 0)

    def _take(self) -> bool:
        deadline = time.monotonic() + SHARED_LOCK_WAIT_S
        while not _try_lock(self._file, fcntl.LOCK_EX):
            if _try_lock(self._file, fcntl.LOCK_SH):
                fcntl.flock(self._file, fcntl.LOCK_UN)  # a probe of `is_locked` had it, which ends in a moment
            elif _read_holder(self._file).pid is not None:
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(SHARED_LOCK_POLL_S)
        return True

    def close(self) -> None:
        """Release the lock. Idempotent. The file stays: unlinking it would let two runtimes lock two files."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                if self._is_held:  # else the note is another's
                    self._write("")
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


def wait_for_server(path: Path) -> None:
    """Have a server end that has a file and no hosts any more, and wait for that: it stays for a moment, for others.

    Does nothing if anybody else has the file. Blocks for a moment, at most `DISMISS_S`.
    """
    deadline = time.monotonic() + DISMISS_S
    holder = holder_of(path)
    if holder is None or holder.note in ("", STARTING) or (holder.note != ENDING and not dismiss(holder.note)):
        return
    while holder is not None and holder.is_alive and time.monotonic() < deadline:
        time.sleep(SHARED_LOCK_POLL_S)
        holder = holder_of(path)


class Holder(NamedTuple):
    """What the lock file says of the process that has the lock; or of the last one that had it."""

    pid: int | None
    """None if there is no note."""
    note: str
    """Empty: it is a runtime, or a store, in that process. Else a server: `STARTING`, `ENDING`, or where it listens."""

    @property
    def is_alive(self) -> bool:
        """Whether that process is there, as far as this one sees."""
        return self.pid is not None and Path("/proc", str(self.pid)).exists()


def holder_of(path: Path) -> Holder | None:
    """Return what is known of the process that has a file's lock; None if the lock is free. Changes nothing.

    Raises:
        StoreOpenError: the file in the lock's place is not one.
        OSError: it cannot be opened.
    """
    try:
        file = _open_lock(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(file, fcntl.LOCK_SH) else _read_holder(file)
    finally:
        _unlock(file)


def _read_holder(lock: int) -> Holder:
    pid, _, note = os.pread(lock, NOTE_BYTES, 0).decode(errors="surrogateescape").partition("\n")
    return Holder(int(pid) if pid.strip().isdecimal() else None, note.partition("\n")[0])


def _describe_holder(lock: int, path: Path) -> str:
    """Describe the process that holds a lock. The note in the lock file is of the last that took it, and may be old."""
    holder = _read_holder(lock)
    if not holder.is_alive:
        return f"an unknown process has it open: stop the process that `fuser {path}.lock` shows, or use another file"
    which = ", which is this one" if holder.pid == os.getpid() else ""
    if holder.note:
        return (
            f"it is served by a process of its own (process {holder.pid}), which ends with its last runtime: stop "
            'these, or start this one without server="in_process"'
        )
    return f"another runtime has it open (process {holder.pid}{which}): stop that runtime, or use another file"


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
        deadline = time.monotonic() + SHARED_LOCK_WAIT_S
        while not _try_lock(file, fcntl.LOCK_SH):
            if _read_holder(file).pid is not None or time.monotonic() > deadline:
                raise StoreLockedError(str(path), _describe_holder(file, path))
            time.sleep(SHARED_LOCK_POLL_S)
    finally:
        _unlock(file)


def _open_lock(path: Path, flags: int) -> int:
    """Open `FILE.lock`, which must not be a link: a link would be the lock of two databases, or of none."""
    lock = path.with_name(path.name + ".lock")
    try:
        file = os.open(lock, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
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
