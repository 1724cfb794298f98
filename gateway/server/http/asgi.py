"""The gateway as an ASGI app: mounted in a FastAPI or Starlette app beside its own routes, or run alone by uvicorn.

Owns the access checks, by the same rules as on the gateway's own port, and the parsing of requests. Work on the gateway
runs on the gateway's loop; this module awaits it and never blocks. Runs on the loop that serves the app, of which there
may be several. Needs the extra `http`.

    @asynccontextmanager
    async def lifespan(app):
        async with AgentRuntime("agents.db", listen="asgi") as runtime:
            app.state.gateway = runtime.gateway
            yield
            app.state.gateway = None

    app = FastAPI(lifespan=lifespan)
    app.state.gateway = None
    app.mount("/agents", asgi.app(lambda: app.state.gateway))

Before the runtime is started and after it has stopped every request is answered with 503. A server that waits for its
responses before it shuts down waits for event streams too: stop the runtime first, or limit that wait, which uvicorn
calls `timeout_graceful_shutdown`.
"""

import re
from collections.abc import Callable
from contextlib import aclosing
from http import HTTPStatus
from importlib.util import find_spec
from typing import Final
from urllib.parse import quote, unquote

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.server.access.origins import bearer, is_loopback, offered_token
from commitcast.gateway.server.errors import MissingExtraError
from commitcast.gateway.server.http import sse
from commitcast.gateway.server.http.asgi_peer import AsgiPeer, NotServingError, call, converse
from commitcast.gateway.server.http.request import (
    REPEATED_HEADER,
    HttpRequest,
    HttpResponse,
    error_response,
    refusal,
    respond,
)
from commitcast.gateway.server.http.routes import answer
from commitcast.gateway.server.server import GatewayServer
from commitcast.gateway.server.sockets.websocket import close_reason
from commitcast.persistence.errors import InvalidValueError

if find_spec("starlette") is None:
    raise MissingExtraError("serving through ASGI", "http")

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

CHUNK_BYTES: Final = 64 * 1024
"""Of an event stream that are sent at once. A large event goes in several, so that a slow client shows progress."""

_LOCAL: Final = "localhost"
"""The address of a client without one: it came over a Unix socket, so from this machine."""
_EVENTS: Final = re.compile(r"/v1/(?:agents/([^/]+)/)?events")
_GONE: Final = (OSError, RuntimeError)
"""What ASGI servers raise when the client has disconnected; they differ in it."""


def app(gateway: GatewayServer | Callable[[], GatewayServer | None] | None) -> ASGIApp:
    """Return the app of a gateway.

    Args:
        gateway: of a runtime, started or not. Or a function that returns the gateway to serve now, called for each
            request; while it returns None, requests are answered with 503. With a function one app can be entered
            several times, as tests do: a runtime is started once, so that each lifespan makes its own.

    Raises:
        InvalidValueError: the runtime has no gateway.

    Threads: the app may be served by any event loop, also by several at once.
    """
    if gateway is None:
        raise InvalidValueError('the runtime has no gateway: give it listen="asgi", or an address')
    return _App(gateway) if isinstance(gateway, GatewayServer) else _CurrentApp(gateway)


