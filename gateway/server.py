"""The gateway's server: one thread with one event loop for all sockets.

Owns the sockets, the reader threads and the clock of the hub. Other threads reach it through `publish` and `notify`,
which hand over and return at once. Must never delay a commit: what the loop cannot take in time is left to the store.
"""

import asyncio
import logging
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from commitcast.gateway import frames
from commitcast.gateway.access import Access, parse_address
from commitcast.gateway.connection import WRITE_LIMIT_BYTES, GatewayConnection
from commitcast.gateway.errors import CloseCode, ErrorCode, ListenError
from commitcast.gateway.http import error_response, respond
from commitcast.gateway.hub import Effect, Hub, Read, Subscriber, Subscription, Write
from commitcast.gateway.session import MAX_SUBSCRIPTIONS, Session
from commitcast.persistence.errors import AgentNotFoundError, StoreError
from commitcast.persistence.records import Committed
from commitcast.persistence.store import AgentPage, FeedPage, Store

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_S: Final = 15.0
"""Under the thirty seconds after which proxies close what is silent."""
REPAIR_S: Final = 1.0
"""How long a commit may be missing from the log of all agents before it is read from the store."""
READERS: Final = 4
PUMP_STEPS: Final = 256
"""Effects performed before the loop gets to its sockets again."""
HANDED_OVER_BYTES: Final = 64 * 1024 * 1024
"""Commits waiting for the loop; beyond this they are dropped here, and read from the store."""
CLOSE_TIMEOUT_S: Final = 2.0
RECONNECT_MS: Final = (200, 2_000)
"""Clients of a server that stops come back spread over this."""


