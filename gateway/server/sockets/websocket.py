"""One WebSocket connection of the server; the only module that uses more of `websockets` than its documented API.

Adds to `ServerConnection`: a write that shares one prepared frame with other connections, callbacks when the transport
pauses and resumes writing, limits on fragments and control frames, a `goodbye` before the library closes for a client's
fault, and JSON answers to requests that the library would refuse with a text of its own or drop. The undocumented
methods are listed in `INTERNALS`, tested with websockets 15 to 17; where one is missing, frames are sent by the
documented `broadcast`, which builds one per connection. Runs on the gateway's loop.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Generator
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from commitcast.gateway.hub.encoding import WINDOW_BITS, PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.limits import Bucket, FrameMeter
from commitcast.gateway.server.http.request import error_response
from commitcast.gateway.server.pump import Pump
from commitcast.gateway.server.sockets.websockets_compat import RequestLine, status_of

WRITE_LIMIT_BYTES: Final = 64 * 1024
"""Unsent bytes beyond which the connection is paused; further messages stay in memory or in the store."""
UNSENT_LIMIT_BYTES: Final = 16 * 1024
"""TCP_NOTSENT_LOWAT: without it the kernel takes 4 MiB, behind which a ping waits until a slow client seems dead."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long a peer may take to read what is left and to close; then the connection is dropped."""
READ_BYTES: Final = 4 * 1024
"""Parsed per turn of the loop: 700 of the smallest frames. asyncio reads 64 times as much by itself, which blocks the
loop for a third of a second and does not stop at a `pause_reading` in between."""
MAX_REASON_BYTES: Final = 123
"""Of a close frame: 125 without the code (RFC 6455 section 5.5). The library raises if there are more."""
COMPRESSION: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
)
"""What is negotiated: each message is compressed by itself, so that all connections can share a compressed frame."""
INTERNALS: Final = (
    *("protocol", "transport", "loop", "data_received", "process_event", "send_data"),
    *("pause_writing", "resume_writing"),
)
ABNORMAL_CLOSURE: Final = 1006
"""RFC 6455 section 7.4.1: the connection ended without a close frame, so nothing can be sent."""

_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # 25 on Linux; not in every Python
_PING: Final = b"\x89\x00"
"""A ping without payload; the library did not send it, so it ignores the pong."""
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_REFUSALS: Final = {
    HTTPStatus.REQUEST_URI_TOO_LONG: ("bad_request", "the request line is too long: 8 KiB at most"),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        "bad_request",
        "there are too many headers, or one is longer than 8 KiB",
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "the server is stopping"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal", "the server failed; its log has the details"),
}
"""By status, the library's refusals for other reasons than a wrong handshake."""
_UNREADABLE: Final = (
    "bad_request",
    "this request cannot be answered here: send GET or HEAD over HTTP/1.1, without a body",
)


