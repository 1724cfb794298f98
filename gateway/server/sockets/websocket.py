"""One WebSocket connection of the server: the only place that touches more of `websockets` than `serve` and `recv`.

Adds to `ServerConnection` a write that shares one prepared frame with other connections, word of when the socket takes
no more and takes more again, bounds on fragments and on control frames, and a goodbye before the library closes for a
client's fault. What it uses beyond the documented API is listed in `INTERNALS` and was tested with websockets 15 to 17;
where one of them is missing, frames are sent by the documented `broadcast`, which builds one for each. Runs on the
gateway's loop.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Generator
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from commitcast.gateway.hub.encoding import WINDOW_BITS, PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.limits import Bucket
from commitcast.gateway.server.access.rates import FrameMeter
from commitcast.gateway.server.http.bad_requests import answer_bad_requests
from commitcast.gateway.server.pump import Pump
from commitcast.gateway.server.sockets.older_websockets import RequestLine
from commitcast.gateway.server.sockets.small_reads import SmallReads

WRITE_LIMIT_BYTES: Final = 64 * 1024
"""Beyond this the connection is paused; the rest stays in the ring or the store."""
UNSENT_LIMIT_BYTES: Final = 16 * 1024
"""TCP_NOTSENT_LOWAT: without it the kernel takes 4 MiB, behind which a ping waits until a slow client seems dead."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long a peer may take to read what is left and to close; then the connection is dropped."""
COMPRESSION: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
)
"""What is negotiated: every message for itself, so that one compressed frame is right for everybody."""
INTERNALS: Final = (
    *("protocol", "transport", "loop", "data_received", "process_event", "send_data"),
    *("pause_writing", "resume_writing"),
)

