"""Detects what other programs do to a store's files: delete, replace or change them, or switch the journal mode.

The numbers that a store gives out rest on what it keeps in memory, so a change of the file by another program must be
detected before anything is acknowledged. In WAL mode that holds for the log too, and its index must stay in its place;
another program may copy the log into the file, which changes no number. Must never repair: it restores the journal
mode, and makes the store fail for all else. The writer's thread only.
"""

import ctypes
import logging
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw
import msgspec

from commitcast.persistence.errors import StoreBusyError, StoreError, StoreUnknownError
from commitcast.persistence.sqlite import journal, opening
from commitcast.persistence.sqlite.batch import Batch
from commitcast.persistence.sqlite.log import Log
from commitcast.persistence.sqlite.pool import ReaderPool
from commitcast.persistence.sqlite.verify import verify

logger: Final = logging.getLogger(__name__)

CHECK_SHARE: Final = 0.1
"""Share of the time spent on reading a file whose times have changed: some network file systems set them late."""
CHECK_CREDIT_S: Final = 20.0
"""How much unused time is credited: it lets several reads follow one another."""
CHECK_OPENED_BYTES: Final = 4 * 1024 * 1024
"""Up to this size a file is read whenever another program had it open for writing; it may only have read it."""
_FOREIGN: Final = {
    journal.DELETE: "another program has written to %s while it was open: stop that program",
    journal.WAL: "another program has written to %s while it was open, or has begun its log again: stop that program",
}
_COUNTERS: Final = struct.Struct(">II")
_COUNTERS_AT: Final = 24
"""The change counter of a file, and its size in pages (SQLite, Database File Format, 1.3)."""

