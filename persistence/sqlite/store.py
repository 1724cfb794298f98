"""The store in an SQLite file (or in memory): one writer connection, a few readers, and the gate between them.

Owns the meaning of a failed commit: rolled back, still to be tried, or unknown. Must never repeat a commit whose
outcome is unknown. `commit` is called by one thread; reads by any.
"""

import logging
import os
import secrets
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import apsw

from commitcast.persistence import fork
from commitcast.persistence.errors import (
    ForkedRuntimeError,
    StoreClosedError,
    StoreError,
    StoreOpenError,
    StorePathError,
    StoreUnavailableError,
    StoreUnknownError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.sqlite import connections, opening, refusals
from commitcast.persistence.sqlite.backup import Progress, back_up, target_of
from commitcast.persistence.sqlite.batch import Batch
from commitcast.persistence.sqlite.folder import Folder
from commitcast.persistence.sqlite.gate import Gate
from commitcast.persistence.sqlite.reader import READERS, Pages
from commitcast.persistence.sqlite.reserve import Reserve
from commitcast.persistence.sqlite.watch import FileWatch
from commitcast.persistence.store import PAGE_BYTES, PAGE_ROWS, AgentPage, FeedPage, Head, IdRange, ResolvedCursor
from commitcast.persistence.verify import Report, verify
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)

_HALF_WAY: Final = (
    "the commit to {} failed half-way ({}): what it held may or may not be stored; start again to find out"
)


