"""The gateway's server: one thread with one event loop for all sockets.

Owns the sockets, the reader threads and the clock of the hub. Other threads reach it through `publish` and `notify`,
which hand over and return at once. Must never delay a commit: what the loop cannot take in time is left to the store.
"""

import asyncio
import random
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final
from weakref import WeakSet

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from commitcast.gateway import frames, web
from commitcast.gateway.access import Access, parse_address
from commitcast.gateway.connection import CLOSE_TIMEOUT_S, WRITE_LIMIT_BYTES, GatewayConnection
from commitcast.gateway.errors import CloseCode, ListenError
from commitcast.gateway.handover import Handover
from commitcast.gateway.http import error_response, respond
from commitcast.gateway.hub import Subscriber
from commitcast.gateway.pump import Pump
from commitcast.gateway.session import MAX_SUBSCRIPTIONS, Session
from commitcast.persistence.records import Committed
from commitcast.persistence.store import Store

HEARTBEAT_S: Final = 15.0
"""Under the thirty seconds after which proxies close what is silent."""
REPAIR_S: Final = 1.0
"""How long a commit may be missing from the log of all agents before it is read from the store."""
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
        self._host, self._port = parse_address(listen)
        self._access = Access(self._host, token=token, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins)
        self._heartbeat_s = heartbeat_s
        self._pump = Pump(store)
        self._handover = Handover(lambda: self._call(self._take))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._bound: Future[None] = Future()
        self._accepting = threading.Event()
        self._stopping = asyncio.Event()
        self._catch_up_s = 0.0
        self._is_closing = False
        self._connections: WeakSet[GatewayConnection] = WeakSet()
        self._sessions: dict[GatewayConnection, Session] = {}
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
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        try:
            self._bound.result()
        except Exception:
            self._thread.join()
            self._pump.close()
            raise

    def accept(self) -> None:
        """Let clients connect. Blocks until they can, or the server was stopped."""
        assert self._thread is not None
        self._call(lambda: self._pump.spawn(self._accept()))
        self._accepting.wait()

    def stop(self, *, catch_up_s: float = 0.0) -> None:
        """Say goodbye to everybody and stop. Idempotent. Blocks.

        Args:
            catch_up_s: how long subscribers may take to get what is committed already.
        """
        if self._thread is None:
            return
        self._catch_up_s = catch_up_s
        self._call(self._stopping.set)
        self._thread.join()
        self._pump.close()

    def publish(self, committed: Committed) -> None:
        """Hand over what was committed. Returns at once."""
        self._handover.publish(committed)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Hand over word of something that was refused. Returns at once."""
        self._handover.notify(agent, code, message, retry)

    def _call(self, function: Callable[[], object]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # stopped meanwhile: there is nobody to tell
            pass

    # On the loop.

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as error:  # whatever it was, `start` must not wait for ever
            if self._bound.done():
                raise
            self._bound.set_exception(error)
        finally:
            self._accepting.set()

    async def _serve(self) -> None:
        server = await self._bind()
        self._port = server.sockets[0].getsockname()[1]
        self._bound.set_result(None)
        self._pump.spawn(self._beat())
        self._pump.spawn(self._repair())
        self._take()  # what was handed over when there was no loop yet
        await self._stopping.wait()
        await self._wait_caught_up(self._catch_up_s)
        self._is_closing = True
        self._pump.cancel()
        await self._say_goodbye()
        server.close(code=CloseCode.DRAIN, reason="the server stops")
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await server.wait_closed()
        except TimeoutError:  # who has not even asked for anything, or does not read the answer
            for connection in list(self._connections):
                connection.abort()
            await server.wait_closed()

    async def _bind(self) -> Server:
        try:
            self._server = await serve(
                self._handle,
                self._host,
                self._port,
                process_request=self._process_request,
                subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
                select_subprotocol=_select_subprotocol,
                create_connection=self._connect,  # type: ignore[arg-type]  # called like the class, and makes one
                compression=None,
                max_size=frames.MAX_FRAME_BYTES,
                max_queue=16,
                write_limit=WRITE_LIMIT_BYTES,
                open_timeout=5,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header=None,
                start_serving=False,
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that can be no name
            why = getattr(error, "strerror", None) or error
            raise ListenError(self.address, f"{why}: choose another address, or stop who has it") from error
        return self._server

    def _connect(self, *arguments: Any, **options: Any) -> GatewayConnection:
        connection = GatewayConnection(*arguments, **options)
        self._connections.add(connection)
        return connection

    async def _accept(self) -> None:
        assert self._server is not None
        if not self._is_closing:
            await self._server.start_serving()
        self._accepting.set()

    async def _say_goodbye(self) -> None:
        for session in list(self._sessions.values()):
            reconnect_ms = random.randint(*RECONNECT_MS)
            self._pump.spawn(session.close(CloseCode.DRAIN, "the server stops", reconnect_ms))
        await asyncio.sleep(0)  # let each write its frame before the listener is closed

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that is not to become a WebSocket; None lets it become one."""
        assert isinstance(connection, GatewayConnection)
        if self._is_closing:
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the server stops")
        try:
            host, origin, authorization = map(request.headers.get, ("Host", "Origin", "Authorization"))
        except MultipleValuesError:
            return error_response(HTTPStatus.BAD_REQUEST, "bad_request", "a header is there more than once")
        if not self._access.allows_host(host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "this server is not known by that Host")
        if not self._access.allows_origin(origin, host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "pages of that Origin may not use this server")
        path = request.path.partition("?")[0]
        is_socket = path == "/v1/ws"
        if request.method not in (("GET",) if is_socket else ("GET", "HEAD")):
            message = "only GET and HEAD are answered here"
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", message, Allow="GET, HEAD")
        connection.is_authenticated = self._access.accepts_header(authorization)
        if is_socket:
            return None
        if not connection.is_authenticated and path != "/healthz" and web.asset(path) is None:
            message = "send Authorization: Bearer TOKEN"
            return error_response(HTTPStatus.UNAUTHORIZED, "unauthenticated", message, WWW_Authenticate="Bearer")
        response = await self._pump.read(respond, self._pump.store, request.path, host or "")
        if request.method == "HEAD":
            response.body = b""
        return response

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GatewayConnection)
        session = self._sessions[connection] = Session(self._pump, self._access, connection)
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
            self._pump.hub.disconnect(connection.subscriber)
            del self._sessions[connection]

    def pause(self, subscriber: Subscriber) -> None:
        """A connection takes no more."""
        self._pump.hub.pause(subscriber)

    def resume(self, subscriber: Subscriber) -> None:
        """A connection takes more again."""
        self._pump.hub.resume(subscriber)
        self._pump.schedule()

    def _take(self) -> None:
        taken, dropped = self._handover.take()
        hub = self._pump.hub
        for fact in taken:
            if isinstance(fact, Committed):
                hub.publish(fact)
            else:
                hub.notify(fact.agent or "", fact.code, fact.message, fact.retry)
        for agent, position in dropped.items():
            hub.miss(agent, position)
        self._pump.run()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            heads = await self._pump.recheck()
            for connection in list(self._sessions):
                known = {agent: heads[agent] for agent in connection.subscriber.subscriptions if agent in heads}
                if not connection.subscriber.is_paused:
                    connection.write(frames.encode(frames.Heartbeat(heads=known)))

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_S)
            self._pump.hub.repair()
            self._pump.schedule()

    async def _wait_caught_up(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            unsent = any(connection.unsent_bytes for connection in self._sessions)
            if self._handover.is_empty and self._pump.is_idle and not unsent and self._pump.hub.has_caught_up:
                return
            await asyncio.sleep(0.01)


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose ours if it is offered; a client that offers none gets it too."""
    return next((name for name in offered if name == frames.SUBPROTOCOL), None)
