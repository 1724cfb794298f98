"""The gateway's server: one thread with one event loop, and on it the sockets of its own port, if it has one.

Owns the thread, the listener and its handshakes: who is let in, how many, and in what time. What becomes of a
connection then is the core's. `stop` says goodbye first, so that clients come back by themselves.
"""

import asyncio
import logging
import ssl
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ListenError
from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.server.access.auth import Verifier
from commitcast.gateway.server.access.connection_counts import ConnectionCounts
from commitcast.gateway.server.access.limits import MAX_LIMIT, Limits
from commitcast.gateway.server.access.origins import Access, bearer, offered_token, parse_address
from commitcast.gateway.server.gateway import HEARTBEAT_S, Gateway
from commitcast.gateway.server.http.request import HttpRequest, HttpResponse, error_response
from commitcast.gateway.server.http.routes import answer
from commitcast.gateway.server.requests import AgentControl
from commitcast.gateway.server.sockets.accepted import AcceptedSocket, AcceptedSockets
from commitcast.gateway.server.sockets.inherited import silence_sockets
from commitcast.gateway.server.sockets.listening import ListeningLoop, bind
from commitcast.gateway.server.sockets.older_websockets import RequestLine, close_server, is_noise
from commitcast.gateway.server.sockets.websocket import (
    CLOSE_TIMEOUT_S,
    COMPRESSION,
    WRITE_LIMIT_BYTES,
    GatewayConnection,
)
from commitcast.persistence import fork
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.store import Reader

logger: Final = logging.getLogger(__name__)

ASGI: Final = "asgi"
"""In place of an address: no port of its own; connections come through an ASGI app (see `gateway.asgi`)."""
STOP_S: Final = 10.0
"""For the thread to end, beyond what subscribers are given to catch up: its own waits add up to eight seconds."""