class SqliteStore:
    """Agents and messages in one SQLite file in DELETE mode."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, vfs: str | None = None) -> None:
        """Make a store; nothing is opened yet.

        Args:
            path: of the file, created with mode 0600 if missing; `:memory:` for one that ends with the process.
            read_only: open an existing file to read only, without the lock, beside a runtime that may have it.
            vfs: name of a registered SQLite VFS, for fault tests.
        """
        self._in_memory = str(path) == opening.MEMORY
        self._path = Path(path).absolute()
        self._read_only = read_only
        self._vfs = vfs
        self._source = f"file:/commitcast-{secrets.token_hex(8)}?vfs=memdb" if self._in_memory else str(self._path)
        self._gate = Gate(READERS)
        self._pages = Pages(self._connect_reader, self._gate)
        self._lock: opening.FileLock | None = None
        self._folder: Folder | None = None
        self._reserve = Reserve()
        self._watch: FileWatch | None = None
        self._writer: apsw.Connection | None = None
        self._batch: Batch | None = None
        self._has_run = False
        self._committing = threading.Lock()
        self._closing = threading.Event()
        self._unknown: StoreUnknownError | None = None
        self._was_forked = False
        self.waits_for: str | None = None
        """Why the last commit is kept waiting; None if it is not. Any thread reads it."""

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return opening.MEMORY if self._in_memory else str(self._path)

    def open(self) -> None:
        """Open the store, recover it from a crash, migrate it, and read its settings back.

        Raises:
            StoreOpenError: it cannot be used; nothing was changed.
            ForkedRuntimeError: it was open when this process was forked.

        Durability: on return the recovered state is on disk, so that nothing read later can be rolled back.
        """
        if self._was_forked:
            raise ForkedRuntimeError
        fork.register(self)
        try:
            with self._committing:  # a fork waits for what is done to the file
                if self._read_only:
                    self._check_readable()
                else:
                    self._open_writer()
        except BaseException as error:
            self.close()
            if isinstance(error, (apsw.Error, OSError)) and not isinstance(error, StoreOpenError):
                raise opening.explain(error, self.name) from error
            raise

    def _check_readable(self) -> None:
        opening.inspect(self._path, write=False)
        with closing(self._connect_reader()) as reader:
            reader.execute("SELECT last FROM positions")

    def _open_writer(self) -> None:
        if not self._in_memory:
            opening.check_name(self._path)
            self._path = Path(os.path.realpath(self._path))  # the lock and the identity are of the file, not of a link
            self._source = str(self._path)
            opening.check_folder(self._path)
            opening.check_name(self._path)
            if self._path.exists():
                opening.refuse_if_locked(self._path)
                opening.inspect(self._path, write=True)
            self._lock = opening.FileLock(self._path)
            self._folder = Folder(self._path)
            opening.create_if_missing(self._path)
            opening.inspect(self._path, write=True)
            if mode := opening.mode_for_others(self._path):
                logger.warning(
                    "other users may read or write %s, which holds all that agents say (mode %04o): chmod 600 %s",
                    *(self.name, mode, shlex.quote(self.name)),
                )
        writer = self._writer = self._connect(create=True, busy_timeout_s=connections.BUSY_TIMEOUT_S)
        if not self._in_memory:
            writer.pragma("user_version")  # the first read rolls a hot journal back
            opening.check_pages(writer, self._path)
        opening.migrate(writer, self.name)
        self._begin_run(writer)
        if self._folder is not None:
            self._folder.sync()  # a finished recovery must not come back after a power cut
            self._folder.check()
            self._watch = FileWatch(self._path, writer, alone=self._pages.alone, stop=self._stop)
            self._pages.open()
        self._batch = Batch(writer)

    def _begin_run(self, writer: apsw.Connection) -> None:
        """Begin a run; without room for it, begin it with the first commit.

        A cursor that is given out until then is refused afterwards: an alarm too many, never one too few.
        """
        try:
            opening.begin_run(writer)
            self._has_run = True
        except (apsw.Error, MemoryError) as error:
            if not isinstance(refusals.explain(error, writer.system_errno, self._path), StoreUnavailableError):
                raise

    def _connect_reader(self) -> apsw.Connection:
        read_only = self._read_only and not os.access(self._path, os.W_OK)
        timeout_s = connections.BUSY_TIMEOUT_S if self._read_only else None  # a runtime waits, a command says why
        connection = self._connect(read_only=read_only, busy_timeout_s=timeout_s)
        connection.pragma("query_only", "on")
        return connection

    def _connect(self, **options: Any) -> apsw.Connection:
        return connections.connect(self._source, vfs=self._vfs, give_up=self._closing.is_set, **options)

    def close(self) -> None:
        """Close every connection and give the lock back. Idempotent. A commit under way is waited for."""
        self._closing.set()
        with self._committing:
            try:
                self._pages.close()
                if self._writer is not None:
                    self._writer.close()
            finally:
                fork.forget(self)
                self._writer = self._batch = None
                self._reserve.release()
                for held in (self._folder, self._lock, self._watch):  # the system takes a while for the last
                    if held is not None:
                        held.close()

    @contextmanager
    def _at_rest(self, timeout_s: float) -> Iterator[bool]:
        """Hold commits and reads back while the process is forked; gives whether those under way ended in time."""
        if not self._committing.acquire(timeout=timeout_s):
            yield False
            return
        try:
            with self._gate.writing(timeout_s) as is_alone:
                yield is_alone
        finally:
            self._committing.release()

    def _drop_in_child(self) -> None:
        """Refuse everything in a child. Its copies of the connections are not closed: that would undo the parent's."""
        self._was_forked = True
        self._writer = self._batch = self._lock = None
        self._committing = threading.Lock()
        self._gate = Gate(READERS)
        self._pages = Pages(self._connect_reader, self._gate)
        self._pages.refuse(ForkedRuntimeError())

    def abandon_waiting(self) -> None:
        """Make a commit that waits for another program give up instead. Any thread."""
        self._closing.set()

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write everything in one transaction and return once it is on disk. See `Store.commit`."""
        with self._between_commits():
            assert self._writer is not None and self._batch is not None
            try:
                return self._commit_by_all_means(self._writer, self._batch, work)
            except StoreUnavailableError as error:
                self.waits_for = str(error)
                raise

    def _commit_by_all_means(self, writer: apsw.Connection, batch: Batch, work: Sequence[AgentWrites]) -> list[Outcome]:
        self._reserve.fill()
        try:
            return self._commit(writer, batch, work)
        except StoreUnavailableError as error:
            is_for_want_of_means = type(error) is StoreUnavailableError  # neither a lock nor room
            if not is_for_want_of_means or not self._reserve.release():
                raise
        return self._commit(writer, batch, work)

    def _commit(self, writer: apsw.Connection, batch: Batch, work: Sequence[AgentWrites]) -> list[Outcome]:
        # In memory readers and an open transaction exclude each other, so the gate is held for all of it.
        with self._gate.writing() if self._in_memory else nullcontext():
            try:
                outcomes = self._write(writer, batch, work)
                with nullcontext() if self._in_memory else self._gate.writing():
                    self._end(writer)
            except StoreUnknownError:  # nothing is tried on the file any more; closing the connection rolls back
                raise
            except (apsw.Error, MemoryError) as error:
                code = writer.system_errno  # before the rollback, which has errors of its own
                self._roll_back(writer, batch, error)
                if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
                    raise self._stop(f"{self.name} is damaged ({error}): restore a backup, and start again") from error
                raise refusals.explain(error, code, self._path) from error
            except BaseException as error:
                self._roll_back(writer, batch, error)
                raise
        self._has_run = True
        self.waits_for = None
        batch.committed()
        committed_ns = time.monotonic_ns()
        for outcome in outcomes:
            if outcome.committed is not None:
                outcome.committed.committed_ns = committed_ns
        return outcomes

    def _write(self, writer: apsw.Connection, batch: Batch, work: Sequence[AgentWrites]) -> list[Outcome]:
        while True:
            self._begin(writer, batch)
            outcomes = batch.write(work)
            if self._watch is None or self._watch.is_untouched():
                return outcomes
            writer.execute("ROLLBACK")  # another program has written to the file meanwhile: look what, and write again
            batch.forget()

    def _begin(self, writer: apsw.Connection, batch: Batch) -> None:
        if self._watch is None:
            writer.execute("BEGIN IMMEDIATE")
        else:
            self._watch.begin(batch)
        if not self._has_run:
            opening.begin_run(writer)

    def _end(self, writer: apsw.Connection) -> None:
        while True:
            try:
                writer.execute("COMMIT")
                break
            except apsw.BusyError:  # a reader in another program; the transaction is still whole
                if self._closing.is_set():
                    raise
                self.waits_for = f"another program is reading {self.name}: the commit waits for it"
                logger.warning(self.waits_for)
            except (apsw.Error, MemoryError) as error:
                if refusals.was_rolled_back(error, writer):
                    raise
                raise self._stop(_HALF_WAY.format(self.name, error)) from error
        if self._folder is None or self._watch is None:
            return
        try:
            self._folder.check()
        except Exception as error:  # of the folder's sync: whatever it is, nobody may hear of what was committed
            raise self._stop(_HALF_WAY.format(self.name, error)) from error
        self._watch.committed()

    def _roll_back(self, writer: apsw.Connection, batch: Batch, cause: BaseException) -> None:
        batch.forget()
        try:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            if self._watch is not None and not isinstance(cause, apsw.BusyError):
                self._watch.undone()
        except apsw.Error as error:
            raise self._stop(
                f"a transaction on {self.name} failed ({cause}) and could not be rolled back ({error}): start again"
            ) from error

    def _stop(self, why: str) -> StoreUnknownError:
        """Refuse everything from now on: what was not acknowledged must not be heard of by reading either."""
        self._unknown = StoreUnknownError(why)
        self._pages.refuse(self._unknown)
        return self._unknown

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, of: None) -> None:
        """Copy the database while it is in use. See `Store.backup`."""
        with self._between_commits():
            writer = self._writer
        assert writer is not None
        target = target_of(path)
        try:
            back_up(writer, target, self._between_commits, progress)
        except (apsw.Error, OSError) as error:
            if isinstance(error, StoreError):
                raise
            raise opening.explain(error, str(target)) from error

    def verify(self, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
        """Prove the file, also while it is in use. See `Store.verify` and `verify`."""
        if self._was_forked:
            raise ForkedRuntimeError
        if self._in_memory:
            raise StorePathError(opening.MEMORY, "it is in memory, so there is no file to prove: prove a backup of it")
        return verify(self._path, deep=deep, progress=progress)

    @contextmanager
    def _between_commits(self) -> Iterator[None]:
        with self._committing:
            if self._was_forked:
                raise ForkedRuntimeError
            if self._writer is None:
                raise StoreClosedError
            if self._unknown is not None:
                raise StoreUnknownError(*self._unknown.args) from self._unknown
            yield

    def agent(self, agent: str) -> AgentRecord | None:
        """Return one agent's record, or None if there is none."""
        return self._pages.agent(agent)

    def launched(self, idempotency_key: str) -> AgentRecord | None:
        """Return the agent that was created under a key, or None if there is none."""
        return self._pages.launched(idempotency_key)

    def agents(
        self,
        status: AgentStatus | None = None,
        after: int = 0,
        limit: int = PAGE_ROWS,
        *,
        newest: bool = False,
        within: Sequence[IdRange] | None = None,
    ) -> list[AgentRecord]:
        """Return records in order of creation, or the other way round. See `Store.agents`."""
        return self._pages.agents(status, after, limit, newest=newest, within=within)

    def messages(
        self, agent: str, after: int = 0, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> list[MessageRecord]:
        """Return a page of messages after a sequence; empty at the end. Raises `AgentNotFoundError`."""
        return self._pages.messages(agent, after, limit, max_bytes)

    def keyed(self, agent: str, key: str) -> MessageRecord | None:
        """Return the message of an agent that was stored under a key, or None if there is none."""
        return self._pages.keyed(agent, key)

    def resolve_cursor(self, agent: str, after: int | None, epoch: str | None = None) -> ResolvedCursor:
        """Check a cursor. See `Reader.resolve_cursor`."""
        return self._pages.resolve_cursor(agent, after, epoch)

    def entries(self, agent: str, sequence: int, position: int) -> AgentPage:
        """Return a page of messages and changes of status after a cursor. Raises `AgentNotFoundError`."""
        return self._pages.entries(agent, sequence, position, PAGE_ROWS, PAGE_BYTES)

    def feed(self, after: int) -> FeedPage:
        """Return a page of everything after a position, over all agents."""
        return self._pages.feed(after, PAGE_ROWS, PAGE_BYTES)

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where the log of each of these agents ends; of one that does not exist, nothing."""
        return self._pages.heads(agents)

    def position(self, after: int | None = None, epoch: str | None = None) -> tuple[int, str]:
        """Return the last position of all, and the epoch of a cursor over all. See `Store.position`."""
        return self._pages.position(after, epoch)

    def ask(self, sql: str) -> Any:
        """Return the single value of a query, for settings and tests."""
        return self._pages.ask(sql)
