"""Noticing what others do to a store's file: deleted, replaced, changed in place, switched to another journal mode.

The numbers that a store gives rest on what it keeps in memory, so whatever touches the file behind its back must be
seen before anything is acknowledged. Must never repair: it turns the journal mode back, and stops for all else. The
writer's thread only.
"""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from commitcast.persistence import sqlite_connection, sqlite_file
from commitcast.persistence.errors import StoreBusyError, StoreError, StoreUnknownError
from commitcast.persistence.sqlite_batch import Batch
from commitcast.persistence.verify import verify

logger: Final = logging.getLogger(__name__)

MAX_FALSE_ALARMS: Final = 3
"""File times that changed alone, after which they are not looked at: some network file systems set them late."""


class _Seen(NamedTuple):
    """A file as the system sees it."""

    device: int
    inode: int
    size: int
    changed_ns: int


class FileWatch:
    """What the file was like after the last commit."""

    def __init__(
        self,
        path: Path,
        writer: apsw.Connection,
        *,
        alone: Callable[[], AbstractContextManager[None]],
        stop: Callable[[str], StoreUnknownError],
    ) -> None:
        """Begin to watch a file that was just opened.

        Args:
            path: of the file.
            writer: its one writer.
            alone: while it is entered, no other connection of the store is open.
            stop: makes the store refuse everything from now on, and returns the error that says why.
        """
        self._path = path
        self._writer = writer
        self._alone = alone
        self._stop = stop
        self._version: int | None = _version(writer)
        self._seen = self._look()
        self._false_alarms = 0

    def begin(self, batch: Batch) -> None:
        """Begin a transaction, once it is certain that the file is as it was committed.

        Raises:
            StoreUnknownError: it is not.
            StoreBusyError: another program keeps the file in another journal mode.
            apsw.Error: the transaction cannot be begun.
        """
        seen = self._look()
        is_touched = seen != self._seen and self._false_alarms < MAX_FALSE_ALARMS
        if is_touched:
            self._writer.release_memory()  # what is kept in memory is what the file was
        while True:
            self._writer.execute("BEGIN IMMEDIATE")
            version = _version(self._writer)
            if version == self._version and not is_touched:
                return
            if self._writer.pragma("journal_mode") == sqlite_connection.JOURNAL_MODE:
                break
            self._writer.execute("ROLLBACK")
            self._turn_back()
        different = batch.find_difference()
        if different is None and version == self._version:
            different = self._find_damage(seen.size)
        if different is not None:
            raise self._stop(
                f"another program has changed {self._path} while it was open ({different}): let nothing else write to "
                "it, check it with `commitcast verify`, and start again"
            )
        if version != self._version is not None:
            logger.warning("another program has written into %s: nothing else may, while it is open", self._path)
        batch.forget()
        self._version, self._seen = version, seen

    def committed(self) -> None:
        """Take the file as it is now for what was committed.

        Raises:
            StoreUnknownError: it was deleted or replaced meanwhile.
        """
        self._seen = self._look()

    def undone(self) -> None:
        """Forget what the file was like: what is undone was written too."""
        self._version = None
        self._seen = self._look()

    def _look(self) -> _Seen:
        try:
            found = os.stat(self._path)
        except OSError:
            found = None
        seen = found and _Seen(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if seen is None or seen[:2] != getattr(self, "_seen", seen)[:2]:
            # SQLite would go on writing into the file that no longer has a name.
            raise self._stop(
                f"{self._path} was deleted or replaced while it was open: put it back, or start again with another file"
            )
        return seen

    def _find_damage(self, size: int) -> str | None:
        """Look for what was written without SQLite: in all of a small file."""
        self._false_alarms += 1
        if size > sqlite_file.CHECK_WHOLE_FILE_BYTES:
            return None
        try:
            problems = verify(self._path, deep=True).problems
        except StoreError as error:
            return str(error)
        return problems[0] if problems else None

    def _turn_back(self) -> None:
        """Leave the journal mode that another program has switched to.

        Raises:
            StoreBusyError: it has the file open, so the mode cannot be changed.
        """
        with self._alone():  # in that mode an open connection keeps it from being left
            try:
                mode = self._writer.pragma("journal_mode", sqlite_connection.JOURNAL_MODE)
            except apsw.BusyError:
                mode = "locked"
        if mode != sqlite_connection.JOURNAL_MODE:
            raise StoreBusyError(
                f"another program has switched {self._path} to another journal mode and has it open: close that one"
            )
        logger.warning("another program had switched %s to another journal mode: it was switched back", self._path)


def _version(connection: apsw.Connection) -> int:
    """Return a number that changes when another connection has committed to the file."""
    version: int = connection.execute("PRAGMA data_version").get
    return version
