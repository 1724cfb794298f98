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
from typing import Final
from urllib.parse import quote, unquote

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.server.access.origins import bearer, is_loopback, offered_token
from commitcast.gateway.server.gateway import Gateway
from commitcast.gateway.server.http import sse
from commitcast.gateway.server.http.asgi_peer import AsgiPeer, NotServingError, call, converse
from commitcast.gateway.server.http.asgi_response import GONE, app_of, refuse, respond, unavailable
from commitcast.gateway.server.http.request import (
    REPEATED_HEADER,
    HttpRequest,
    HttpResponse,
    error_response,
    refusal,
)
from commitcast.gateway.server.http.request import respond as response_of
from commitcast.gateway.server.http.routes import answer
from commitcast.gateway.server.http.starlette_names import ASGIApp, Headers, Receive, Scope, Send
from commitcast.gateway.server.http.tunnel import TunnelOpener, relay
from commitcast.gateway.server.server import GatewayServer
from commitcast.gateway.server.sockets.websocket import close_reason
from commitcast.persistence.errors import InvalidValueError

CHUNK_BYTES: Final = 64 * 1024
"""Of an event stream that are sent at once. A large event goes in several, so that a slow client shows progress."""

_LOCAL: Final = "localhost"
"""The address of a client without one: it came over a Unix socket, so from this machine."""
_EVENTS: Final = re.compile(r"/v1/(?:agents/([^/]+)/)?events")


Served = GatewayServer | TunnelOpener
"""A gateway in this process, or the way to one in another."""


def app(gateway: Served | Callable[[], Served | None] | None) -> ASGIApp:
    """Return the app of a gateway.

    Args:
        gateway: of a runtime, started or not; one that is in another process is reached by its `open_tunnel`. Or a
            function that returns the gateway to serve now, called for each request; while it returns None, requests
            are answered with 503. With a function one app can be entered several times, as tests do: a runtime is
            started once, so that each lifespan makes its own.

    Raises:
        InvalidValueError: the runtime has no gateway.

    Threads: the app may be served by any event loop, also by several at once.
    """
    if gateway is None:
        raise InvalidValueError('the runtime has no gateway: give it listen="asgi", or an address')
    current = (lambda: gateway) if isinstance(gateway, GatewayServer | TunnelOpener) else gateway

    async def answer_scope(scope: Scope, receive: Receive, send: Send) -> None:
        served = current()
        if isinstance(served, TunnelOpener):
            await relay(served.open_tunnel, scope, receive, send)
        else:
            await AsgiRequest(served, scope, receive, send).run()

    return app_of(answer_scope)


