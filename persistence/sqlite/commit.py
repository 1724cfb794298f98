"""Commits to an SQLite file, and the meaning of one that failed: rolled back, to be tried again, or unknown.

Owns the transaction on the writer's connection up to its COMMIT or ROLLBACK; `watch` begins that of a file. Must never
repeat a commit whose outcome is unknown; from then on it refuses every read. One thread.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import StoreUnavailableError, StoreUnknownError
from commitcast.persistence.sqlite import commit_errors, epochs
from commitcast.persistence.sqlite.batch import REFUSALS, AgentPlan, Batch
from commitcast.persistence.sqlite.folder import Folder
from commitcast.persistence.sqlite.log import Log
from commitcast.persistence.sqlite.pool import ReaderPool
from commitcast.persistence.sqlite.watch import FileWatch
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)

RESERVED_DESCRIPTORS: Final = 4
"""Kept open, to be freed for the journal when the process has used up all others: one for it, and a margin for other
threads that open a file at the same moment."""
_HALF_WAY: Final = (
    "the commit to {} failed half-way ({}), so its messages may or may not be stored: restart the runtime to find out"
)


class Committer:
    """Writes batches in transactions, one at a time."""

    def __init__(
        self,
        writer: apsw.Connection,
        pool: ReaderPool,
        path: Path,
        folder: Folder | None,
        log: Log | None,
        is_closing: Callable[[], bool],
        on_waiting: Callable[[str | None], object] = lambda for_what: None,
    ) -> None:
        """Begin a run of a database that was opened and migrated.

        Args:
            writer: the connection that alone writes to it.
            pool: its readers, which a commit excludes.
            path: of the file.
            folder: of the file; None for a database in memory.
            log: of a file in WAL mode; None in DELETE mode and in memory.
            is_closing: whether to give up waiting for other programs.
            on_waiting: called in `commit` with the reason when it is kept waiting, and with None when it is over.

        Raises:
            apsw.Error: the database cannot be written.
            OSError: the folder cannot be synced, or the file was deleted.

        Durability: on return the recovered state is on disk.
        """
        self.waits_for: str | None = None
        """Why the last commit is kept waiting; None if it is not. Any thread reads it."""
        self._writer = writer
        self._pool = pool
        self._path = path
        self._folder = folder
        self._log = log
        self._is_closing = is_closing
        self._on_waiting = on_waiting
        self._reserved: list[int] = []
        self._has_run = False
        self._begin_run()
        if folder is not None:
            folder.sync()  # a finished recovery must not come back after a power cut
            if folder.failure is not None:
                raise folder.failure
        self._batch = Batch(writer)
        self._watch = None if folder is None else FileWatch(path, writer, pool, log)

    def _begin_run(self) -> None:
        """Begin a run; without room for it, begin it with the first commit.

        A cursor that is given out until then is refused afterwards: a false alarm, never a missed one.
        """
        try:
            epochs.begin_run(self._writer)
            self._has_run = True
        except (apsw.Error, MemoryError) as error:
            refusal = commit_errors.explain(error, self._writer.system_errno, self._path)
            if not isinstance(refusal, StoreUnavailableError):
                raise

    def _note_waiting(self, for_what: str | None) -> None:
        self.waits_for = for_what
        self._on_waiting(for_what)

    def close(self) -> None:
        """Close the descriptors that it holds, not the connection. Idempotent."""
        self._release_descriptors()
        if self._watch is not None:
            self._watch.close()

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write everything in one transaction and return once it is on disk. See `Store.commit`."""
        if self._log is None and len(self._reserved) < RESERVED_DESCRIPTORS:  # a log is open already
            self._reserve_descriptors()
        while True:
            try:
                return self._transaction(work)
            except StoreUnavailableError as error:
                lacks_resources = type(error) is StoreUnavailableError  # not a lock, nor room on the disk
                if not lacks_resources or not self._release_descriptors():
                    self._note_waiting(str(error))
                    raise

    def _reserve_descriptors(self) -> None:
        """Open the descriptors that are missing, as far as the system allows."""
        with contextlib.suppress(OSError):
            while len(self._reserved) < RESERVED_DESCRIPTORS:
                self._reserved.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _release_descriptors(self) -> bool:
        """Close what is reserved; return whether there was anything."""
        had_any = bool(self._reserved)
        while self._reserved:
            os.close(self._reserved.pop())
        return had_any

    def _transaction(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        writing = self._pool.gate.writing
        in_memory = self._folder is None
        if self._log is not None and self._log.is_due:
            self.checkpoint(self._log)
        # In memory readers and an open transaction exclude each other, so the gate is held for all of it.
        with writing() if in_memory else nullcontext():
            try:
                plans = self._begin_and_write(work)
                # In WAL mode readers keep to the snapshot that they have, and see a commit once it is synced. There
                # they are kept out only of the first, which creates the log: SQLite does not learn whether the sync of
                # the folder failed.
                excludes_readers = not in_memory and (self._log is None or not self._has_run)
                with writing() if excludes_readers else nullcontext():
                    self._end()
            except StoreUnknownError:  # the file is not touched any more; closing the connection rolls back
                raise
            except (apsw.Error, MemoryError) as error:
                code = self._writer.system_errno  # before the rollback, which has errors of its own
                self._roll_back(error)
                if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
                    raise self._unknown(
                        f"{self._path} is damaged ({error}): restore a backup, and restart the runtime"
                    ) from error
                if isinstance(error, apsw.SQLError) and self._watch is not None:  # a table or column is gone
                    raise self._watch.changed(str(error)) from error
                raise commit_errors.explain(error, code, self._path) from error
            except BaseException as error:  # whatever it is, nothing of the transaction may stay
                self._roll_back(error)
                raise
        self._has_run = True
        if self.waits_for is not None:
            self._note_waiting(None)
        return self._batch.outcomes(plans, time.monotonic_ns())

    def checkpoint(self, log: Log) -> None:
        """Copy the log into the file. What it holds was acknowledged, and is durable whether or not this succeeds."""
        assert self._watch is not None
        with self._pool.gate.writing():
            self._watch.before_checkpoint()
            try:
                log.checkpoint()
            except (apsw.Error, MemoryError) as error:
                refusal = commit_errors.explain(error, self._writer.system_errno, self._path)
                if isinstance(refusal, StoreUnavailableError):
                    raise refusal from error
                raise self._unknown(
                    f"the log of {self._path} could not be copied into it ({error}): check the disk, and restart the"
                    " runtime; everything that was acknowledged is in the log"
                ) from error
            finally:
                self._watch.after_checkpoint()

    def _begin_and_write(self, work: Sequence[AgentWrites]) -> list[AgentPlan]:
        has_refused = False
        while True:
            if self._watch is None:
                self._writer.execute("BEGIN IMMEDIATE")
            else:
                self._watch.begin(self._batch)
            if not self._has_run:
                epochs.begin_run(self._writer)
            try:
                plans = self._batch.write(work, one_by_one=has_refused)
            except REFUSALS:
                if has_refused:
                    raise
                has_refused = True
            else:
                if self._watch is None or self._watch.is_untouched():
                    return plans
            # A row was refused, or another program has written to the file meanwhile: begin again.
            self._writer.execute("ROLLBACK")
            self._batch.forget_heads()

    def _end(self) -> None:
        """Execute COMMIT, during which SQLite syncs the file and, through `folder`, the folder."""
        while True:
            try:
                self._writer.execute("COMMIT")
                break
            except apsw.BusyError:  # a reader in another program; the transaction is still whole
                if self._is_closing():
                    raise
                self._note_waiting(f"another program is reading {self._path}: the commit waits for it")
                logger.warning(self.waits_for)
            except (apsw.Error, MemoryError) as error:
                if commit_errors.was_rolled_back(error, self._writer):
                    raise
                raise self._unknown(_HALF_WAY.format(self._path, error)) from error
        if self._folder is None or self._watch is None:
            return
        if (failure := self._folder.failure) is not None:
            raise self._unknown(_HALF_WAY.format(self._path, failure)) from failure
        self._watch.note_commit()

    def _roll_back(self, cause: BaseException) -> None:
        self._batch.forget_heads()
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if self._watch is not None and not isinstance(cause, apsw.BusyError):
                self._watch.rolled_back()
        except apsw.Error as error:
            raise self._unknown(
                f"a transaction on {self._path} failed ({cause}) and its rollback failed ({error}): restart the runtime"
            ) from error

    def _unknown(self, why: str) -> StoreUnknownError:
        """Refuse every read from now on: unacknowledged data must not become visible through reads either."""
        return self._pool.refuse(StoreUnknownError(why))