class _QuietLog(logging.LoggerAdapter[logging.Logger]):
    """The library's log without its DEBUG records, which show headers and frames, and so tokens."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)

    def log(self, level: int, msg: object, *arguments: Any, **options: Any) -> None:
        if not is_noise(msg):
            super().log(level, msg, *arguments, **options)


class GatewayServer:
    """Streams what is committed to WebSocket subscribers, and answers one-shot reads."""

    def __init__(
        self,
        store: Reader,
        listen: str,
        *,
        verifier: Verifier | None = None,
        operations: AgentControl | None = None,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        heartbeat_s: float = HEARTBEAT_S,
        redact: Collection[str] = (),
    ) -> None:
        """Make a server; nothing listens yet.

        Args:
            store: to read from; open before `start`.
            listen: `HOST:PORT`; port 0 takes a free one. Or `asgi`, for no port of its own.
            verifier: of the tokens that clients must present; None is for loopback only.
            operations: what clients may have done; None makes it read-only.
            limits: on what one client may ask for.
            tls: certificate and key to serve with; None serves without.
            allowed_hosts: further names that a Host header may have.
            allowed_origins: further origins that pages may have.
            heartbeat_s: seconds between heartbeats.
            redact: further names in agents' configurations whose values subscribers are not shown.

        Raises:
            ListenError: the address is none, or needs a token.
            InvalidValueError: another argument cannot be used.
        """
        self._host, self._port = ("", 0) if listen == ASGI else parse_address(listen)
        self.access = Access(
            self._host or None,
            needs_token=verifier is not None,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
        )
        if not 0 < heartbeat_s <= MAX_LIMIT:
            raise InvalidValueError(f"heartbeat_s must be more than 0 and at most {MAX_LIMIT:,}, not {heartbeat_s!r}")
        self.core = Gateway(
            store, verifier=verifier, control=operations, limits=limits, heartbeat_s=heartbeat_s, redact=redact
        )
        self.publish = self.core.inbox.publish
        """Hand over what was committed. Returns at once. Any thread."""
        self.notify = self.core.inbox.notify
        """Hand over a notice that something was refused. Returns at once. Any thread."""
        # Behind an ASGI server the core counts what that says the address is, which may not be the socket's.
        counts = self.core.counts if self._host else ConnectionCounts(self.core.limits)
        self.sockets = AcceptedSockets(self.core.limits, counts)
        """That were accepted on its own port, or by `serve --asgi` for it."""
        self._tls = tls
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
        """Where it listens, with the port that it got; None if it has no port of its own."""
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
        """Of its WebSocket; None if it has no port of its own."""
        return None if self.address is None else f"{'ws' if self._tls is None else 'wss'}://{self.address}{PATH}"

    # From other threads.

    def start(self) -> None:
        """Take the address. Blocks until it is bound; nobody can connect before `accept`.

        Raises:
            ListenError: it cannot be bound.
        """
        fork.register(self)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        try:
            self._bound.result()
        except Exception:
            self._thread.join()
            self.core.reader.close()
            raise

    def accept(self) -> None:
        """Let clients connect. Blocks until they can, or the server was stopped.

        Raises:
            ListenError: somebody else has taken the address since `start`.
        """
        assert self._thread is not None
        self.core.call(lambda: self.core.tasks.spawn(self._accept()))
        self._accepting.result()

    def drain(self) -> None:
        """Be no longer ready, and take no new subscribers; those that are there stay until `stop`. Any thread."""
        self.core.is_draining = True

    def stop(self, *, catch_up_s: float = 0.0) -> None:
        """Say goodbye to everybody and stop. Idempotent. Blocks.

        Args:
            catch_up_s: how long subscribers may take to get what is committed already.
        """
        if self._thread is None:
            return
        self.drain()
        self._bound.exception()  # it may be about to be bound: before that nothing hears that it is to stop
        self._catch_up_s = catch_up_s
        self.core.call(self._stopping.set)
        self._thread.join(catch_up_s + STOP_S)
        if self._thread.is_alive():
            logger.error("the gateway did not stop in time: its thread is left behind")
        self.core.reader.close()
        fork.forget(self)

    def _drop_in_child(self) -> None:
        """Leave the port and the connections to the parent; through ASGI everything is answered with 503."""
        silence_sockets(self._addresses)
        self._thread = self._server = None
        self._accepting = Future()
        self.core.loop = None

    # On the loop.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: ListeningLoop(self.sockets)) as runner:
                runner.run(self._serve())
        except BaseException as error:  # whatever it was, `start` must not wait for ever
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
        closing = close_server(server, CloseCode.DRAIN, "the server stops")
        for _ in range(2):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await server.wait_closed()
                    return
            except TimeoutError:  # of peers that have not asked for anything, or do not read the answer
                self.sockets.abort_all()
        logger.warning("%d connections did not end: they are left behind", len(self.sockets))
        for each in closing:
            each.cancel()

    async def _bind(self) -> None:
        try:
            sockets = bind(self._host, self._port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that can be no name
            raise _listen_error(self.address, error) from error
        self._addresses = [listener.getsockname()[:2] for listener in sockets]
        self._port = self._addresses[0][1]
        self._server = await serve(
            self._handle,
            sockets=sockets,
            process_request=self._process_request,
            subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            create_connection=self._connect,  # type: ignore[arg-type]  # called like the class, and makes one
            compression=None,
            extensions=[COMPRESSION],
            max_size=frames.MAX_FRAME_BYTES,
            max_queue=2,  # a session answers one frame at a time
            write_limit=WRITE_LIMIT_BYTES,
            open_timeout=None,  # it would be for the answer too: each has a deadline of its own
            ping_interval=None,  # the core asks for signs of life itself, and says goodbye
            close_timeout=CLOSE_TIMEOUT_S,
            server_header=None,
            logger=_QuietLog(logging.getLogger("commitcast.gateway.websockets")),
            ssl=self._tls,
            start_serving=False,
        )

    async def _accept(self) -> None:
        """Begin to listen. Who has bound the same port in the meantime may be first."""
        try:
            if self._server is not None and not self._is_closing:
                await self._server.start_serving()
        except OSError as error:
            if not self._accepting.done():
                self._accepting.set_exception(_listen_error(self.address, error))
        if not self._accepting.done():
            self._accepting.set_result(None)

    # Connections.

    def _connect(self, *arguments: Any, **options: Any) -> GatewayConnection:
        return GatewayConnection(*arguments, pump=self.core.pump, **options)

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
        """Answer a request that is not to become a WebSocket; None lets it become one."""
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
            return error_response(HTTPStatus.BAD_REQUEST, "bad_request", "a header is there more than once")
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
        asked = HttpRequest(path=path, query=query, host=host or "", token=token, address=connection.peer_address)
        return await answer(self.core, asked)


def _listen_error(address: str | None, error: Exception) -> ListenError:
    why = getattr(error, "strerror", None) or error
    return ListenError(address or "", f"{why}: choose another address, or stop who has it")


def _check_line(line: RequestLine, request: Request, is_socket: bool) -> HttpResponse | None:
    if line.method_of(request) not in (("GET",) if is_socket else ("GET", "HEAD")):
        message = "only GET and HEAD are answered here"
        return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", message, Allow="GET, HEAD")
    if is_socket and line.version_of(request) != "HTTP/1.1":
        message = "a WebSocket is opened with HTTP/1.1: a proxy in between has to speak it"
        return error_response(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "bad_request", message)
    return None


def _offered(headers: Headers) -> list[str]:
    """Return the subprotocols that a client offers."""
    lines = headers.get_all("Sec-WebSocket-Protocol")
    return [name.strip() for line in lines for name in line.split(",")]


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose ours if it is offered; a client that offers none gets it too."""
    return next((name for name in offered if name == frames.SUBPROTOCOL), None)
