"""The gateway's ASGI app where the gateway runs in another process: a door that forwards each request to it.

Each HTTP request and each WebSocket has a Unix stream connection of its own, with its own backpressure: a slow client
blocks nothing but its connection. The server judges the client's address, Host and Origin, and answers. Must hold no
more of a client than one frame. A client that has left ends the connection; without the server a request is answered
with 503, and a WebSocket is closed with 1012, after which clients reconnect. Runs on the loop that serves the app.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, runtime_checkable

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.http import tunnel_frames
from commitcast.gateway.server.http.asgi_response import GONE, app_of, refuse, unavailable
from commitcast.gateway.server.http.request import refusal
from commitcast.gateway.server.http.starlette_names import ASGIApp, Receive, Scope, Send
from commitcast.gateway.server.http.tunnel_frames import BadFrameError, Closed, FromServer
from commitcast.gateway.server.http.tunnel_stream import END_TIMEOUT_S, FrameStream
from commitcast.persistence.errors import CommitcastError

logger: Final = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 5.0
"""For a connection to the server, which is on this machine, and for the first frame."""
SERVICE_RESTART: Final = 1012
"""The close code of a WebSocket whose server has ended (RFC 6455 section 7.4.2, IANA). A client reconnects after it."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OpenConnection = Callable[[], Awaitable[Streams]]
"""Connects to the server on the running loop. Raises an `OSError` or a `CommitcastError` if there is none."""


@runtime_checkable
class TunnelOpener(Protocol):
    """A gateway in another process, to which an ASGI app forwards requests."""

    async def open_tunnel(self) -> Streams:
        """Return a connection of its own for one request, on the running loop.

        Raises:
            OSError: the gateway does not serve now.
            CommitcastError: as well.
        """
        ...


def tunnel_app(open_connection: OpenConnection) -> ASGIApp:
    """Return the app that forwards each request over a connection of its own.

    Threads: the app may be served by any event loop, also by several at once.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await relay(open_connection, scope, receive, send)

    return app_of(answer)


async def relay(open_connection: OpenConnection, scope: Scope, receive: Receive, send: Send) -> None:
    """Forward one request to the server, and its answer to the client."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    stream: FrameStream[FromServer] | None = None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            stream = FrameStream(*await open_connection(), tunnel_frames.decode_server)
            await stream.send(tunnel_frames.scope_of(scope))
    except BadFrameError:
        await refuse(refusal(ErrorCode.TOO_LARGE, "the headers are too large"), scope, receive, send)
    except (OSError, CommitcastError):  # TimeoutError is an OSError
        await refuse(unavailable(), scope, receive, send)
    else:
        await _Relay(scope, receive, send, stream).run()
    finally:
        if stream is not None:
            stream.close()


class _Relay:
    """One request: an ASGI conversation on one side, a connection to the server on the other."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, stream: FrameStream[FromServer]) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._stream = stream
        self._is_socket = scope["type"] == "websocket"
        self._text: list[bytes] = []
        """The parts of a text that is not complete."""
        self._text_bytes = 0
        self._refusal: tunnel_frames.Started | None = None
        """The beginning of a refusal of a WebSocket, until its body is there."""
        self._stall_timeout_s = 0.0
        self._has_begun = False
        """The response was begun, or the WebSocket accepted."""
        self._is_endless = False
        """The response does not say how long it is."""
        self._is_complete = False
        """The server has sent everything."""
        self._is_gone = False
        """The client has left, or reads nothing."""

    async def run(self) -> None:
        """Forward in both directions until one side has ended, and tell the other."""
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._answer())
            listening = group.create_task(self._listen())
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            answering.cancel()
            listening.cancel()
        if self._is_gone:
            await self._stream.end()
        elif not self._is_complete:
            await self._tell_lost()

    # To the server.

    async def _listen(self) -> None:
        """Forward what the client sends, until it has left or the server is lost."""
        while (message := await self._receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            if message["type"] == "websocket.receive":  # the body of an HTTP request is not read
                try:
                    await self._stream.send(tunnel_frames.received_of(message))
                except OSError:
                    return
        self._is_gone = True

    # To the client.

    async def _answer(self) -> None:
        """Forward the answer, until it is complete, the client has left or the server is lost."""
        try:
            while not self._is_complete and (frame := await self._stream.receive()) is not None:
                await self._forward(frame)
                await asyncio.sleep(0)  # an ASGI `send` need not yield, and the host serves other tasks
        except GONE:
            self._is_gone = True
        except (BadFrameError, UnicodeError):
            logger.exception("the gateway's server has sent what is not a frame of this version")

    async def _forward(self, frame: FromServer) -> None:
        match frame:
            case tunnel_frames.Started() if self._is_socket:
                # uvicorn refuses a WebSocket with as much of the body as it has when its loop turns: all of it, then.
                self._refusal = frame
                return
            case tunnel_frames.Text():
                if (text := self._complete_text(frame)) is None:
                    return
                message = {"type": "websocket.send", "text": text}
            case _:
                message = tunnel_frames.asgi_answer(frame, is_socket=self._is_socket)
        if self._refusal is not None:
            self._note_begin(self._refusal)
            await self._send(tunnel_frames.asgi_answer(self._refusal, is_socket=True))
            self._refusal = None
        if isinstance(frame, tunnel_frames.Started | tunnel_frames.Accepted):
            self._note_begin(frame)
        async with asyncio.timeout(self._stall_timeout_s or None):
            await self._send(message)
        self._is_complete = isinstance(frame, Closed) or (isinstance(frame, tunnel_frames.Body) and not frame.more)

    def _note_begin(self, frame: tunnel_frames.Started | tunnel_frames.Accepted) -> None:
        self._has_begun = True
        # Later than the server's own limit, which closes the connection with a reason where it can.
        self._stall_timeout_s = frame.stall_timeout_s + END_TIMEOUT_S
        self._is_endless = all(name.lower() != b"content-length" for name, _ in frame.headers)

    def _complete_text(self, frame: tunnel_frames.Text) -> str | None:
        """Return a text once all its parts are there."""
        if not frame.more and not self._text:
            return frame.part.decode()
        self._text.append(frame.part)
        self._text_bytes += len(frame.part)
        if self._text_bytes > tunnel_frames.MAX_TEXT_BYTES:
            raise BadFrameError("a text has too many parts")
        if frame.more:
            return None
        text = b"".join(self._text).decode()
        self._text, self._text_bytes = [], 0
        return text

    async def _tell_lost(self) -> None:
        """End what the server has left open, so that the client comes back."""
        with suppress(*GONE):  # TimeoutError is an OSError
            async with asyncio.timeout(END_TIMEOUT_S):
                if not self._has_begun:
                    await refuse(unavailable(), self._scope, self._receive, self._send)
                elif self._is_socket:
                    reason = "the gateway has ended: reconnect"
                    await self._send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": reason})
                elif self._is_endless:  # of any other response the ASGI server cuts the connection
                    await self._send({"type": "http.response.body", "body": b""})