def close_reason(reason: str) -> str:
    """Return a text cut to the bytes that a close frame holds."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


class SmallReads(asyncio.Protocol, asyncio.BufferedProtocol):
    """Makes asyncio read at most `READ_BYTES` per turn of the loop, with TLS and without.

    Stands behind the class that has `data_received` in the method resolution order.
    """

    _view: memoryview

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into. It is not kept between reads: most connections are silent for long."""
        self._view = memoryview(bytearray(READ_BYTES))  # a view, because asyncio slices it for TLS
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over the bytes that were read."""
        data = bytes(self._view[:nbytes])
        del self._view
        self.data_received(data)


class GatewayConnection(ServerConnection, SmallReads):
    """A subscriber's connection: a `Peer`."""

    def __init__(self, *args: Any, pump: Pump, **options: Any) -> None:
        super().__init__(*args, **options)
        _answer_bad_requests(self.protocol)
        self.subscriber = Subscriber(self)
        self.request_line = RequestLine(self.protocol)
        self.token: str | None = None
        self.was_heard = True
        self.bucket = Bucket.of_stranger(time.monotonic())
        self.peer_address = ""
        self._pump = pump
        self._shares_frames = False
        self._compresses = False
        self._meter = FrameMeter(time.monotonic)
        self._has_failed = False
        self._failed_early: tuple[int, str] | None = None
        self._pinging: asyncio.Future[Any] | None = None

    # What the library calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.peer_address = str(address[0]) if isinstance(address, tuple) else ""
        raw = transport.get_extra_info("socket")
        try:
            raw.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LIMIT_BYTES)
        except (OSError, AttributeError):  # another system, or a socket without TCP: it works without, less well
            pass
        if all(hasattr(self, name) for name in INTERNALS):
            self._shares_frames = True
            self._say_goodbye_before_failing()

    def connection_lost(self, error: Exception | None) -> None:
        """End all waits for the end of the connection. The library asserts this state, and may be in another one."""
        self.protocol.receive_eof()
        self.protocol.state = State.CLOSED
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Note that the peer is alive. Reading is paused while the peer does not read: each ping costs a pong."""
        if self.transport.is_closing():
            return
        self.was_heard = True
        super().data_received(data)
        if self.subscriber.is_paused:
            self.transport.pause_reading()

    def process_event(self, event: Any) -> None:
        """Count frames; the library's own limit on fragments holds for the whole process, and is high."""
        if isinstance(event, Frame):
            is_open = self.protocol.state is State.OPEN
            fault = None if self._has_failed else self._meter.fault_of(event.opcode, self.bucket, is_open=is_open)
            if fault is not None:
                self.protocol.fail(*fault)
                self.send_data()
            if not is_open and event.opcode in _DATA:
                return  # it came with the frame that the connection was closed for
        super().process_event(event)

    def send_data(self) -> None:
        """Send everything with one write: the answer to a read full of pings."""
        writes = self.protocol.data_to_send()
        if self.transport.is_closing():  # asyncio would log a warning
            return
        if data := b"".join(writes):
            self.transport.write(data)
        if b"" in writes:  # the library's mark for the end
            self.protocol.writes.append(b"")
            super().send_data()

    def pause_writing(self) -> None:
        """Pause the subscriber: the write buffer is full."""
        super().pause_writing()
        self.subscriber.pause()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume the subscriber: the write buffer has drained."""
        super().resume_writing()
        self._pump.resume(self.subscriber)
        if not self.recv_messages.paused:  # the library has paused reading for its own reason
            self.transport.resume_reading()

    def _say_goodbye_before_failing(self) -> None:
        """Send `goodbye` before the library closes for a fault of the peer, such as a frame that is too large."""
        fail = self.protocol.fail

        def say_goodbye_and_fail(code: int, reason: str = "") -> None:
            if self.protocol.state is State.CONNECTING and code != ABNORMAL_CLOSURE:
                # There are bytes behind the request, which is answered nevertheless.
                self._failed_early = code, reason
                self.protocol.parser = self._discard()
                return
            self._has_failed = True
            if code != ABNORMAL_CLOSURE:
                self.loop.call_later(CLOSE_TIMEOUT_S, self.abort)  # the library would go on reading
                self.write(PreparedFrame(frames.Goodbye(code=code, reason=reason)))
            fail(code, reason)

        self.protocol.fail = say_goodbye_and_fail  # type: ignore[method-assign]  # the library has no hook for it

    def _discard(self) -> Generator[None, None, None]:
        """Discard everything up to the end of the stream."""
        while True:
            self.protocol.reader.discard()
            if self.protocol.reader.eof:
                self.protocol.state = State.CLOSED
            yield

    # What the gateway calls.

    def is_negotiated(self) -> None:
        """Note the result of the handshake."""
        if self._failed_early is not None:
            self.protocol.fail(*self._failed_early)
            self.send_data()
        extensions = self.protocol.extensions
        deflate = next((extension for extension in extensions if isinstance(extension, PerMessageDeflate)), None)
        # A client that insists on a smaller window than the shared frames have gets them uncompressed.
        self._compresses = deflate is not None and deflate.local_max_window_bits >= WINDOW_BITS

    async def receive(self) -> AsyncIterator[str | bytes]:
        """Yield the client's messages until the connection ends, in any way."""
        try:
            async for data in self:
                yield data
        except (ConnectionClosed, OSError):
            pass

    def write(self, frame: PreparedFrame) -> int:
        """Send a frame without waiting and return its size in bytes; does nothing if the connection is not open."""
        if self.transport.is_closing():  # asyncio would log a warning
            return 0
        if not self._shares_frames:
            broadcast([self], frame.json.decode())
            return len(frame.json)
        if self.protocol.state is not State.OPEN:
            return 0
        data = frame.compressed if self._compresses else frame.plain
        self.transport.write(data)
        return len(data)

    def send_ping(self) -> None:
        """Ping the peer, without waiting for the pong."""
        if not self._shares_frames:
            self._pinging = asyncio.ensure_future(self.ping())
        elif self.protocol.state is State.OPEN and not self.transport.is_closing():
            self._meter.ping()
            self.transport.write(_PING)

    async def wait_until_writable(self) -> None:
        """Wait while the write buffer is full, and give other connections a turn.

        Raises:
            OSError: the connection was lost meanwhile.
        """
        await asyncio.sleep(0)
        await self.drain()

    async def finish(self, code: int, reason: str) -> None:
        """Close the connection, and drop it if the peer does not close in `CLOSE_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.close(code, close_reason(reason))
        except TimeoutError:  # `close` has no limit of its own while the write buffer is full
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a close frame. Unsent bytes are lost."""
        if hasattr(self, "transport"):
            self.transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the write buffer."""
        return self.transport.get_write_buffer_size()


# Requests that the library would refuse with a text of its own, which quotes headers and so may quote a token.


def _answer_bad_requests(protocol: ServerProtocol) -> None:
    """Make a connection's protocol answer in JSON, and also where it would drop the connection without an answer."""
    send_eof = protocol.send_eof

    def answer_and_send_eof() -> None:
        error = protocol.handshake_exc
        if isinstance(error, InvalidMessage) and not protocol.reader.eof:  # else the peer has left
            status = status_of(error)
            protocol.writes.append(_response(status, *_REFUSALS.get(status, _UNREADABLE)).serialize())
        send_eof()

    protocol.reject = _reject  # type: ignore[method-assign, assignment]  # it names the second argument
    protocol.send_eof = answer_and_send_eof  # type: ignore[method-assign]  # the library has no hook for it


def _reject(status: StatusLike, _: str) -> Response:
    status = HTTPStatus(status)
    not_a_handshake = f"this is not a WebSocket handshake at {frames.PATH}: {status.phrase}"
    return _response(status, *_REFUSALS.get(status, ("bad_request", not_a_handshake)))


def _response(status: HTTPStatus, code: str, message: str) -> Response:
    response = error_response(status, code, message)
    return Response(status.value, status.phrase, Headers({**response.headers, "Connection": "close"}), response.body)
