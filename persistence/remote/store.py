"""The host's half of a store in the server process: attached when it is opened, and a `Store` like any other.

Owns the two connections and the threads of their loops, `commits` and `requests`. What is read is read by the server.
The parts of the runtime that concern its gateway use the same connection through `requests` (`ask`, `send`, `listen`).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, Final

from commitcast.persistence import fork
from commitcast.persistence.errors import (
    CommitcastError,
    ForkedRuntimeError,
    LinkError,
    ServerError,
    ServerLostError,
    StoreClosedError,
    StoreReadTimeoutError,
)
from commitcast.persistence.paths import absolute, real
from commitcast.persistence.read_timeout import remaining_s
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.remote.asking import Asking, ThreadWaiter, Waiter
from commitcast.persistence.remote.commits import Commits
from commitcast.persistence.remote.connections import Connect, Connections, connect
from commitcast.persistence.remote.frames import Abandon, Answer, Casting, Frame, Log, Settings, Waiting
from commitcast.persistence.remote.frames import Progress as ProgressFrame
from commitcast.persistence.remote.unsendable import Replaced
from commitcast.persistence.remote.values import LONG, READS
from commitcast.persistence.store import (
    PAGE_BYTES,
    PAGE_ROWS,
    READERS,
    AgentPage,
    FeedPage,
    Head,
    IdRange,
    Progress,
    Report,
    ResolvedCursor,
)
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)

READS_AT_ONCE: Final = READERS
"""Of one host; further threads wait here, so that a host has few pages on their way to it."""
LONG_AT_ONCE: Final = 4
"""Verifications and backups of one host; the server reads the whole file for each."""
DETACH_S: Final = 5.0
"""For the server to take note of an ordered end."""

OnLost = Callable[[CommitcastError], object]


class RemoteStore:
    """A store in the server process of its file. Implements `Store`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal_mode: str,
        connect: Connect = connect,
        waiter: Callable[[], Waiter] = ThreadWaiter,
    ) -> None:
        """Make it; nothing is started yet.

        Args:
            path: of the database file.
            journal_mode: as for `SqliteStore`; the same for all hosts.
            connect: opens the connections with the server.
            waiter: makes what waits for an answer.
        """
        self._path = absolute(path)
        self._settings = Settings(journal_mode)
        self._connect = connect
        self._waiter = waiter
        self._reading = threading.BoundedSemaphore(READS_AT_ONCE)
        self._long = threading.BoundedSemaphore(LONG_AT_ONCE)
        self._lock = threading.Lock()
        self._connections: Connections | None = None
        self._on_lost: OnLost | None = None
        self.may_lend: Callable[[], bool] = lambda: True
        """Whether the event loop of this thread may receive answers. Asked with each batch."""
        self._is_closing = False
        self._has_abandoned = False
        self._refusal: CommitcastError | None = StoreClosedError()
        """Why nothing can be asked now; None: the server is there."""
        self.waits_for: str | None = None
        """Why a commit is kept waiting; None if none is. Any thread."""
        self.recovered = 0
        """How many agents a crash had left behind, if this has started the server."""
        self.is_casting = False
        """Whether the server has subscribers to cast to, as it has told."""
        self.on_frame: Callable[[Frame], object] = _unexpected
        """Takes the frames that are not answers: what the server asks and tells. On the loop of requests."""
        self.asking = Asking(self.send, ServerError)
        self.commits = Commits(self._send_commit)
        self.on_commit = self.commits.on_frame
        """Takes the frames of the connection for commits. On its loop."""

    @property
    def name(self) -> str:
        """Display name for logs and errors: the path of the file."""
        return str(self._path)

    @property
    def journal_mode(self) -> str:
        """The journal mode of the file."""
        return self._settings.journal_mode

    @property
    def address(self) -> str:
        """Of the server's socket; empty before it is open."""
        return "" if self._connections is None else self._connections.address

    @property
    def session(self) -> str:
        """Of this host, as the server names it; empty before it is open."""
        return "" if self._connections is None else self._connections.welcome.session

    @property
    def server_pid(self) -> int:
        """The server's process; 0 before it is open."""
        return 0 if self._connections is None else self._connections.welcome.pid

    # Its life.

    def open(self) -> None:
        """Attach to the server of the file, and start it if there is none. Again after `close` only. Blocks.

        Raises:
            StoreOpenError: the file cannot be used, or is served in another way.
            ForkedRuntimeError: it was open when this process was forked.
        """
        if isinstance(self._refusal, ForkedRuntimeError):
            raise copy(self._refusal)
        self._path = real(self._path)
        connections = self._connect(self._path, self._settings, self)
        welcome = connections.welcome
        self.recovered, self.is_casting, self.waits_for = welcome.recovered, welcome.is_casting, welcome.waits_for
        self.asking.begin()
        self.commits.begin()
        self._is_closing, self._on_lost = False, None
        self._connections, self._refusal = connections, None
        fork.register(self)
        try:
            connections.begin()
        except BaseException:  # no thread can be started, or Ctrl-C: nothing stays open
            self._end(connections)
            raise
        if self._has_abandoned:
            self.send(Abandon())

    def close(self) -> None:
        """Detach: agents of this host that are still at work are ended by the server. Idempotent."""
        connections = self._connections
        if self._is_closing or connections is None:
            return
        self._is_closing = True
        try:
            self.ask("detach", timeout=DETACH_S)
        except CommitcastError:  # it is gone, or stopped: the end of the connection says the same
            pass
        finally:  # Ctrl-C too: a later call would find it closing
            self._end(connections)

    def _end(self, connections: Connections) -> None:
        self._is_closing, self._has_abandoned = True, False
        self._lose(StoreClosedError())
        connections.close()
        self._connections = None
        fork.forget(self)

    def call_when_lost(self, function: OnLost) -> None:
        """Have a function called once if the server ends before this is closed; at once if it has ended already.

        It is called before those who wait for an answer are told. Any thread; it must not block.
        """
        with self._lock:
            self._on_lost = function
            refusal = self._refusal
        if isinstance(refusal, ServerLostError):
            function(refusal)

    def on_end(self, error: Exception | None) -> None:
        """Take note that a connection has ended: the server is gone, or this is closed. Any thread."""
        why = None if error is None else str(error)
        self._lose(StoreClosedError() if self._is_closing else ServerLostError(self.name, why))

    def _lose(self, error: CommitcastError) -> None:
        """Refuse everything from now on, if this is the first time, and answer what waits."""
        with self._lock:
            if self._refusal is not None:
                return
            self._refusal, told, connections = error, self._on_lost, self._connections
        if isinstance(error, ServerLostError):
            logger.critical("%s", error)
            if told is not None:
                told(error)
        self.asking.lose(error)
        self.commits.lose(error)
        if connections is not None:
            connections.end()

    def _drop_in_child(self) -> None:
        """Close the connections in a forked child, and refuse every call."""
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.drop_in_child()
        self._refusal, self._lock = ForkedRuntimeError(), threading.Lock()
        self.asking, self.commits = Asking(self.send, ServerError), Commits(self._send_commit)
        self.asking.lose(self._refusal)
        self.commits.lose(self._refusal)

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise copy(self._refusal)

    # The connection for requests.

    def send(self, frame: Frame) -> None:
        """Send a frame to the server. Any thread; never blocks. After its end it is dropped."""
        if self._connections is not None:
            self._connections.send_request(frame)

    def ask(self, method: str, *arguments: Any, timeout: float | None = None, progress: Progress | None = None) -> Any:
        """Ask the server and wait for the answer. Blocks.

        Args:
            method: what to do.
            arguments: of it.
            timeout: seconds to wait; None: until there is an answer, or the server is gone.
            progress: called on this thread while it goes on.

        Raises:
            CommitcastError: the answer is that error; or this is not open, or the server is gone.
            StoreReadTimeoutError: there was no answer in time.
        """
        self._check_open()
        waiter = self._waiter()
        number = self.asking.ask(
            method, list(arguments), waiter.answer, timeout=timeout, progress=None if progress is None else waiter.note
        )
        try:
            return waiter.wait(timeout, progress)
        except BaseException:  # Ctrl-C too
            self.asking.forget(number)
            raise

    def on_request(self, frame: Frame, size: int) -> None:
        """Take a frame of the server. On the loop of requests."""
        match frame:
            case Answer():
                self.asking.on_answer(frame)
            case ProgressFrame():
                self.asking.on_progress(frame)
            case Waiting(for_what):
                self.waits_for = for_what
            case Casting(is_on):
                self.is_casting = is_on
                self.send(frame)  # from here on what is committed is cast from here
            case Log(name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case _:
                self.on_frame(frame)

    # As a store.

    def _send_commit(self, frame: Frame) -> None:
        if self._connections is not None:
            self._connections.send_commit(frame)
            if self.may_lend():
                self._connections.offer()

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write everything in one transaction and return once it is on disk. See `Store.commit`."""
        self._check_open()
        waiter = self._waiter()
        sendable = Replaced(work)  # the writes of a runtime are checked when they are made
        self.commits.submit(sendable.work, lambda answer: waiter.answer(sendable.put_right(answer)))
        outcomes: list[Outcome] = waiter.wait(None)
        return outcomes

    def abandon_waiting(self) -> None:
        """Make batches of this host that wait for something outside give up. See `Store.abandon_waiting`."""
        self._has_abandoned = True
        self.send(Abandon())

    def verify(self, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
        """Have the server verify the file. See `Store.verify`."""
        self._check_open()
        with self._long:
            report: Report = LONG["verify"].unpack(self.ask("verify", deep, progress=progress))
        return report

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, of: None) -> None:
        """Have the server copy what is committed. See `Store.backup`."""
        self._check_open()
        with self._long:
            self.ask("backup", str(absolute(path)), progress=progress)

    # Reading.

    def _read(self, method: str, *arguments: Any) -> Any:
        self._check_open()
        left_s = remaining_s()
        if not self._reading.acquire(timeout=left_s):
            raise StoreReadTimeoutError
        try:
            return READS[method].unpack(self.ask(method, *arguments, timeout=remaining_s()))
        finally:
            self._reading.release()

    def agent(self, agent: str) -> AgentRecord | None:
        """Return one agent's record. See `Reader.agent`."""
        record: AgentRecord | None = self._read("agent", agent)
        return record

    def launched(self, idempotency_key: str) -> AgentRecord | None:
        """Return the agent that was created under a key. See `Reader.launched`."""
        record: AgentRecord | None = self._read("launched", idempotency_key)
        return record

    def agents(
        self,
        status: AgentStatus | None = None,
        after: int = 0,
        limit: int = PAGE_ROWS,
        *,
        newest: bool = False,
        within: Sequence[IdRange] | None = None,
    ) -> list[AgentRecord]:
        """Return a page of records. See `Reader.agents`."""
        records: list[AgentRecord] = self._read("agents", status, after, limit, newest, within)
        return records

    def messages(
        self, agent: str, after: int = 0, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> list[MessageRecord]:
        """Return a page of messages. See `Reader.messages`."""
        records: list[MessageRecord] = self._read("messages", agent, after, limit, max_bytes)
        return records

    def keyed(self, agent: str, key: str) -> MessageRecord | None:
        """Return the message that was stored under a key. See `Reader.keyed`."""
        record: MessageRecord | None = self._read("keyed", agent, key)
        return record

    def resolve_cursor(self, agent: str, after: int | None, epoch: str | None = None) -> ResolvedCursor:
        """Check a cursor. See `Reader.resolve_cursor`."""
        cursor: ResolvedCursor = self._read("resolve_cursor", agent, after, epoch)
        return cursor

    def entries(
        self, agent: str, sequence: int, position: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> AgentPage:
        """Return a page of one agent's entries. See `Reader.entries`."""
        page: AgentPage = self._read("entries", agent, sequence, position, limit, max_bytes)
        return page

    def feed(self, after: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES) -> FeedPage:
        """Return a page of all agents' entries. See `Reader.feed`."""
        page: FeedPage = self._read("feed", after, limit, max_bytes)
        return page

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where logs end. See `Reader.heads`."""
        heads: dict[str, Head] = self._read("heads", list(agents))
        return heads

    def position(self, after: int | None = None, epoch: str | None = None) -> tuple[int, str]:
        """Return the last position of all. See `Reader.position`."""
        position: tuple[int, str] = self._read("position", after, epoch)
        return position


def _unexpected(frame: Frame) -> None:
    raise LinkError(f"a {type(frame).__name__} was not expected")
