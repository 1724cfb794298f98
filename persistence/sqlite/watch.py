"""Detects what other programs do to a store's file: delete, replace or change it, or switch its journal mode.

The numbers that a store gives out rest on what it keeps in memory, so a change of the file by another program must be
detected before anything is acknowledged. Must never repair: it restores the journal mode, and makes the store fail for
all else. The writer's thread only.
"""

import ctypes
import logging
import os
import struct
import time
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import StoreBusyError, StoreError, StoreUnknownError
from commitcast.persistence.sqlite import connections, opening
from commitcast.persistence.sqlite.batch import Batch
from commitcast.persistence.sqlite.pool import ReaderPool
from commitcast.persistence.sqlite.verify import verify

logger: Final = logging.getLogger(__name__)

CHECK_SHARE: Final = 0.1
"""Share of the time spent on reading a file whose times have changed: some network file systems set them late."""
CHECK_CREDIT_S: Final = 20.0
"""How much unused time is credited: it lets several reads follow one another."""
CHECK_OPENED_BYTES: Final = 4 * 1024 * 1024
"""Up to this size a file is read whenever another program had it open for writing; it may only have read it."""
_VERSION: Final = "PRAGMA data_version"
"""A number that changes when another connection has committed to the file."""
_COUNTERS: Final = struct.Struct(">II")
_COUNTERS_AT: Final = 24
"""The change counter of a file, and its size in pages (SQLite, Database File Format, 1.3)."""

_IN_CLOSE_WRITE: Final = 0x0000_0008
_IN_NONBLOCK: Final = 0o4000
_IN_CLOEXEC: Final = 0o2000000
"""From linux/inotify.h and fcntl.h."""
_EVENTS_BYTES: Final = 4_096

_libc: Final = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """The state of the file after the last commit, compared with its state now."""

    def __init__(self, path: Path, writer: apsw.Connection, pool: ReaderPool) -> None:
        """Begin to watch a file that was just opened. Raises `OSError` if it was deleted.

        Args:
            path: of the file.
            writer: its one writer.
            pool: the other connections of the store, which refuse every read once another program has interfered.
        """
        self._path = path
        self._writer = writer
        self._pool = pool
        self._page_bytes: int = writer.pragma("page_size")
        self._version: int | None = writer.execute(_VERSION).get
        self._changes, _ = self._counters()
        status = os.stat(path)
        self._identity = status.st_dev, status.st_ino
        self._state = status.st_size, status.st_mtime_ns
        self._events = _listen(path)
        self._is_touched = False
        """Whether it may have been written to without SQLite, and was not read since."""
        self._accepted: set[str] = set()
        """Problems that another program has caused through SQLite: warned of, not refused."""
        self._check_at = 0.0
        """When it may be read next, of `time.monotonic()`."""

    def begin(self, batch: Batch) -> None:
        """Begin a transaction, once it is certain that the file is as it was committed.

        Raises:
            StoreUnknownError: it is not.
            StoreBusyError: another program keeps the file in another journal mode.
            apsw.Error: the transaction cannot be begun.
        """
        self._is_touched |= self._has_new_state() | self._was_opened()
        is_due = self._is_touched and self._is_due()
        if is_due:
            self._writer.release_memory()  # what is kept in memory is what the file was
        while True:
            self._writer.execute("BEGIN IMMEDIATE")
            version = self._writer.execute(_VERSION).get
            if version == self._version and not is_due:
                return
            if self._writer.pragma("journal_mode") == connections.JOURNAL_MODE:
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
            raise self._changed(different)
        if is_foreign:
            logger.warning("another program has written to %s while it was open: stop that program", self._path)
        batch.forget_heads()
        self._version = version
        self._changes, _ = self._counters()

    def is_untouched(self) -> bool:
        """Whether the file was not written to since `begin`: before COMMIT the transaction itself does not."""
        self._is_touched |= self._has_new_state()
        return not (self._is_touched and self._is_due())

    def note_commit(self) -> None:
        """Take the state of the file now as the committed one.

        Raises:
            StoreUnknownError: it was deleted, replaced, or changed meanwhile.
        """
        self._has_new_state()  # the commit's own
        self._is_touched |= self._was_opened()
        before = self._changes
        self._changes, size = self._counters()
        different = None
        if (commits := (self._changes - before) % 2**32) > 1:
            different = f"its header counts {commits:,} commits since the last one of this program, which has made one"
        elif size != self._state[0]:
            different = f"it has {self._state[0]:,} bytes, but its header says {size:,}"
        elif self._is_touched and self._is_due():
            different = min(self._find_damage(), default=None)
        if different is not None:
            raise self._changed(different)

    def rolled_back(self) -> None:
        """Forget the state of the file: a rollback writes too."""
        self._version = None
        self._has_new_state()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def _changed(self, how: str) -> StoreUnknownError:
        why = f"another program has changed {self._path} while it was open ({how})"
        todo = "stop that program, check the file with `commitcast verify`, and start again"
        return self._pool.refuse(StoreUnknownError(f"{why}: {todo}"))

    def _has_new_state(self) -> bool:
        """Whether the size or the time of the file differs from the last call.

        Raises:
            StoreUnknownError: it was deleted or replaced. SQLite would go on writing into the file that has no name.
        """
        try:
            status = os.stat(self._path)
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            why = f"{self._path} was deleted or replaced while it was open"
            raise self._pool.refuse(StoreUnknownError(f"{why}: put it back, or start again with another file"))
        before, self._state = self._state, (status.st_size, status.st_mtime_ns)
        return self._state != before

    def _was_opened(self) -> bool:
        """Whether another program had a small file open for writing since the last call, perhaps only to read it."""
        try:
            had_event = self._events >= 0 and bool(os.read(self._events, _EVENTS_BYTES))
        except BlockingIOError:
            return False
        return had_event and self._state[0] <= CHECK_OPENED_BYTES

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
        if self._state[0] > opening.CHECK_WHOLE_FILE_BYTES:
            return set()
        began = time.monotonic()
        try:
            problems = verify(self._path, deep=True).problems
        except StoreError as error:
            problems = [str(error)]
        ended = time.monotonic()
        self._check_at = max(self._check_at, began - CHECK_CREDIT_S) + (ended - began) / CHECK_SHARE
        return set(problems) - self._accepted

    def _restore_journal_mode(self) -> None:
        """Switch back from the journal mode that another program has set.

        Raises:
            StoreBusyError: that program has the file open, so the mode cannot be changed.
        """
        with self._pool.exclusive():  # an open connection would keep the mode from being changed
            try:
                mode = self._writer.pragma("journal_mode", connections.JOURNAL_MODE)
            except apsw.BusyError:
                mode = "locked"
        if mode != connections.JOURNAL_MODE:
            raise StoreBusyError(
                f"another program has switched {self._path} to another journal mode and has it open: close that program"
            )
        logger.warning("another program had switched %s to another journal mode: it was switched back", self._path)


def _listen(path: Path) -> int:
    """Return the descriptor of an inotify(7) queue: an event for each program that had the file open for writing.

    The times of a file show a change by another program only while its owner is not writing to it itself. That a
    writable descriptor was closed is reported at any time, and a store closes none of its own while it commits. Must
    never be needed: without inotify, or at its limits, this returns -1.
    """
    queue = -1
    try:
        queue = _checked(_libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC))
        _checked(_libc.inotify_add_watch(queue, os.fsencode(path), ctypes.c_uint32(_IN_CLOSE_WRITE)))
    except (OSError, AttributeError) as error:
        logger.debug("no inotify events for %s: %s", path, error)
        if queue >= 0:
            os.close(queue)
        return -1
    return queue


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