class AsgiRequest:
    """One HTTP request or one WebSocket."""

    def __init__(self, server: GatewayServer | None, scope: Scope, receive: Receive, send: Send) -> None:
        self._server = server
        self._scope, self._receive, self._send = scope, receive, send
        self._headers = Headers(scope=scope)
        self._path = _path(scope)
        self._query = scope.get("query_string", b"").decode("latin-1")
        client = scope.get("client")
        self._address = client[0] if client else _LOCAL
        self._has_response = False
        """The response was sent, or part of it."""

    async def run(self) -> None:
        """Answer it."""
        is_socket = self._scope["type"] == "websocket"
        if is_socket:
            await self._receive()  # websocket.connect
        server = self._server
        if server is None:
            await self._refuse(unavailable())
        elif (refused := self._refusal(server)) is not None:
            await self._refuse(refused)
        elif is_socket:
            await self._on_websocket(server)
        elif match := _EVENTS.fullmatch(self._path):
            await self._on_events(server, frames.ALL if match[1] is None else unquote(match[1]))
        else:
            await self._respond(await self._read(server.core))

    # Access.

    def _refusal(self, server: GatewayServer) -> HttpResponse | None:
        """Return the refusal of a request; None lets it in."""
        headers = self._headers
        if any(len(headers.getlist(name)) > 1 for name in ("Host", "Origin", "Authorization")):
            return refusal(ErrorCode.BAD_REQUEST, REPEATED_HEADER)
        version = self._scope.get("http_version", "1.1")
        host, origin = headers.get("Host"), headers.get("Origin")
        refused = server.access.check(host, origin, self._query, headers.keys(), version)
        if refused is not None:
            return refused
        if not server.core.authenticator.needs_token and not is_loopback(self._address):
            message = "without tokens only clients on this machine are served: give the runtime a token"
            return refusal(ErrorCode.FORBIDDEN, message)
        if self._scope.get("method", "GET") not in ("GET", "HEAD"):
            message = "only GET and HEAD are answered here"
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "bad_request", message, Allow="GET, HEAD")
        return None if server.is_accepting else unavailable()

    def _check_capacity(self, server: GatewayServer) -> HttpResponse | None:
        return server.core.check_capacity(self._descriptor(server))

    def _descriptor(self, server: GatewayServer) -> int | None:
        """Return the number of the connection's descriptor, if it is known."""
        accepted = server.sockets.find(self._scope.get("client"), self._scope.get("server"))
        return None if accepted is None else accepted.fileno()

    @property
    def _token(self) -> str | None:
        return bearer(self._headers.get("Authorization"))

    # Responses.

    async def _respond(self, response: HttpResponse) -> None:
        self._has_response = True
        await respond(response, self._scope, self._receive, self._send)

    async def _refuse(self, refused: HttpResponse) -> None:
        self._has_response = True
        await refuse(refused, self._scope, self._receive, self._send)

    async def _read(self, core: Gateway) -> HttpResponse:
        if not self._path:  # the URLs in the page are relative to its folder
            folder = self._scope["path"].rpartition("/")[2]
            return response_of("text/plain", b"", HTTPStatus.TEMPORARY_REDIRECT, Location=f"{quote(folder)}/")
        if self._path == PATH:
            message = f"{PATH} is for WebSockets"
            return error_response(HTTPStatus.UPGRADE_REQUIRED, "bad_request", message, Upgrade="websocket")
        host = self._headers.get("Host", "")
        request = HttpRequest(path=self._path, query=self._query, host=host, token=self._token, address=self._address)
        try:
            return await call(core, lambda: answer(core, request))
        except NotServingError:
            return unavailable()

    # Events.

    async def _on_events(self, server: GatewayServer, agent: str) -> None:
        refused = self._check_capacity(server)
        if self._token is None and server.core.authenticator.needs_token:
            message = "a token is needed: send Authorization: Bearer TOKEN"
            refused = refusal(ErrorCode.UNAUTHENTICATED, message)
        try:
            last = self._headers.get("Last-Event-ID")
            seen = sse.EventId.parse(last) if last else None
            subscribe = sse.subscription(agent, self._query, seen)
        except InvalidValueError as error:
            refused = refusal(ErrorCode.BAD_REQUEST, str(error))
        if refused is not None:
            await self._respond(refused)
            return
        peer = AsgiPeer(server.core, address=self._address, token=self._token)
        await peer.put(frames.encode(subscribe).decode())
        await converse(server.core, peer, self._send_events(sse.EventStream(agent, seen), peer), self._until_gone())
        if not self._has_response:
            await self._respond(unavailable())

    async def _send_events(self, stream: sse.EventStream, peer: AsgiPeer) -> None:
        """Send the gateway's frames as events, until the stream is over or the client has disconnected."""
        try:
            async with aclosing(peer.outgoing()) as outgoing:
                async for frame in outgoing:
                    event = stream.take(frame)
                    if isinstance(event, HttpResponse):
                        await self._respond(event)
                        return
                    if event and not self._has_response:
                        self._has_response = True
                        headers = Headers(sse.HEAD).raw
                        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                    await self._send_event(event, peer, len(frame.json))
                    if stream.is_over or (event and self._scope["method"] == "HEAD"):
                        break
            if self._has_response:
                await self._send({"type": "http.response.body"})
        except GONE:
            pass

    async def _send_event(self, event: bytes, peer: AsgiPeer, size: int) -> None:
        """Send an event in chunks, and note each as taken, up to the size of its frame."""
        for start in range(0, len(event), CHUNK_BYTES):
            body = event[start : start + CHUNK_BYTES]
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            peer.took(min(size, CHUNK_BYTES))
            size -= min(size, CHUNK_BYTES)
        peer.took(size)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue

    # WebSockets.

    async def _on_websocket(self, server: GatewayServer) -> None:
        refused = self._check_capacity(server)
        if self._path != PATH:
            refused = refused or refusal(ErrorCode.NOT_FOUND, f"WebSockets are at {PATH}")
        if refused is not None:
            await self._refuse(refused)
            return
        offered = self._scope.get("subprotocols", [])
        chosen = frames.SUBPROTOCOL if frames.SUBPROTOCOL in offered else None
        await self._send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        peer = AsgiPeer(server.core, address=self._address, token=self._token or offered_token(offered))
        await converse(server.core, peer, self._send_frames(peer), self._put_frames(peer))

    async def _send_frames(self, peer: AsgiPeer) -> None:
        try:
            async with aclosing(peer.outgoing()) as outgoing:
                async for frame in outgoing:
                    await self._send_frame(frame, peer)
            assert peer.ending is not None
            code, reason = peer.ending
            await self._send({"type": "websocket.close", "code": code, "reason": close_reason(reason)})
        except GONE:
            pass

    async def _send_frame(self, frame: PreparedFrame, peer: AsgiPeer) -> None:
        await self._send({"type": "websocket.send", "text": frame.json.decode()})
        peer.took(len(frame.json))

    async def _put_frames(self, peer: AsgiPeer) -> None:
        while (message := await self._receive())["type"] == "websocket.receive":
            text = message.get("text")
            await peer.put(text if text is not None else message["bytes"])


def _path(scope: Scope) -> str:
    """Return the path below the mount point, percent-encoded; empty for the mount point without a slash."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return quote(below if below[:1] in ("", "/") else path)