_IN_CLOSE_WRITE: Final = 0x0000_0008
_IN_NONBLOCK: Final = 0o4000
_IN_CLOEXEC: Final = 0o2000000
"""From linux/inotify.h and fcntl.h."""
_EVENTS_BYTES: Final = 4_096

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Watched(msgspec.Struct, gc=False):
    """A file as it was when it was last looked at."""

    path: Path
    identity: tuple[int, int]
    size: int
    time_ns: int

    @classmethod
    def of(cls, path: Path) -> "_Watched":
        """Look at a file for the first time. Raises `OSError` if it was deleted."""
        status = os.stat(path)
        return cls(path, (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)

    def is_changed(self) -> bool | None:
        """Whether size or time differ from the last call; None if the file was deleted or replaced."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        if (status.st_dev, status.st_ino) != self.identity:
            return None
        before = self.size, self.time_ns
        self.size, self.time_ns = status.st_size, status.st_mtime_ns
        return before != (self.size, self.time_ns)


class FileWatch:
    """The state of the files after the last commit, compared with their state now."""

    def __init__(self, path: Path, writer: apsw.Connection, pool: ReaderPool, log: Log | None) -> None:
        """Begin to watch a file that was just opened. Raises `OSError` if it was deleted.

        Args:
            path: of the file.
            writer: its one writer.
            pool: the other connections of the store, which refuse every read once another program has interfered.
            log: of a file in WAL mode.
        """
        self._path = path
        self._writer = writer
        self._pool = pool
        self._log = log
        self._mode = journal.DELETE if log is None else journal.WAL
        self._page_bytes: int = writer.pragma("page_size")
        self._version: int | None = writer.data_version()
        """A number that changes with each commit, also of another program. After the last one; None: not known."""
        self._changes, _ = self._counters()
        self._file = _Watched.of(path)
        self._files = [self._file]
        """Those whose changes are looked for."""
        self._log_file = self._index_file = None
        if log is not None:
            self._log_file = _Watched.of(journal.log_of(path))
            self._files.append(self._log_file)
            self._index_file = _Watched.of(journal.index_of(path))  # SQLite writes to it as memory
        self._least = self._file.size
        """In WAL mode: bytes of the file, which only a commit of another program can make shorter."""
        self._events = _listen([file.path for file in self._files])
        self._is_touched = False
        """Whether it may have been written to without SQLite, and was not read since."""
        self._accepted: set[str] = set()
        """Problems that another program has caused through SQLite: warned of, not refused."""
        self._check_at = 0.0
        """When it may be read next, of `time.monotonic()`."""

    def begin(self, batch: Batch) -> None:
        """Begin a transaction. What was not noticed before is before its COMMIT, by `is_untouched`.

        Raises:
            StoreUnknownError: the file is not as it was committed.
            StoreBusyError: another program keeps the file in another journal mode.
            apsw.Error: the transaction cannot be begun.
        """
        is_due = self._is_touched and self._is_due()
        if is_due:
            self._writer.release_memory()  # what is kept in memory is what the file was
        while True:
            self._writer.execute("BEGIN IMMEDIATE")
            version = self._writer.data_version()
            if version == self._version:
                if self._log is not None:
                    self._check_length()
                if not is_due:
                    return
            if self._writer.pragma("journal_mode") == self._mode:
                break
            self._writer.execute("ROLLBACK")
            self._restore_journal_mode()
        self._check(batch, version)

    def _check(self, batch: Batch, version: int) -> None:
        different = batch.find_difference()
        is_foreign = self._version not in (None, version)
        if different is None and (is_foreign or self._is_touched):
            damage = self._find_damage()
            if is_foreign:  # what numbers do not rest on is only warned of
                self._accepted |= damage
            else:
                different = min(damage, default=None)
        if different is not None:
            raise self.changed(different)
        if is_foreign:
            if self._log is not None:
                self._log.forget()
                self._least = 0
            logger.warning(_FOREIGN[self._mode], self._path)
        batch.forget_heads()
        self._version = version
        self._changes, _ = self._counters()

    def is_untouched(self) -> bool:
        """Whether the file was not written to since the last commit: before COMMIT the transaction itself does not."""
        self._is_touched |= self._has_new_state()
        return not (self._is_touched and self._is_due())

    def note_commit(self) -> None:
        """Take the state of the file now as the committed one.

        Raises:
            StoreUnknownError: it was deleted, replaced, or changed meanwhile.
        """
        self._has_new_state()  # the commit's own
        self._version = self._writer.data_version()
        self._is_touched |= self._was_opened()
        if self._log is None:
            self._check_header()
        else:
            self._check_length()
        if self._is_touched and self._is_due() and (damage := self._find_damage()):
            raise self.changed(min(damage))

    def before_checkpoint(self) -> None:
        """Look at the files before the log is copied into one of them. Raises `StoreUnknownError` if one is gone."""
        self._is_touched |= self._has_new_state()

    def after_checkpoint(self) -> None:
        """Take the state of the files now as the committed one. Raises `StoreUnknownError` if one is gone."""
        self._has_new_state()
        self._least = self._file.size

    def _check_header(self) -> None:
        """Check that the commit alone has changed the header, and that the file is as long as it says."""
        before = self._changes
        self._changes, size = self._counters()
        if (commits := (self._changes - before) % 2**32) > 1:
            made = "its header counts {:,} commits since the last one of this program, which has made one"
            raise self.changed(made.format(commits))
        if size != self._file.size:
            raise self.changed(f"it has {self._file.size:,} bytes, but its header says {size:,}")

    def _check_length(self) -> None:
        """In WAL mode, check that file and log are as long as their writer has made them. Inside a transaction."""
        if self._log is not None and self._log_file is not None:
            self._is_touched |= self._has_new_state()
            for what, size, least in (
                ("it", self._file.size, self._least),
                ("its log", self._log_file.size, self._log.size),
            ):
                if size < least:
                    raise self.changed(f"{what} has {size:,} bytes instead of {least:,}")

    def rolled_back(self) -> None:
        """Forget the state of the file: a rollback writes too."""
        self._version = None
        self._has_new_state()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def changed(self, how: str) -> StoreUnknownError:
        """Return the error for a file that is not as it was committed. Every read is refused from now on."""
        why = f"another program has changed {self._path} while it was open ({how})"
        todo = "stop that program, check the file with `commitcast verify`, and start again"
        return self._pool.refuse(StoreUnknownError(f"{why}: {todo}"))

    def _has_new_state(self) -> bool:
        """Whether the size or the time of the file differs from the last call.

        Raises:
            StoreUnknownError: it was deleted or replaced. SQLite would go on writing into the file that has no name.
        """
        is_new, is_in_place = False, self._index_file is None or self._index_file.is_changed() is not None
        for file in self._files:
            if (is_changed := file.is_changed()) is None:
                is_in_place = False
            else:
                is_new |= is_changed
        if not is_in_place:
            which = "" if self._log is None else ", or its log or the log's index,"
            why = f"{self._path}{which} was deleted or replaced while it was open"
            raise self._pool.refuse(StoreUnknownError(f"{why}: put it back, or start again with another file"))
        return is_new

    def _was_opened(self) -> bool:
        """Whether another program had a small file open for writing since the last call, perhaps only to read it."""
        try:
            had_event = self._events >= 0 and bool(os.read(self._events, _EVENTS_BYTES))
        except BlockingIOError:
            return False
        return had_event and self._file.size <= CHECK_OPENED_BYTES

    def _is_due(self) -> bool:
        """Whether the file may be read now, so that reading it takes `CHECK_SHARE` of the time."""
        return time.monotonic() >= self._check_at

    def _counters(self) -> tuple[int, int]:
        """Return the change counter and the size in bytes from the file's header."""
        _, header = self._writer.read("main", 0, _COUNTERS_AT, _COUNTERS.size)
        changes, pages = _COUNTERS.unpack(header)
        return changes, pages * self._page_bytes

    def _find_damage(self) -> set[str]:
        """Verify a small file as a whole, and return its problems, which another program has caused."""
        self._is_touched = False
        if self._file.size > opening.CHECK_WHOLE_FILE_BYTES:
            return set()
        began = time.monotonic()
        try:
            problems = verify(self._path, deep=True).problems
        except StoreError as error:
            problems = [str(error)]
        ended = time.monotonic()
        if self._log is not None:
            self._was_opened()  # the verification's own event: SQLite opens a log for writing also to read it
        self._check_at = max(self._check_at, began - CHECK_CREDIT_S) + (ended - began) / CHECK_SHARE
        return set(problems) - self._accepted

    def _restore_journal_mode(self) -> None:
        """Switch back from the journal mode that another program has set.

        Raises:
            StoreBusyError: that program has the file open, so the mode cannot be changed.
        """
        with self._pool.exclusive():  # an open connection would keep the mode from being changed
            try:
                mode = self._writer.pragma("journal_mode", self._mode)
            except apsw.BusyError:
                mode = "locked"
        if mode != self._mode:
            raise StoreBusyError(
                f"another program has switched {self._path} to another journal mode and has it open: close that program"
            )
        logger.warning("another program had switched %s to another journal mode: it was switched back", self._path)


def _listen(paths: Iterable[Path]) -> int:
    """Return the descriptor of an inotify(7) queue: an event for each program that had one of the files open to write.

    The times of a file show a change by another program only while its owner is not writing to it itself. That a
    writable descriptor was closed is reported at any time, and a store closes none of its own while it commits. Must
    never be needed: without inotify, or at its limits, this returns -1.
    """
    queue = -1
    try:
        queue = _checked(_libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC))
        for path in paths:
            _checked(_libc.inotify_add_watch(queue, os.fsencode(path), ctypes.c_uint32(_IN_CLOSE_WRITE)))
    except (OSError, AttributeError) as error:
        logger.debug("no inotify events: %s", error)
        if queue >= 0:
            os.close(queue)
        return -1
    return queue


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
