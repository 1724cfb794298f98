"""uvicorn's WebSocket within the gateway's limits, and its log within a rate.

uvicorn accepts any number of fragments and control frames, answers the pings of a peer that does not read the pongs,
and closes for a broken frame with a traceback and without a reason. `StrictProtocol` adds the documented limits, UTF-8
validation of each fragment, and a `goodbye` before the close frame. The methods of uvicorn that are overridden are not
documented: a version that lacks one keeps uvicorn's own class, with its limits. Runs on uvicorn's loop.
"""

import asyncio
import codecs
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.limits import Bucket, FrameMeter, Limits
from commitcast.gateway.server.sockets.websocket import ABNORMAL_CLOSURE, CLOSE_TIMEOUT_S, SmallReads

INTERNALS: Final = ("data_received", "pause_writing", "resume_writing", "handle_parser_exception", "receive")
"""Methods of uvicorn's class that this one overrides or relies on; tested with uvicorn 0.54."""
LOG_EVERY_S: Final = 60.0
"""Between two warnings of the same text: any client can cause one."""
MAX_WARNINGS: Final = 100
"""Different texts that are remembered; uvicorn has fewer than ten."""
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)

_Utf8: Final = codecs.getincrementaldecoder("utf-8")


class TooMuchError(Exception):
    """A message has too many fragments, or a connection too many frames."""


class StrictProtocol(ServerProtocol):
    """`ServerProtocol` with the gateway's limits. Pure: bytes in, events and bytes out."""

    def __init__(self, *args: Any, bucket: Bucket, clock: Callable[[], float], **options: Any) -> None:
        self._bucket = bucket
        self._meter = FrameMeter(clock)
        self._text: codecs.IncrementalDecoder | None = None
        super().__init__(*args, **options)

    def recv_frame(self, frame: Frame) -> None:
        """Accept a frame if its message is within the limits.

        Raises:
            UnicodeDecodeError: the text is not UTF-8; the library closes with 1007 for it.
        """
        fault = self._meter.fault_of(frame.opcode, self._bucket, is_open=self.state is State.OPEN)
        if fault is not None:
            self.fail(*fault)
            self.parser_exc = TooMuchError(fault[1])
            return
        if frame.opcode in _DATA:
            self._check_text(frame)
        super().recv_frame(frame)

    def send_ping(self, data: bytes | bytearray | memoryview) -> None:
        """Send a ping, whose pong is free."""
        self._meter.ping()
        super().send_ping(data)

    def _check_text(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._text = _Utf8()
        elif frame.opcode is Opcode.BINARY:
            self._text = None
        if self._text is not None:
            self._text.decode(frame.data, final=frame.fin)

    def fail(self, code: int, reason: str = "") -> None:
        """Close for a fault of the peer, after a `goodbye`."""
        if self.state is State.OPEN and code != ABNORMAL_CLOSURE:
            self.send_text(frames.encode(frames.Goodbye(code=code, reason=reason)))
        super().fail(code, reason)


class BoundedWebSocket(WebSocketsSansIOProtocol, SmallReads):
    """A connection."""

    def __init__(self, *args: Any, limits: Limits | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timer: asyncio.TimerHandle | None = None  # not in every version
        limits = limits or Limits()
        bucket = Bucket(limits.requests_per_s, limits.burst, time.monotonic())
        self.conn = StrictProtocol(
            max_size=self.config.ws_max_size, logger=self.logger, bucket=bucket, clock=time.monotonic
        )

    def data_received(self, data: bytes) -> None:
        """Parse what came. Reading is paused while the peer does not read: each ping costs a pong."""
        if self.transport.is_closing() or self.conn.parser_exc is not None:
            return
        super().data_received(data)
        if not self.writable.is_set():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading, unless the app has not received yet what was read."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def handle_parser_exception(self) -> None:
        """Close; without a close frame if the handshake is not answered yet.

        uvicorn closes the socket at once. If the peer is still sending, the system then answers with a reset, and the
        peer may never see the reason. So the rest is read and discarded for `CLOSE_TIMEOUT_S`.
        """
        self.close_sent = self.handshake_complete = self.disconnected = True  # for the app the client is gone
        code = ABNORMAL_CLOSURE if self.conn.close_sent is None else self.conn.close_sent.code
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.conn.close_sent is None or not self.transport.can_write_eof():  # TLS cannot close one direction only
            self.transport.close()
            return
        self.transport.write_eof()
        self.read_paused = False
        self.transport.resume_reading()
        if self.close_timer is not None:  # the app has closed it already
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)


def websocket_options(limits: Limits) -> dict[str, Any]:
    """Return uvicorn's options for WebSockets."""
    own: dict[str, Any] = {"ws": partial(BoundedWebSocket, limits=limits), "ws_max_size": frames.MAX_FRAME_BYTES}
    other: dict[str, Any] = {"ws_max_size": 2 * frames.MAX_FRAME_BYTES}  # a frame in between is refused with a goodbye
    has_all = all(name in vars(WebSocketsSansIOProtocol) for name in INTERNALS)
    # No compression: each frame would be compressed for each subscriber.
    return {"ws_per_message_deflate": False, **(own if has_all else other)}


class SeldomWarnings(logging.Filter):
    """Lets each warning through once in `LOG_EVERY_S`, with the number suppressed; errors always."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        if record.levelno != logging.WARNING:
            return True
        now, key = self._clock(), str(record.msg)
        logged_at, suppressed = self._logged.get(key, (now - LOG_EVERY_S, 0))
        if now - logged_at < LOG_EVERY_S:
            self._logged[key] = logged_at, suppressed + 1
            return False
        if len(self._logged) < MAX_WARNINGS or key in self._logged:
            self._logged[key] = now, 0
        if suppressed:
            record.msg = f"{record.getMessage()} ({suppressed} more since the last such line)"
            record.args = None
        return True
