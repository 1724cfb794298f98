"""The write-ahead log of a database in WAL mode: how long it is, and when it is copied into the file.

Keeps the log short. Between two commits a checkpoint copies it into the file and begins it again, if no connection
reads from it; those of this process are kept out. A reader in another process only postpones that, up to `MAX_BYTES`:
then commits wait for that reader, as they do in DELETE mode. The writer's thread only.
"""

import contextlib
import logging
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import StoreBusyError
from commitcast.persistence.sqlite import journal

logger: Final = logging.getLogger(__name__)

CHECKPOINT_FRAMES: Final = 1_000
"""Pages in the log after which it is copied: 4 MiB, which takes one to five milliseconds. SQLite's own default."""
KEPT_BYTES: Final = 8 * 1024 * 1024
"""To which the log file is cut when it begins again after a large transaction."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Length at which commits wait for another program that reads from the log."""
FRAME_HEADER_BYTES: Final = 24
LOG_HEADER_BYTES: Final = 32
"""SQLite, Database File Format, 4.1."""
_NOT_COPIED: Final = "the log of %s was not copied into it (%s) and stays beside it: keep the files together"


class Log:
    """The log of one file, as its writer has written it."""

    def __init__(self, path: Path, writer: apsw.Connection) -> None:
        """Begin with an empty log: what was recovered is copied into the file.

        Args:
            path: of the database.
            writer: its one writer, in WAL mode.

        Raises:
            apsw.Error: the file cannot be written.
        """
        self._path = path
        self._writer = writer
        self._frame_bytes: int = writer.pragma("page_size") + FRAME_HEADER_BYTES
        self._frames = 0
        self._due = CHECKPOINT_FRAMES
        self.is_in_checkpoint = False
        """Whether the writer is copying it: then it waits for no other program's lock."""
        writer.pragma("journal_size_limit", KEPT_BYTES)
        writer.set_wal_hook(self._note_commit)  # in place of SQLite's own checkpoints, which run inside COMMIT
        with contextlib.suppress(apsw.BusyError, apsw.FullError):  # a reader in another process: it is copied later
            writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @property
    def size(self) -> int:
        """Bytes of the log that count; the file may be longer."""
        return LOG_HEADER_BYTES + self._frames * self._frame_bytes if self._frames else 0

    @property
    def is_due(self) -> bool:
        """Whether it should be copied before the next commit."""
        return self._frames >= self._due

    def checkpoint(self) -> None:
        """Copy the log into the file and begin it again, while no connection of this process is in a transaction.

        Raises:
            StoreBusyError: another program reads from it and it has `MAX_BYTES`; otherwise that is left for later.
            apsw.Error: the file cannot be written; everything is still in the log.

        Durability: what was committed is durable before and after.
        """
        self.is_in_checkpoint = True
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError as error:  # what nobody reads any more was copied
            if self.size >= MAX_BYTES:
                raise StoreBusyError(
                    f"another program is reading {self._path} as it was {MAX_BYTES // 2**20} MiB of commits ago, so its"
                    " log cannot be shortened: the commit waits until that program ends its transaction"
                ) from error
            self._due = self._frames + CHECKPOINT_FRAMES
        else:
            self._frames, self._due = 0, CHECKPOINT_FRAMES
        finally:
            self.is_in_checkpoint = False

    def forget(self) -> None:
        """Expect no length of it until the next commit: another program has copied it and begun it again."""
        self._frames = 0

    def _note_commit(self, _: apsw.Connection, name: str, frames: int) -> int:
        assert name == "main"
        if frames < self._frames:  # it has begun again
            self._due = CHECKPOINT_FRAMES
        self._frames = frames
        return apsw.SQLITE_OK

    def close(self, *, is_sound: bool) -> None:
        """Prepare for the writer to be closed, which removes the log once everything is in the file.

        Args:
            is_sound: False leaves every file as it is: a commit failed, or another program has changed them.
        """
        if is_sound:
            try:  # a program that has it open keeps the log from being removed, but not from being emptied
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                return
            except apsw.Error as error:
                logger.warning(_NOT_COPIED, self._path, error)
        journal.leave_log(self._writer)
