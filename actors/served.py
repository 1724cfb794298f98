"""The store and the gateway of the server process, as the actors use them: the other form of `Backend`.

Owns what passes between this runtime and the gateways in the server: what may be cast, the runtime's own door, and the
news of other runtimes. `persistence/remote` has the store's half. Any thread.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from commitcast.actors.backend import Answered, OnNews, Tell
from commitcast.actors.forwarding import Forwarder
from commitcast.actors.host_requests import HostRequests
from commitcast.actors.kernel.dispatch import is_interruptible
from commitcast.actors.messages import GatewayCommand
from commitcast.actors.metrics import CommitStats
from commitcast.persistence.errors import CommitcastError, LinkError
from commitcast.persistence.records import Committed
from commitcast.persistence.remote.frames import Ask, Cast, Frame, News, Notify, Watch, Withdraw
from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.remote.streams import open_stream
from commitcast.persistence.writes import AgentWrites, Outcome

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.process.settings import DoorSettings
    from commitcast.gateway.server.access.verifying import Verification
    from commitcast.gateway.server.metrics import Collector
    from commitcast.gateway.server.requests import AgentControl

logger: Final = logging.getLogger(__name__)

DRAIN_S: Final = 1.0
"""For the server to take note. It does so at once, unless it is stopped."""
CLOSE_S: Final = 10.0
"""For the server to close the door, after subscribers had their time to catch up."""


class BatchWriter:
    """Sends batches to the writer in the server."""

    answers_later = True

    def __init__(self, store: RemoteStore, commits: CommitStats) -> None:
        """Make it; the store may be opened later."""
        self._store = store
        self._commits = commits
        self.may_submit = store.commits.may_submit

    @property
    def name(self) -> str:
        """Of the store."""
        return self._store.name

    def submit(self, work: Sequence[AgentWrites], rows: int, answered: Answered, after: int) -> int:
        """Send a batch; the answer comes on the thread `commits`."""
        began = perf_counter()

        def observe(answer: list[Outcome] | Exception) -> None:
            self._commits.seconds.observe(perf_counter() - began)
            self._commits.sizes.observe(rows)
            answered(answer)

        return self._store.commits.submit(work, observe, after)


def _may_receive() -> bool:
    """Whether the loop of this thread may take the turns of actors: Ctrl-C must not end one in the middle."""
    return not is_interruptible()


class ServedGateway:
    """The door of a runtime in the server process, for an ASGI app of the host. Any loop."""

    def __init__(self, backend: "Served") -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"<ServedGateway at {self.address or 'an ASGI app'}>"

    @property
    def address(self) -> str | None:
        """Where subscribers connect, `HOST:PORT`; None if there is no port for them."""
        return self._backend.address

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers; None if there is no port for them."""
        return self._backend.url

    async def open_tunnel(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the gateway for one request. See `TunnelOpener`.

        Raises:
            OSError: the gateway does not serve now.
            CommitcastError: as well.
        """
        return await open_stream(self._backend.store)


class Served:
    """A store and gateways in the server process. Implements `Backend`."""

    can_begin_again = True

    def __init__(
        self,
        store: RemoteStore,
        door: "DoorSettings | None",
        verifier: "Verification | None",
        templates: Sequence[str],
    ) -> None:
        """Put them together; nothing is started.

        Args:
            store: not open yet.
            door: how subscribers connect; None if this runtime has no door of its own.
            verifier: of the tokens that they present.
            templates: names of what clients may launch in this runtime, by any door.
        """
        self.store = store
        self.reader = store
        self.commits = CommitStats()
        self.writer = BatchWriter(store, self.commits)
        self.address: str | None = None
        self.url: str | None = None
        self.close = store.close
        self.verify = store.verify
        self.backup = store.backup
        self.give_up = self.abandon_waiting = store.abandon_waiting
        self.owns = store.commits.owns
        self.forward = Forwarder(store.asking.ask).forward
        self._door = door
        self._answers = True
        """Whether the server has answered when it was last told something of the door."""
        self._verifier = verifier
        self._templates = list(templates)
        self._gateway = ServedGateway(self)
        self._positions: list[int] = []
        self._on_news: OnNews = lambda agent, is_end: None
        self._requests: HostRequests | None = None

    @property
    def gateway(self) -> Any:
        """What `gateway.asgi` serves."""
        return None if self._door is None else self._gateway

    # Its life.

    def open(self) -> None:
        """Attach to the server. See `Backend.open`."""
        self._positions = []
        self.store.on_frame = self._on_frame
        self.store.may_lend = _may_receive
        self.store.open()

    def recover(self) -> int:
        """Return how many agents the server has recovered, if this runtime has started it."""
        return self.store.recovered

    def begin(
        self, control: "Callable[[], AgentControl]", numbers: "Collector", on_lost: Callable[[Exception], object]
    ) -> None:
        """Open the door. See `Backend.begin`."""
        self._requests = HostRequests(control, self._verifier, numbers, self.store.send)
        self.store.call_when_lost(on_lost)
        if self._templates:
            self.store.ask("offer", self._templates)
        if self._door is not None:
            opened = self.store.ask("open_door", msgspec.to_builtins(self._door, builtin_types=(bytes,)))
            self.address, self.url = opened["address"], opened["url"]

    def accept(self) -> None:
        """Let subscribers connect. See `Backend.accept`."""
        if self._door is not None:
            self.store.ask("accept")

    def drain(self) -> None:
        """Refuse new subscribers. See `Backend.drain`."""
        self._answers = self._tell_door("drain", timeout=DRAIN_S)

    def stop_serving(self, *, catch_up_s: float) -> None:
        """Close the door. See `Backend.stop_serving`."""
        self._tell_door("close_door", catch_up_s, timeout=catch_up_s + CLOSE_S if self._answers else DRAIN_S)
        if self._requests is not None:
            self._requests.stop()

    def _tell_door(self, method: str, *arguments: Any, timeout: float) -> bool:
        """Return whether the server has answered."""
        if self._door is not None:
            try:
                self.store.ask(method, *arguments, timeout=timeout)
            except CommitcastError as error:  # the server is gone, and the door with it; or it is stopped
                logger.info("the door was not closed in order: %s", error)
                return False
        return True

    # Casting. In the turns of the GatewayActor.

    def casting_by(self, tell: Tell) -> Tell:
        """Return what tells the GatewayActor while there are subscribers. See `Backend.casting_by`."""

        def tell_if_heard(message: GatewayCommand) -> None:
            if self.store.is_casting:
                tell(message)

        return tell_if_heard

    def publish(self, committed: Committed) -> None:
        """Have the server cast what it has kept. See `Backend.publish`."""
        if self.store.is_casting:
            self._positions.append(committed.last_position)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Have the server tell subscribers. See `Backend.notify`."""
        if self.store.is_casting:
            self.store.send(Notify(agent, code, message, retry))

    def flush(self) -> None:
        """Send what was published. See `Backend.flush`."""
        if self._positions:
            positions, self._positions = self._positions, []
            self.store.send(Cast(positions))

    # Other runtimes.

    def watch(self, agent: str, is_on: bool) -> None:
        """Begin or stop being told of an agent. See `Backend.watch`."""
        self.store.send(Watch(agent, is_on))

    def tell_news(self, on_news: OnNews) -> None:
        """Set what is told. See `Backend.tell_news`."""
        self._on_news = on_news

    # On the thread `requests`.

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case Ask():
                if self._requests is not None:
                    self._requests.perform(frame)
            case Withdraw(id):
                if self._requests is not None:
                    self._requests.withdraw(id)
            case News(agent, is_end):
                self._on_news(agent, is_end)
            case _:
                raise LinkError(f"a {type(frame).__name__} came from the server")