class GatewayServer:
    """Streams what is committed to WebSocket subscribers, and answers one-shot reads."""

    def __init__(
        self,
        store: Store,
        listen: str,
        *,
        token: str | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Make a server; nothing listens yet.

        Args:
            store: to read from; open before `start`.
            listen: `HOST:PORT`; port 0 takes a free one.
            token: what clients must present; None is for loopback only.
            allowed_hosts: further names that a Host header may have.
            allowed_origins: further origins that pages may have.
            heartbeat_s: seconds between heartbeats.

        Raises:
            ListenError: the address is none, or needs a token.
        """
        self.store = store
        self.hub = Hub()
        self._host, self._port = parse_address(listen)
        self.access = Access(self._host, token=token, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins)
        self._heartbeat_s = heartbeat_s
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gateway-reader")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._stopping: asyncio.Event | None = None
        self._handed_over: deque[Committed | frames.Error] = deque()
        self._handed_over_bytes = 0
        self._lock = threading.Lock()
        self._sessions: dict[GatewayConnection, Session] = {}
        self._reads: dict[tuple[str, int, int], asyncio.Task[AgentPage | FeedPage]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pumping: Iterator[Effect] | None = None
        self._pump_scheduled = False
        self._version = metadata.version("commitcast")

    @property
    def address(self) -> str:
        """Where it listens, with the port that it got."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    # From other threads.

    def start(self) -> None:
        """Take the address. Blocks until it is bound; nobody can connect before `accept`.

        Raises:
            ListenError: it cannot be bound.
        """
        ready: deque[BaseException | None] = deque()
        bound = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready, bound), name="gateway", daemon=True)
        self._thread.start()
        bound.wait()
        error = ready[0]
        if error is not None:
            self._thread.join()
            self._readers.shutdown()
            raise error

    def accept(self) -> None:
        """Let clients connect. Blocks until they can."""
        assert self._loop is not None and self._server is not None
        asyncio.run_coroutine_threadsafe(self._server.start_serving(), self._loop).result()

    def stop(self, *, catch_up_s: float = 0.0) -> None:
        """Say goodbye to everybody and stop. Idempotent. Blocks.

        Args:
            catch_up_s: how long subscribers may take to get what is committed already.
        """
        if self._thread is None or self._loop is None or not self._thread.is_alive():
            return
        if catch_up_s > 0:
            asyncio.run_coroutine_threadsafe(self._wait_caught_up(catch_up_s), self._loop).result()
        stopping = self._stopping
        assert stopping is not None
        self._loop.call_soon_threadsafe(stopping.set)
        self._thread.join()
        self._readers.shutdown()

    def publish(self, committed: Committed) -> None:
        """Hand over what was committed. Returns at once."""
        with self._lock:
            if self._handed_over_bytes > HANDED_OVER_BYTES:
                return  # the loop will find it in the store: `_take` looks after it has been late
            first = not self._handed_over
            self._handed_over.append(committed)
            self._handed_over_bytes += committed.size + 512 * len(committed.entries)
        if first:
            self._wake()

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Hand over word of something that was refused. Returns at once."""
        with self._lock:
            first = not self._handed_over
            self._handed_over.append(frames.Error(agent=agent, code=code, message=message, retry=retry))
        if first:
            self._wake()

    def _wake(self) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:  # stopped meanwhile: there is nobody to tell
            pass

    # On the loop.

    def _run(self, ready: deque[BaseException | None], bound: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve(ready, bound))

    async def _serve(self, ready: deque[BaseException | None], bound: threading.Event) -> None:
        self._stopping = asyncio.Event()
        try:
            server = self._server = await serve(
                self._handle,
                self._host,
                self._port,
                process_request=self._process_request,
                subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
                select_subprotocol=_select_subprotocol,
                create_connection=GatewayConnection,
                compression=None,
                max_size=frames.MAX_FRAME_BYTES,
                max_queue=16,
                write_limit=WRITE_LIMIT_BYTES,
                open_timeout=5,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header=None,
                start_serving=False,
            )
        except OSError as error:
            ready.append(
                ListenError(self.address, f"{error.strerror or error}: choose another port, or stop who has it")
            )
            bound.set()
            return
        self._port = server.sockets[0].getsockname()[1]
        ready.append(None)
        bound.set()
        self._spawn(self._beat())
        self._spawn(self._repair())
        await self._stopping.wait()
        for task in list(self._tasks):
            task.cancel()
        await self._say_goodbye()
        server.close(code=CloseCode.DRAIN, reason="the server stops")
        await server.wait_closed()

    async def _say_goodbye(self) -> None:
        for session in list(self._sessions.values()):
            reconnect_ms = random.randint(*RECONNECT_MS)
            self._spawn(session.close(CloseCode.DRAIN, "the server stops", reconnect_ms))
        await asyncio.sleep(0)  # let each write its frame before the listener is closed

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the store on a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, GatewayConnection)
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if not self.access.allows_host(host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "this server is not known by that Host")
        if not self.access.allows_origin(origin, host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "pages of that Origin may not use this server")
        if getattr(request, "method", "GET") != "GET":
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", "only GET is answered here")
        connection.is_authenticated = self.access.accepts_header(request.headers.get("Authorization"))
        path = request.path.partition("?")[0]
        if path == "/v1/ws":
            return None
        if not connection.is_authenticated and path != "/healthz":
            return error_response(HTTPStatus.UNAUTHORIZED, "unauthenticated", "send Authorization: Bearer TOKEN")
        return await self.read(respond, self.store, request.path)

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GatewayConnection)
        session = self._sessions[connection] = Session(self, connection)
        connection.listener = self
        welcome = frames.Welcome(
            protocol=frames.SUBPROTOCOL,
            server=f"commitcast/{self._version}",
            session=secrets.token_hex(8),
            heartbeat_s=self._heartbeat_s,
            limits={
                "control_bytes": frames.MAX_CONTROL_BYTES,
                "content_bytes": frames.MAX_CONTENT_BYTES,
                "subscriptions": MAX_SUBSCRIPTIONS,
            },
        )
        connection.write(frames.encode(welcome))
        try:
            await session.run()
        finally:
            connection.listener = None
            self.hub.disconnect(connection.subscriber)
            del self._sessions[connection]

    def pause(self, subscriber: Subscriber) -> None:
        """A connection takes no more."""
        self.hub.pause(subscriber)

    def resume(self, subscriber: Subscriber) -> None:
        """A connection takes more again."""
        self.hub.resume(subscriber)
        self.schedule_pump()

    def _take(self) -> None:
        with self._lock:
            taken, self._handed_over = self._handed_over, deque()
            late = self._handed_over_bytes > HANDED_OVER_BYTES
            self._handed_over_bytes = 0
        for fact in taken:
            if isinstance(fact, Committed):
                self.hub.publish(fact)
            else:
                self.hub.notify(fact.agent or "", fact.code, fact.message, fact.retry)
        if late:
            self._spawn(self._recheck())
        self._pump()

    def schedule_pump(self) -> None:
        """Have the hub's effects performed soon."""
        if not self._pump_scheduled and self._loop is not None:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._pumping is None:
            self._pumping = self.hub.pump()
        for _ in range(PUMP_STEPS):
            effect = next(self._pumping, None)
            if effect is None:
                self._pumping = None
                return
            self._perform(effect)
        self.schedule_pump()

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            effect.subscriber.peer.write(effect.data)
        else:
            self._spawn(self._read_page(effect))

    async def _read_page(self, effect: Read) -> None:
        subscription = effect.subscription
        try:
            page = await self._shared_page(subscription)
        except AgentNotFoundError as error:
            self.hub.unsubscribe(subscription.subscriber, subscription.agent)
            gone = frames.Error(agent=subscription.agent, code=ErrorCode.GONE.value, message=str(error), retry=False)
            subscription.subscriber.peer.write(frames.encode(gone))
        except StoreError as error:
            logger.warning("cannot read on for a subscriber to %s: %s", subscription.agent, error)
            self.hub.page_failed(subscription)
        else:
            for written in self.hub.page(subscription, page):
                self._perform(written)
            self.schedule_pump()

    async def _shared_page(self, subscription: Subscription) -> AgentPage | FeedPage:
        """Read a page, together with everybody who waits for the same one."""
        key = (subscription.agent, subscription.cursor, subscription.position)
        task = self._reads.get(key)
        if task is None:
            reading = (
                self.read(self.store.feed, subscription.position)
                if subscription.is_to_all
                else self.read(self.store.entries, subscription.agent, subscription.cursor, subscription.position)
            )
            task = self._reads[key] = self._spawn(reading)
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        return await asyncio.shield(task)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            heads = await self._recheck()
            for connection in list(self._sessions):
                known = {agent: heads[agent] for agent in connection.subscriber.subscriptions if agent in heads}
                if not connection.subscriber.is_paused:
                    connection.write(frames.encode(frames.Heartbeat(heads=known)))

    async def _recheck(self) -> dict[str, int]:
        try:
            heads = await self.read(self.store.heads, self.hub.agents)
            heads[frames.ALL] = (await self.read(self.store.position))[0]
        except StoreError as error:
            logger.warning("cannot read the heads for a heartbeat: %s", error)
            return {}
        self.hub.recheck(heads)
        self.schedule_pump()
        return heads

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_S)
            self.hub.repair()
            self.schedule_pump()

    async def _wait_caught_up(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            unsent = any(connection.unsent_bytes for connection in self._sessions)
            if not self._handed_over and self._pumping is None and not unsent and self.hub.has_caught_up:
                return
            await asyncio.sleep(0.01)


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose ours if it is offered; a client that offers none gets it too."""
    return next((name for name in offered if name == frames.SUBPROTOCOL), None)
