"""A store and a gateway in the host's own process: the one form of `Backend`.

For a database in memory, a store or a gateway of the host's own, tests on one thread, and `server="in_process"`. The
file then belongs to this process alone.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from commitcast.actors.backend import Answered, Flush, Forwarded, Notify, OnNews, Publish, Tell, Writer
from commitcast.actors.metrics import CommitStats
from commitcast.actors.sources.processes.registry import is_at_work
from commitcast.persistence.errors import InvalidValueError, NotOwnerError, StoreUnavailableError, StoreUnknownError
from commitcast.persistence.recovery.recover import recover
from commitcast.persistence.sqlite.journal import DELETE, checked_mode
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Reader, Store
from commitcast.persistence.writes import AgentWrites, Outcome

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.metrics import Collector
    from commitcast.gateway.server.requests import AgentControl
    from commitcast.gateway.server.server import GatewayServer

logger: Final = logging.getLogger(__name__)

RETRY_S: Final = 0.5
"""Between two attempts at a commit that the store refuses for the moment."""


def store_of(database: str | os.PathLike[str] | Store, journal_mode: str = DELETE) -> Store:
    """Return a store of one's own as it is, and a SQLite store, which is not open yet, for a path.

    Raises:
        InvalidValueError: it is neither, or the journal mode is not one.
    """
    if isinstance(database, (str, os.PathLike)):
        return SqliteStore(database, journal_mode=journal_mode)
    if isinstance(database, type) or not callable(getattr(database, "commit", None)):
        raise InvalidValueError(f"a database is given as a path or as a Store, not as {database!r:.80}")
    if checked_mode(journal_mode) not in (DELETE, getattr(database, "journal_mode", None)):
        raise InvalidValueError("journal_mode goes with the path of a file: give it to the SqliteStore instead")
    return database


class DirectWriter:
    """Commits to a store on the thread that submits, and again while the store refuses temporarily."""

    answers_later = False

    def __init__(self, store: Store, commits: CommitStats) -> None:
        """Make it; the store may be opened later."""
        self._store = store
        self._commits = commits
        self._has_given_up = threading.Event()

    @property
    def name(self) -> str:
        """Of the store."""
        return self._store.name

    def may_submit(self, _: int) -> bool:
        """Whether a batch is taken now: always."""
        return True

    def give_up(self) -> None:
        """Do not wait any longer for what the store waits for. Any thread."""
        self._has_given_up.set()

    def submit(self, work: Sequence[AgentWrites], rows: int, answered: Answered, _: int) -> int:
        """Commit, and answer on this thread."""
        try:
            answer: list[Outcome] | Exception = self._commit(work, rows)
        except Exception as error:  # also one of our own: then it may be stored or not
            answer = error
        except BaseException as error:  # also of a thread that is told to exit: nobody may wait for ever
            answer = StoreUnknownError(f"the writer of {self.name} failed: {error!r}")
        answered(answer)
        return 0  # the caller knows of every refusal

    def _commit(self, work: Sequence[AgentWrites], rows: int) -> list[Outcome]:
        is_warned = False
        while True:
            began = perf_counter()
            try:
                outcomes = self._store.commit(work)
            except StoreUnavailableError as error:
                self._commits.refusals += 1
                if self._has_given_up.is_set():
                    raise
                if not is_warned:
                    logger.warning("%s: %s; it is retried, and agents wait until it succeeds", self.name, error)
                    is_warned = True
                self._has_given_up.wait(RETRY_S)
            else:
                self._commits.seconds.observe(perf_counter() - began)
                self._commits.sizes.observe(rows)
                return outcomes


class InProcess:
    """A store and a gateway server in the host's own process. Implements `Backend`."""

    can_begin_again = False

    def __init__(self, store: Store, server: "GatewayServer | None") -> None:
        """Put them together.

        Args:
            store: not open yet.
            server: not started yet; None if there are no subscribers.
        """
        self.store = store
        self.gateway = server
        self.commits = CommitStats()
        self.reader: Reader = store
        self.publish: Publish = _cast_to_nobody if server is None else server.publish
        self.notify: Notify = _cast_to_nobody if server is None else server.notify
        self.flush: Flush = _cast_to_nobody if server is None else server.flush
        self.verify = store.verify
        self.backup = store.backup
        self.open = store.open
        self.close = store.close
        self.abandon_waiting = store.abandon_waiting
        self._writer = DirectWriter(store, self.commits)
        self.writer: Writer = self._writer
        self.give_up = self._writer.give_up

    @property
    def address(self) -> str | None:
        """Where subscribers connect."""
        return None if self.gateway is None else self.gateway.address

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers."""
        return None if self.gateway is None else self.gateway.url

    def recover(self) -> int:
        """End the agents that a crash has left behind. See `Backend.recover`."""
        return recover(self.store, is_at_work)

    def begin(
        self, control: "Callable[[], AgentControl]", numbers: "Collector", on_lost: Callable[[Exception], object]
    ) -> None:
        """Bind the address. See `Backend.begin`."""
        if self.gateway is not None:
            self.gateway.core.requests.control = control()
            self.gateway.core.collectors.append(numbers)
            self.gateway.start()

    def accept(self) -> None:
        """Let subscribers connect."""
        if self.gateway is not None:
            self.gateway.accept()

    def drain(self) -> None:
        """Refuse new subscribers."""
        if self.gateway is not None:
            self.gateway.drain()

    def stop_serving(self, *, catch_up_s: float) -> None:
        """Close all connections. See `Backend.stop_serving`."""
        if self.gateway is not None:
            self.gateway.stop(catch_up_s=catch_up_s)

    def casting_by(self, tell: Tell) -> Tell:
        """Return what tells the GatewayActor. See `Backend.casting_by`."""
        return tell

    def owns(self, agent: str) -> bool:
        """Whether an agent is at work in this runtime: there is no other."""
        return True

    def forward(self, method: str, arguments: list[Any], answered: Forwarded) -> None:
        """Refuse: there is no other runtime."""
        answered(NotOwnerError(arguments[0]))

    def watch(self, agent: str, is_on: bool) -> None:
        """Do nothing: there is no other runtime."""

    def tell_news(self, on_news: OnNews) -> None:
        """Do nothing: there is no other runtime."""


def _cast_to_nobody(*_: object) -> None:
    """Take the place of a gateway."""
