"""What peers send beside requests, counted against the same rate. Pure.

No session sees control frames, nor in how many fragments a message comes; each costs as much as a request to take. Used
by every door that parses WebSocket frames.
"""

from collections.abc import Callable
from typing import Final

from websockets.frames import Opcode

from commitcast.gateway.protocol.errors import CloseCode
from commitcast.gateway.server.access.limits import MAX_FRAGMENTS, Bucket

MESSAGE_TOO_BIG: Final = 1009
"""RFC 6455 section 7.4.1."""

Fault = tuple[int, str]
"""Code and reason of a close."""


class FrameMeter:
    """Counts the frames of one connection."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pings = 0
        self._fragments = 0

    def ping(self) -> None:
        """Note a ping to the peer: the pong that answers it costs nothing."""
        self._pings += 1

    def fault_of(self, opcode: Opcode, bucket: Bucket, *, is_open: bool) -> Fault | None:
        """Count a frame; return what its connection is to be closed with, if it is one too many.

        Args:
            opcode: of the frame.
            bucket: of the connection. A message is drawn from it by its session, anything else here.
            is_open: False once the connection closes, and no session counts.
        """
        if opcode is Opcode.CONT:
            self._fragments += 1
            if self._fragments >= MAX_FRAGMENTS:
                return MESSAGE_TOO_BIG, f"a message may have {MAX_FRAGMENTS} fragments"
        elif opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._fragments = 0
            if is_open:
                return None
        elif opcode is Opcode.PONG and self._pings:
            self._pings -= 1
            return None
        bucket.take(self._clock(), 1.0)
        return (CloseCode.RATE, "too many frames: slow down") if bucket.is_overdrawn else None