_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # 25 on Linux; not in every Python
_GONE: Final = 1006
"""The library's code for a connection that ended without a close frame: nobody is there to be told anything."""
_PING: Final = b"\x89\x00"
"""A ping without payload; its pong is one that the library did not ask for, and ignores."""
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class GatewayConnection(ServerConnection, SmallReads):
    """A subscriber's connection."""

    def __init__(self, *args: Any, pump: Pump, **options: Any) -> None:
        super().__init__(*args, **options)
        answer_bad_requests(self.protocol)
        self.subscriber = Subscriber(self)
        self.request_line = RequestLine(self.protocol)
        self.token: str | None = None
        """That came with the handshake."""
        self.was_heard = True
        """Something came from the peer since this was last set to False."""
        self.bucket = Bucket.of_stranger(time.monotonic())
        """What is drawn from by all that comes; a stranger's, until its session knows who it is."""
        self.peer_address = ""
        """Where it comes from, without the port; empty if that is not known."""
        self._pump = pump
        self._shares_frames = False
        self._compresses = False
        self._meter = FrameMeter(time.monotonic)
        self._has_failed = False
        self._failed_early: tuple[int, str] | None = None
        self._asking: asyncio.Future[Any] | None = None

    # What the library calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.peer_address = str(address[0]) if isinstance(address, tuple) else ""
        raw = transport.get_extra_info("socket")
        try:
            raw.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LIMIT_BYTES)
        except (OSError, AttributeError):  # another system, or a socket that is no TCP: it works without, less well
            pass
        if all(hasattr(self, name) for name in INTERNALS):
            self._shares_frames = True
            self._say_goodbye_before_failing()

    def connection_lost(self, error: Exception | None) -> None:
        """End all waits for the connection's end, in whatever state the library is: it asserts that it is this one."""
        self.protocol.receive_eof()
        self.protocol.state = State.CLOSED
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Note that the peer is there; read no more from one that does not read: each ping of its costs a pong."""
        if self.transport.is_closing():
            return
        self.was_heard = True
        super().data_received(data)
        if self.subscriber.is_paused:
            self.transport.pause_reading()

    def process_event(self, event: Any) -> None:
        """Count frames; the library's own bound on fragments is for the whole process, and high."""
        if isinstance(event, Frame):
            is_open = self.protocol.state is State.OPEN
            fault = None if self._has_failed else self._meter.fault_of(event.opcode, self.bucket, is_open=is_open)
            if fault is not None:
                self.protocol.fail(*fault)
                self.send_data()
            if not is_open and event.opcode in _DATA:
                return  # it came with what the connection was closed for
        super().process_event(event)

    def send_data(self) -> None:
        """Write what is to be sent at once: a read full of pings is answered with one write."""
        writes = self.protocol.data_to_send()
        if self.transport.is_closing():  # asyncio would warn of what nobody can help
            return
        if data := b"".join(writes):
            self.transport.write(data)
        if b"" in writes:  # it stands for the end
            self.protocol.writes.append(b"")
            super().send_data()

    def pause_writing(self) -> None:
        """The write buffer is full."""
        super().pause_writing()
        self.subscriber.pause()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The write buffer is empty enough."""
        super().resume_writing()
        self._pump.resume(self.subscriber)
        if not self.recv_messages.paused:  # the library has its own reason to wait
            self.transport.resume_reading()

    def _say_goodbye_before_failing(self) -> None:
        """Have the goodbye of a frame that is too large, or none at all, go before the library's close frame."""
        fail = self.protocol.fail

        def say_goodbye_and_fail(code: int, reason: str = "") -> None:
            if self.protocol.state is State.CONNECTING and code != _GONE:
                # There are bytes behind the request, which is answered all the same.
                self._failed_early = code, reason
                self.protocol.parser = self._swallow()
                return
            self._has_failed = True
            if code != _GONE:
                self.loop.call_later(CLOSE_TIMEOUT_S, self.abort)  # the library would read as long as something comes
                self.write(PreparedFrame(frames.Goodbye(code=code, reason=reason)))
            fail(code, reason)

        self.protocol.fail = say_goodbye_and_fail  # type: ignore[method-assign]  # the library has no hook for it

    def _swallow(self) -> Generator[None, None, None]:
        """Take what still comes for nothing, until the peer has said everything."""
        while True:
            self.protocol.reader.discard()
            if self.protocol.reader.eof:
                self.protocol.state = State.CLOSED
            yield

    # What the gateway calls.

    def is_negotiated(self) -> None:
        """Note what the handshake agreed on."""
        if self._failed_early is not None:
            self.protocol.fail(*self._failed_early)
            self.send_data()
        deflate = next((each for each in self.protocol.extensions if isinstance(each, PerMessageDeflate)), None)
        # A client may insist on a smaller window than that of the frames that are shared: it gets them plain.
        self._compresses = deflate is not None and deflate.local_max_window_bits >= WINDOW_BITS

    async def receive(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends, until the connection is gone, however that was."""
        try:
            async for data in self:
                yield data
        except (ConnectionClosed, OSError):
            pass

    def write(self, frame: PreparedFrame) -> int:
        """Send a frame without waiting, and return its bytes; does nothing if the connection is not open."""
        if self.transport.is_closing():  # asyncio would warn of what nobody can help
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
        """Ask the peer for a sign of life, without waiting for it."""
        if not self._shares_frames:
            self._asking = asyncio.ensure_future(self.ping())
        elif self.protocol.state is State.OPEN and not self.transport.is_closing():
            self._meter.ping()
            self.transport.write(_PING)

    async def wait_until_writable(self) -> None:
        """Wait while the write buffer is full, and let other connections have their turn.

        Raises:
            OSError: the connection was lost meanwhile.
        """
        await asyncio.sleep(0)
        await self.drain()

    async def finish(self, code: int, reason: str) -> None:
        """Close the connection, whether the peer helps or not."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.close(code, reason)
        except TimeoutError:  # `close` has no limit of its own while the write buffer is full
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a word. What was not sent is lost."""
        if hasattr(self, "transport"):
            self.transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the write buffer."""
        return self.transport.get_write_buffer_size()
