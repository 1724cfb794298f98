"""The gateway's server: a thread with an event loop, and the sockets of its own port, if it has one.

Owns the thread, the listener and the handshakes: which connections are accepted, and their deadlines until then; after
that they are the gateway core's. `stop` sends `goodbye` first, so that clients reconnect by themselves.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from msgspec.structs import replace
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.protocol.quiet_log import QuietLogger
from commitcast.gateway.server.access.limits import ConnectionCounts
from commitcast.gateway.server.access.origins import Access, bearer, offered_token
from commitcast.gateway.server.gateway import Gateway
from commitcast.gateway.server.http.request import REPEATED_HEADER, HttpRequest, HttpResponse, error_response, refusal
from commitcast.gateway.server.http.routes import answer
from commitcast.gateway.server.options import ServerOptions
from commitcast.gateway.server.requests import AgentControl
from commitcast.gateway.server.sockets.accepted import AcceptedSocket, AcceptedSockets
from commitcast.gateway.server.sockets.descriptors import silence_sockets
from commitcast.gateway.server.sockets.listening import ListeningLoop, bind, listen_error
from commitcast.gateway.server.sockets.websocket import (
    CLOSE_TIMEOUT_S,
    COMPRESSION,
    WRITE_LIMIT_BYTES,
    GatewayConnection,
)
from commitcast.gateway.server.sockets.websockets_compat import RequestLine, close_server, is_noise
from commitcast.persistence import fork
from commitcast.persistence.store import Reader

logger: Final = logging.getLogger(__name__)

STOP_S: Final = 10.0
"""For the thread to end, after subscribers had their time to catch up: its own timeouts add up to eight seconds."""


class GatewayServer:
    """Streams committed messages to WebSocket subscribers, and answers HTTP reads."""

    def __init__(
        self, store: Reader, listen: ServerOptions | str, *, operations: AgentControl | None = None, **options: Any
    ) -> None:
        """Make a server; nothing listens yet.

        Args:
            store: to read from; open before `start`.
            listen: how to serve; or the address alone, `HOST:PORT` or `asgi`.
            operations: performs the requests of clients; None makes the server read-only.
            options: fields of `ServerOptions`, by name.

        Raises:
            ListenError: the address is not one, or needs a token.
            InvalidValueError: another option cannot be used.
        """
        serving = ServerOptions(listen=listen, **options) if isinstance(listen, str) else replace(listen, **options)
        self._host, self._port = serving.address or ("", 0)
        self.access = Access(
            self._host or None,
            needs_token=serving.verifier is not None,
            allowed_hosts=serving.allowed_hosts,
            allowed_origins=serving.allowed_origins,
        )
        self.core = Gateway(store, serving, operations)
        self.publish = self.core.inbox.publish
        """Hand over committed entries. Returns at once. Any thread."""
        self.notify = self.core.inbox.notify
        """Tell an agent's subscribers that something was refused. Returns at once. Any thread."""
        self.flush = self.core.inbox.flush
        """Have what was handed over sent. Returns at once. Any thread."""
        # Behind an ASGI server the core counts the addresses that it gives, which may not be the sockets'.
        counts = self.core.counts if self._host else ConnectionCounts(self.core.limits)
        self.sockets = AcceptedSockets(self.core.limits, counts)
        """Accepted on its own port, or by `serve --asgi` for it."""
        self._tls = serving.tls
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._bound: Future[None] = Future()
        self._accepting: Future[None] = Future()
        self._stopping = asyncio.Event()
        self._catch_up_s = 0.0
        self._is_closing = False
        self._addresses: list[tuple[str, int]] = []

    @property
    def address(self) -> str | None:
        """The address that it listens on, with the actual port; None if it has no port of its own."""
        if not self._host:
            return None
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    @property
    def is_accepting(self) -> bool:
        """Whether clients may connect."""
        return self._accepting.done() and self._accepting.exception() is None

    @property
    def url(self) -> str | None:
        """The URL of its WebSocket; None if it has no port of its own."""
        return None if self.address is None else f"{'ws' if self._tls is None else 'wss'}://{self.address}{PATH}"

    # From other threads.

    def start(self) -> None:
        """Bind the address. Blocks until it is bound; clients cannot connect before `accept`.

        Raises:
            ListenError: it cannot be bound.
        """
        fork.register(self)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        try:
            self._bound.result()
        except Exception:  # any reason why it could not be bound; raised again
            self._thread.join()
            self.core.reader.close()
            raise

    def accept(self) -> None:
        """Accept connections. Blocks until clients can connect, or the server was stopped.

        Raises:
            ListenError: another program has begun to listen on the address since `start`.
        """
        assert self._thread is not None
        self.core.call(lambda: self.core.tasks.spawn(self._accept()))
        self._accepting.result()

    def drain(self) -> None:
        """Report not ready, and refuse new subscribers; connected ones stay until `stop`. Any thread. Idempotent."""
        self.core.is_draining = True

    def stop(self, *, catch_up_s: float = 0.0) -> None:
        """Send `goodbye` to all connections and stop. Idempotent. Blocks, for `catch_up_s` and `STOP_S` at most.

        Args:
            catch_up_s: seconds that subscribers may take to receive what is committed already.
        """
        if self._thread is None:
            return
        self.drain()
        self._bound.exception()  # before it is bound, the loop does not see that it is to stop
        self._catch_up_s = catch_up_s
        self.core.call(self._stopping.set)
        self._thread.join(catch_up_s + STOP_S)
        if self._thread.is_alive():
            logger.error("the gateway did not stop in time: its thread is left running")
        self.core.reader.close()
        fork.forget(self)

    def _drop_in_child(self) -> None:
        """Leave the port and the connections to the parent; through ASGI every request is answered with 503."""
        silence_sockets(self._addresses)
        self._thread = self._server = None
        self._accepting = Future()
        self.core.loop = None

    # On the loop.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: ListeningLoop(self.sockets)) as runner:
                runner.run(self._serve())
        except BaseException as error:  # of any kind: `start` must not wait for ever
            if self._bound.done():
                raise
            self._bound.set_exception(error)
        finally:
            if not self._accepting.done():
                self._accepting.set_result(None)

    async def _serve(self) -> None:
        if self._host:
            await self._bind()
        self.core.begin()
        self._bound.set_result(None)
        await self._stopping.wait()
        await self.core.wait_caught_up(self._catch_up_s)
        self._is_closing = True
        self.core.tasks.cancel()
        await self.core.say_goodbye()
        if self._server is not None:
            await self._close(self._server)
        await self.core.wait_closed(2 * CLOSE_TIMEOUT_S)

    async def _close(self, server: Server) -> None:
        closing = close_server(server, CloseCode.DRAIN, "the server is stopping")
        for _ in range(2):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await server.wait_closed()
                    return
            except TimeoutError:  # of peers that have sent no request, or do not read the response
                self.sockets.abort_all()
        logger.warning("%d connections did not close in time and are abandoned", len(self.sockets))
        for task in closing:
            task.cancel()

    async def _bind(self) -> None:
        try:
            sockets = bind(self._host, self._port)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            raise listen_error(self.address or "", error) from error
        self._addresses = [listener.getsockname()[:2] for listener in sockets]
        self._port = self._addresses[0][1]
        self._server = await serve(
            self._handle,
            sockets=sockets,
            process_request=self._process_request,
            subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            create_connection=partial(GatewayConnection, pump=self.core.pump),  # type: ignore[arg-type]  # called like the class
            compression=None,
            extensions=[COMPRESSION],
            max_size=frames.MAX_FRAME_BYTES,
            max_queue=2,  # a session answers one frame at a time
            write_limit=WRITE_LIMIT_BYTES,
            open_timeout=None,  # it would include the response: each has a deadline of its own
            ping_interval=None,  # the core pings by itself, and sends goodbye
            close_timeout=CLOSE_TIMEOUT_S,
            server_header=None,
            logger=QuietLogger(logging.getLogger("commitcast.gateway.websockets"), is_noise),
            ssl=self._tls,
            start_serving=False,
        )

    async def _accept(self) -> None:
        """Begin to listen. Another program that has bound the same port may have been first."""
        try:
            if self._server is not None and not self._is_closing:
                await self._server.start_serving()
        except OSError as error:
            if not self._accepting.done():
                self._accepting.set_exception(listen_error(self.address or "", error))
        if not self._accepting.done():
            self._accepting.set_result(None)

    # Connections.

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GatewayConnection)
        if (accepted := self._socket_of(connection)) is not None:
            accepted.clear_deadline()
        connection.is_negotiated()
        await self.core.serve(connection)

    def _socket_of(self, connection: ServerConnection) -> AcceptedSocket | None:
        return self.sockets.find(connection.remote_address, connection.local_address)

    # Requests.

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request; None lets it become a WebSocket."""
        assert isinstance(connection, GatewayConnection)
        accepted = self._socket_of(connection)
        if accepted is not None:
            accepted.clear_deadline()
        response = await self._respond(connection, request)
        if accepted is not None:
            accepted.set_deadline(self.core.limits.answer_timeout_s)
        if response is None:
            return None
        body = b"" if connection.request_line.method_of(request) == "HEAD" else response.body
        headers = Headers({**response.headers, "Connection": "close"})
        return Response(response.status.value, response.status.phrase, headers, body)

    async def _respond(self, connection: GatewayConnection, request: Request) -> HttpResponse | None:
        try:
            host, origin, authorization = map(request.headers.get, ("Host", "Origin", "Authorization"))
        except MultipleValuesError:
            return refusal(ErrorCode.BAD_REQUEST, REPEATED_HEADER)
        path, _, query = request.path.partition("?")
        is_socket = path == PATH
        line = connection.request_line
        version = line.version_of(request).removeprefix("HTTP/")
        refused = self.access.check(host, origin, query, request.headers, version)
        refused = refused or _check_line(line, request, is_socket)
        if refused is None and is_socket:
            accepted = self._socket_of(connection)
            refused = self.core.check_capacity(None if accepted is None else accepted.fileno())
        if refused is not None:
            return refused
        token = bearer(authorization)
        if is_socket:
            connection.token = token or offered_token(_offered(request.headers))
            return None
        read = HttpRequest(path=path, query=query, host=host or "", token=token, address=connection.peer_address)
        return await answer(self.core, read)


def _check_line(line: RequestLine, request: Request, is_socket: bool) -> HttpResponse | None:
    if line.method_of(request) not in (("GET",) if is_socket else ("GET", "HEAD")):
        message = "only GET and HEAD are answered here"
        return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", message, Allow="GET, HEAD")
    if is_socket and line.version_of(request) != "HTTP/1.1":
        message = "a WebSocket is opened with HTTP/1.1: set a proxy in between to use it"
        return error_response(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "bad_request", message)
    return None


def _offered(headers: Headers) -> list[str]:
    """Return the subprotocols that a client offers."""
    lines = headers.get_all("Sec-WebSocket-Protocol")
    return [name.strip() for line in lines for name in line.split(",")]


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return our subprotocol if the client offers it; else the handshake selects none."""
    return next((name for name in offered if name == frames.SUBPROTOCOL), None)