class _CurrentApp:
    """The app of the gateway that a function returns, which may be another one for each request."""

    def __init__(self, current: Callable[[], GatewayServer | None]) -> None:
        self._current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = None if scope["type"] == "lifespan" else self._current()
        if gateway is not None:
            await _App(gateway)(scope, receive, send)
        elif scope["type"] == "http":
            await _respond(_unavailable(), scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await _deny(_unavailable(), scope, receive, send)
        else:
            await _on_lifespan(receive, send)


class _App:
    """The app of one gateway."""

    def __init__(self, gateway: GatewayServer) -> None:
        self._server = gateway
        self._core = gateway.core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._on_http(scope, receive, send)
            case "websocket":
                await self._on_websocket(scope, receive, send)
            case "lifespan":
                await _on_lifespan(receive, send)
            case other:
                raise NotImplementedError(f"this app does not support the ASGI scope {other!r}")

    # Access.

    def _refusal(self, scope: Scope, headers: Headers) -> HttpResponse | None:
        """Return the refusal of a request; None lets it in."""
        if any(len(headers.getlist(name)) > 1 for name in ("Host", "Origin", "Authorization")):
            return refusal(ErrorCode.BAD_REQUEST, REPEATED_HEADER)
        version = scope.get("http_version", "1.1")
        host, origin = headers.get("Host"), headers.get("Origin")
        refused = self._server.access.check(host, origin, _query(scope), headers.keys(), version)
        if refused is not None:
            return refused
        if self._needs_no_token and not is_loopback(_address(scope)):
            message = "without tokens only clients on this machine are served: give the runtime a token"
            return refusal(ErrorCode.FORBIDDEN, message)
        if scope.get("method", "GET") not in ("GET", "HEAD"):
            message = "only GET and HEAD are answered here"
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", message, Allow="GET, HEAD")
        return None if self._server.is_accepting else _unavailable()

    def _check_capacity(self, scope: Scope) -> HttpResponse | None:
        accepted = self._server.sockets.find(scope.get("client"), scope.get("server"))
        return self._core.check_capacity(None if accepted is None else accepted.fileno())

    @property
    def _needs_no_token(self) -> bool:
        return not self._core.authenticator.needs_token

    # HTTP.

    async def _on_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), _path(scope)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _respond(refused, scope, receive, send)
        elif match := _EVENTS.fullmatch(path):
            agent = frames.ALL if match[1] is None else unquote(match[1])
            await self._on_events(agent, headers, scope, receive, send)
        else:
            await _respond(await self._read(path, headers, scope), scope, receive, send)

    async def _read(self, path: str, headers: Headers, scope: Scope) -> HttpResponse:
        if not path:  # the URLs in the page are relative to its folder
            folder = scope["path"].rpartition("/")[2]
            return respond("text/plain", b"", HTTPStatus.TEMPORARY_REDIRECT, Location=f"{quote(folder)}/")
        if path == PATH:
            message = f"{PATH} is for WebSockets"
            return error_response(HTTPStatus.UPGRADE_REQUIRED, "bad_request", message, Upgrade="websocket")
        token = bearer(headers.get("Authorization"))
        host, address = headers.get("Host", ""), _address(scope)
        request = HttpRequest(path=path, query=_query(scope), host=host, token=token, address=address)
        try:
            return await call(self._core, lambda: answer(self._core, request))
        except NotServingError:
            return _unavailable()

    # Events.

    async def _on_events(self, agent: str, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        token = bearer(headers.get("Authorization"))
        refused = self._check_capacity(scope)
        if token is None and not self._needs_no_token:
            message = "a token is needed: send Authorization: Bearer TOKEN"
            refused = refusal(ErrorCode.UNAUTHENTICATED, message)
        try:
            last = headers.get("Last-Event-ID")
            seen = sse.EventId.parse(last) if last else None
            subscribe = sse.subscription(agent, _query(scope), seen)
        except InvalidValueError as error:
            refused = refusal(ErrorCode.BAD_REQUEST, str(error))
        if refused is not None:
            await _respond(refused, scope, receive, send)
            return
        peer = AsgiPeer(self._core, address=_address(scope), token=token)
        await peer.put(frames.encode(subscribe).decode())
        response = _EventResponse(sse.EventStream(agent, seen), peer, scope, receive, send)
        await converse(self._core, peer, response.run(), _until_gone(receive))
        if not response.has_begun:
            await response.answer(_unavailable())

    # WebSockets.

    async def _on_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        await receive()  # websocket.connect
        refused = self._refusal(scope, headers) or self._check_capacity(scope)
        if _path(scope) != PATH:
            refused = refused or refusal(ErrorCode.NOT_FOUND, f"WebSockets are at {PATH}")
        if refused is not None:
            await _deny(refused, scope, receive, send)
            return
        offered = scope.get("subprotocols", [])
        token = bearer(headers.get("Authorization")) or offered_token(offered)
        chosen = frames.SUBPROTOCOL if frames.SUBPROTOCOL in offered else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        peer = AsgiPeer(self._core, address=_address(scope), token=token)
        await converse(self._core, peer, _send_frames(peer, send), _put_frames(peer, receive))


# Parts of a request.


def _path(scope: Scope) -> str:
    """Return the path below the mount point, percent-encoded; empty for the mount point without a slash."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return quote(below if below[:1] in ("", "/") else path)


def _query(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return query.decode("latin-1")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else _LOCAL


# Responses.


def _unavailable() -> HttpResponse:
    message = "the gateway is not running: its runtime is not started yet, or has stopped"
    return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, Retry_After="2")


async def _respond(response: HttpResponse, scope: Scope, receive: Receive, send: Send) -> None:
    body = b"" if scope.get("method") == "HEAD" else response.body
    await Response(body, response.status, response.headers)(scope, receive, send)


async def _deny(refused: HttpResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket with a response, or with the server's own 403 where the server cannot send one."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await _respond(refused, scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


async def _on_lifespan(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown: the gateway is started and stopped by its runtime."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


# Frames in both directions.


async def _send_frames(peer: AsgiPeer, send: Send) -> None:
    try:
        async with aclosing(peer.outgoing()) as outgoing:
            async for frame in outgoing:
                await send({"type": "websocket.send", "text": frame.json.decode()})
                peer.took(len(frame.json))
        assert peer.ending is not None
        code, reason = peer.ending
        await send({"type": "websocket.close", "code": code, "reason": close_reason(reason)})
    except _GONE:
        pass


async def _put_frames(peer: AsgiPeer, receive: Receive) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        await peer.put(text if text is not None else message["bytes"])


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class _EventResponse:
    """One event stream to a client."""

    def __init__(self, stream: sse.EventStream, peer: AsgiPeer, scope: Scope, receive: Receive, send: Send) -> None:
        self.has_begun = False
        """The response was sent, or part of it."""
        self._stream = stream
        self._peer = peer
        self._scope, self._receive, self._send = scope, receive, send

    async def run(self) -> None:
        """Send the gateway's frames as events, until the stream is over or the client has disconnected."""
        try:
            async with aclosing(self._peer.outgoing()) as outgoing:
                async for frame in outgoing:
                    event = self._stream.take(frame)
                    if isinstance(event, HttpResponse):
                        await self.answer(event)
                        return
                    if event:
                        await self._begin()
                    await self._send_event(event, len(frame.json))
                    if self._stream.is_over or (event and self._scope["method"] == "HEAD"):
                        break
            if self.has_begun:
                await self._send({"type": "http.response.body"})
        except _GONE:
            pass

    async def answer(self, response: HttpResponse) -> None:
        """Send a response in place of a stream."""
        self.has_begun = True
        await _respond(response, self._scope, self._receive, self._send)

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            headers = Headers(sse.HEAD).raw
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_event(self, event: bytes, size: int) -> None:
        """Send an event in chunks, and note each as taken, up to the size of its frame."""
        for start in range(0, len(event), CHUNK_BYTES):
            body = event[start : start + CHUNK_BYTES]
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            self._peer.took(min(size, CHUNK_BYTES))
            size -= min(size, CHUNK_BYTES)
        self._peer.took(size)
