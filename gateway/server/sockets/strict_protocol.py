"""The server's half of a WebSocket where another server holds the socket: the documented bounds, and a goodbye first.

`websockets` parses; added are the bounds on fragments and on frames that no app sees, UTF-8 that is checked as it
comes, and the goodbye before the close frame of a peer's fault. Pure: bytes in, events and bytes out.
"""

import codecs
from collections.abc import Callable
from typing import Any, Final

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.limits import Bucket
from commitcast.gateway.server.access.rates import FrameMeter

ABNORMAL_CLOSURE: Final = 1006
"""Of a connection that is gone already, to which nothing is said: RFC 6455 section 7.4.1."""
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)

_Utf8: Final = codecs.getincrementaldecoder("utf-8")


class TooMuchError(Exception):
    """A message has more fragments than it may have, or there are too many frames."""


class StrictProtocol(ServerProtocol):
    """`ServerProtocol` with the gateway's bounds."""

    def __init__(self, *args: Any, bucket: Bucket, clock: Callable[[], float], **options: Any) -> None:
        self._bucket = bucket
        self._meter = FrameMeter(clock)
        self._text: codecs.IncrementalDecoder | None = None
        super().__init__(*args, **options)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame if its message keeps to the bounds.

        Raises:
            UnicodeDecodeError: the text is none; the library closes with 1007 for it.
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
        """Send a ping, whose pong is none too many."""
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
        """Close for a fault of the peer's, after a goodbye."""
        if self.state is State.OPEN and code != ABNORMAL_CLOSURE:
            self.send_text(frames.encode(frames.Goodbye(code=code, reason=reason)))
        super().fail(code, reason)
