"""The interface of the two lower layers that the actors use: commit, cast, read.

The actors know the floors below them through `Backend` alone. There are two forms of it: a store and a gateway in the
host's own process (`in_process.py`), and those of the server process, by its sockets (`served.py`). The gateway's
requests back (launch, send, terminate) are its `AgentControl`, which `begin` is given. Must never cast what a commit
has not returned.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from commitcast.actors.messages import GatewayCommand
from commitcast.actors.metrics import CommitStats
from commitcast.persistence.records import AgentRecord, Committed, MessageRecord
from commitcast.persistence.store import Reader, Report, Store
from commitcast.persistence.writes import AgentWrites, Outcome

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.metrics import Collector
    from commitcast.gateway.server.requests import AgentControl

Progress = Callable[[int, int], object]
"""Called with what is done and what there is in all."""
Publish = Callable[[Committed], object]
"""Takes what was committed, in order. Returns at once; any thread."""
Notify = Callable[[str, str, str, bool], object]
"""Takes agent, error code, message and whether to retry, of what could not be done. Returns at once; any thread."""
Flush = Callable[[], object]
"""Casts what was taken since the last call. Returns at once; any thread."""
Answered = Callable[[list[Outcome] | Exception], object]
"""Takes the outcomes of a batch, one for each `AgentWrites`; or `NotStoredError` if nothing of it was stored, or
another error if that is not known. Called once."""
Forwarded = Callable[[AgentRecord | MessageRecord | Exception], object]
"""Takes the answer of another runtime, or its error. Called once, on any thread; must not block."""
OnNews = Callable[[str, bool], object]
"""Takes an agent of which something was committed, and whether it has ended. Any thread; must not block."""


Tell = Callable[[GatewayCommand], None]
"""Tells the GatewayActor of a commit, or of what could not be done."""


class Writer(Protocol):
    """Commits batches. For the DatabaseActor alone."""

    answers_later: bool
    """Whether `submit` returns at once, and its answer comes on another thread; else the answer comes first."""

    @property
    def name(self) -> str:
        """Display name for logs and errors, e.g. the path of the file."""

    def may_submit(self, rows: int, /) -> bool:
        """Whether a batch with that many writes is taken now; else once another one is answered."""

    def submit(self, work: Sequence[AgentWrites], rows: int, answered: Answered, after: int, /) -> int:
        """Write everything in one transaction; see `Store.commit`. Return the number of the batch, which rises.

        Args:
            work: of each agent at most one.
            rows: how many writes these are.
            answered: takes what became of it.
            after: the number of the last batch of whose refusals the caller knows. Messages of an agent are refused
                after one that was refused in a later batch.
        """


class Backend(Protocol):
    """A store, and the gateway that serves its subscribers."""

    commits: CommitStats
    can_begin_again: bool
    """Whether it can be opened again once it is closed."""

    @property
    def writer(self) -> Writer:
        """Commits. For the DatabaseActor."""

    @property
    def store(self) -> Store:
        """For the host, to read from."""

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

    def casting_by(self, tell: Tell) -> Tell:
        """Return what tells the GatewayActor if there may be subscribers, given what tells it in any case."""

    @property
    def gateway(self) -> Any:
        """What `gateway.asgi` serves; None if there is no gateway."""

    @property
    def address(self) -> str | None:
        """Where subscribers connect, `HOST:PORT`; None if there is no port for them."""

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers; None if there is no port for them."""

    def open(self) -> None:
        """Open the store for writing. Raises `StoreOpenError`."""

    def recover(self) -> int:
        """End the agents that a crash has left behind; return how many. Before there is a DatabaseActor."""

    def begin(
        self, control: "Callable[[], AgentControl]", numbers: "Collector", on_lost: Callable[[Exception], object]
    ) -> None:
        """Bind the address; subscribers cannot connect before `accept`. Raises `ListenError`.

        Args:
            control: makes what carries out the requests of clients: launch, send, terminate.
            numbers: of the actors, for the gateway's metrics.
            on_lost: called once, on any thread, if the server process ends: nothing more can be written or read then,
                and the next server reports the agents of this runtime as ended.
        """

    def accept(self) -> None:
        """Let subscribers connect. Blocks until they can. Raises `ListenError`."""

    def drain(self) -> None:
        """Refuse new subscribers; those that are connected stay."""

    def give_up(self) -> None:
        """Do not wait any longer for a full disk, a lock and the like. Any thread."""

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

    # Other runtimes of the same file.

    def owns(self, agent: str) -> bool:
        """Whether an agent that has not ended is at work in this runtime. Any thread."""

    def forward(self, method: str, arguments: list[Any], answered: Forwarded) -> None:
        """Have the runtime that an agent is at work in do what `AgentControl` does. Any thread; returns at once.

        Args:
            method: `send` or `terminate`.
            arguments: of it; the first is the agent.
            answered: takes the record.
        """

    def watch(self, agent: str, is_on: bool) -> None:
        """Begin or stop telling `on_news` what other runtimes commit of an agent. Any thread; returns at once."""

    def tell_news(self, on_news: OnNews) -> None:
        """Set what is told."""
