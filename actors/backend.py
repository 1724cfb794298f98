"""The interface of the two lower layers that the actors use: commit, cast, read.

The actors know the floors below them through `Backend` alone. `InProcess` is a store and a gateway server in the host's
own process; another implementation may reach them in a process of their own. The gateway's requests back (launch, send,
terminate) are its `AgentControl`, which `serve` is given. Must never cast what a commit has not returned.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import Committed
from commitcast.persistence.sqlite.journal import DELETE, checked_mode
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Reader, Report, Store
from commitcast.persistence.writes import AgentWrites, Outcome

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.metrics import Collector
    from commitcast.gateway.server.requests import AgentControl
    from commitcast.gateway.server.server import GatewayServer

Progress = Callable[[int, int], object]
"""Called with what is done and what there is in all."""
Publish = Callable[[Committed], object]
"""Takes what was committed, in order. Returns at once; any thread."""
Notify = Callable[[str, str, str, bool], object]
"""Takes agent, error code, message and whether to retry, of what could not be done. Returns at once; any thread."""
Flush = Callable[[], object]
"""Casts what was taken since the last call. Returns at once; any thread."""


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


class Writer(Protocol):
    """The part of a store that the DatabaseActor is given."""

    @property
    def name(self) -> str:
        """Display name for logs and errors, e.g. the path of the file."""

    def commit(self, work: Sequence[AgentWrites], /) -> list[Outcome]:
        """Write everything in one transaction. See `Store.commit`."""


class Backend(Protocol):
    """A store, and the gateway that serves its subscribers."""

    @property
    def writer(self) -> Writer:
        """Commits. For the DatabaseActor, and for recovery before there is one."""

    @property
    def reader(self) -> Reader:
        """Reads what is committed. Any thread."""

    @property
    def publish(self) -> Publish:
        """Casts what was committed. For the GatewayActor, which takes it once."""

    @property
    def notify(self) -> Notify:
        """Casts what could not be done. For the GatewayActor, which takes it once."""

    @property
    def flush(self) -> Flush:
        """To be called after some of either. For the GatewayActor, which takes it once."""

    @property
    def address(self) -> str | None:
        """Where subscribers connect, `HOST:PORT`; None if there is no port for them."""

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers; None if there is no port for them."""

    def open(self) -> None:
        """Open the store for writing. Raises `StoreOpenError`."""

    def serve(self, control: "AgentControl", numbers: "Collector") -> None:
        """Bind the address; subscribers cannot connect before `accept`. Raises `ListenError`.

        Args:
            control: carries out what clients ask for: launch, send, terminate.
            numbers: of the actors, for the gateway's metrics.
        """

    def accept(self) -> None:
        """Let subscribers connect. Blocks until they can. Raises `ListenError`."""

    def drain(self) -> None:
        """Refuse new subscribers; those that are connected stay."""

    def abandon_waiting(self) -> None:
        """Make a commit that waits for something outside give up. See `Store.abandon_waiting`."""

    def stop_serving(self, *, catch_up_s: float) -> None:
        """Close all connections, once subscribers have caught up or `catch_up_s` is over. Blocks. Idempotent."""

    def close(self) -> None:
        """Close the store. Idempotent."""

    def verify(self, *, deep: bool, progress: Progress) -> Report:
        """Prove what is stored. See `Store.verify`."""

    def backup(self, path: str | os.PathLike[str], progress: Progress) -> None:
        """Copy what is stored. See `Store.backup`."""


class InProcess:
    """A store and a gateway server in the host's own process. Implements `Backend`."""

    def __init__(self, store: Store, server: "GatewayServer | None") -> None:
        """Put them together.

        Args:
            store: not open yet.
            server: not started yet; None if there are no subscribers.
        """
        self.store = store
        self.server = server
        self.writer: Writer = store
        self.reader: Reader = store
        self.publish: Publish = _cast_to_nobody if server is None else server.publish
        self.notify: Notify = _cast_to_nobody if server is None else server.notify
        self.flush: Flush = _cast_to_nobody if server is None else server.flush
        self.verify = store.verify
        self.backup = store.backup
        self.open = store.open
        self.close = store.close
        self.abandon_waiting = store.abandon_waiting

    @property
    def address(self) -> str | None:
        """Where subscribers connect."""
        return None if self.server is None else self.server.address

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers."""
        return None if self.server is None else self.server.url

    def serve(self, control: "AgentControl", numbers: "Collector") -> None:
        """Bind the address. See `Backend.serve`."""
        if self.server is not None:
            self.server.core.requests.control = control
            self.server.core.collectors.append(numbers)
            self.server.start()

    def accept(self) -> None:
        """Let subscribers connect."""
        if self.server is not None:
            self.server.accept()

    def drain(self) -> None:
        """Refuse new subscribers."""
        if self.server is not None:
            self.server.drain()

    def stop_serving(self, *, catch_up_s: float) -> None:
        """Close all connections. See `Backend.stop_serving`."""
        if self.server is not None:
            self.server.stop(catch_up_s=catch_up_s)


def _cast_to_nobody(*_: object) -> None:
    """Take the place of a gateway."""
