"""A server that follows the script of a case, handshake by handshake and frame by frame. Runs on the runner's loop."""

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from cases import SUBPROTOCOL, Fields
from matching import Mismatch, shown

UNASKED: Final = frozenset({"ack", "ping", "unsubscribe"})
"""What a client may say at any time: passed over unless a case expects it."""


class _Asking(NamedTuple):
    """A handshake that waits for its response."""

    request: Request
    came_at: float
    answer: asyncio.Future[int | None]


class Heard:
    """A client's connection, and the frames on it that were not expected yet."""

    def __init__(self, connection: ServerConnection) -> None:
        self.frames: deque[Fields] = deque()
        self.acked: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        """The cursors up to which each agent was sent."""
        self.failure: Mismatch | None = None
        self.is_over = False
        self.connection = connection

    def take(self, data: str | bytes) -> None:
        """Note what came; judge acknowledgements."""
        frame = json.loads(data) if isinstance(data, str) else None
        if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
            raise Mismatch(f"the client sent no frame: {shown(data)}")
        if frame["type"] == "ack":
            for agent, cursor in frame["agent"].items():
                if not self.acked.get(agent, 0) <= cursor <= self.sent.get(agent, 0):
                    raise Mismatch(f"acknowledged was {self.acked}, sent was {self.sent}, and this came: {frame}")
            self.acked |= frame["agent"]
        self.frames.append(frame)

    async def send(self, frame: Any) -> None:
        """Send a frame; or text as it is."""
        if isinstance(frame, dict) and isinstance(frame.get("last"), int):
            log = "*" if frame["type"] in ("status", "agent") else frame["agent"]
            self.sent[log] = max(self.sent.get(log, 0), frame["last"])
        with suppress(ConnectionClosed):
            await self.connection.send(frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False))


class ScriptedServer:
    """Accepts or refuses clients as the case says."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.url = ""
        self.lost_at = 0.0
        """When the last connection was ended, or refused, by this side."""
        self.heard: Heard | None = None
        """The newest connection."""
        self.failure: Mismatch | None = None
        self.asking: deque[_Asking] = deque()
        self._server: Server | None = None
        self._is_closing = False

    async def __aenter__(self) -> Self:
        options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None, "close_timeout": 1}
        protocols = [Subprotocol(SUBPROTOCOL)]
        self._server = await serve(
            self._handle, "127.0.0.1", 0, process_request=self._on_request, subprotocols=protocols, **options
        )
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/ws"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._is_closing = True
        for asking in self.asking:
            if not asking.answer.done():
                asking.answer.set_result(HTTPStatus.SERVICE_UNAVAILABLE)
        self._server.close()
        await self._server.wait_closed()

    async def _on_request(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._is_closing:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the case is over")
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.asking.append(_Asking(request, time.monotonic(), answer))
        self.news.set()
        status = await answer
        return None if status is None else connection.respond(HTTPStatus(status), "as the case says")

    async def _handle(self, connection: ServerConnection) -> None:
        heard = self.heard = Heard(connection)
        self.news.set()
        try:
            async for data in connection:
                heard.take(data)
                self.news.set()
        except ConnectionClosed:
            pass
        except Mismatch as error:
            self.failure = error
        heard.is_over = True
        self.news.set()

    def admit(self, after_ms: float) -> None:
        """Let the client that asks first in.

        Raises:
            Mismatch: it came too soon, does not speak this protocol, or shows something in its URL.
        """
        asking = self.asking.popleft()
        waited_ms = (asking.came_at - self.lost_at) * 1000
        if waited_ms < after_ms:
            raise Mismatch(f"the client was to stay away for {after_ms:g} ms and came after {waited_ms:.1f}")
        offered = asking.request.headers.get("Sec-WebSocket-Protocol", "")
        if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            raise Mismatch(f"the client was to offer {SUBPROTOCOL} and offered {offered!r}")
        if asking.request.path != "/v1/ws":
            raise Mismatch(f"the client was to ask for /v1/ws and asked for {asking.request.path!r}")
        asking.answer.set_result(None)

    def refuse(self, status: int) -> None:
        """Send the client that asks first away."""
        self.asking.popleft().answer.set_result(status)
        self.lost_at = time.monotonic()

    async def end(self, code: int | None, reason: str = "") -> None:
        """Close the connection; or, without a code, drop it without a word."""
        assert self.heard is not None
        self.lost_at = time.monotonic()
        if code is None:
            self.heard.connection.transport.abort()
        else:
            await self.heard.connection.close(code, reason)
