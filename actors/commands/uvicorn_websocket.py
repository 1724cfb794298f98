"""uvicorn's WebSocket within the gateway's bounds, and its log without what strangers can fill it with.

uvicorn takes any number of fragments and control frames, answers pings of a peer that reads no pongs, and closes for a
broken frame without a word and with a traceback. What is used of it is not documented: where a version lacks it,
uvicorn's own choice is taken, with its bounds. Runs on uvicorn's loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from commitcast.gateway.protocol.frames import MAX_FRAME_BYTES
from commitcast.gateway.server.access.limits import Bucket, Limits
from commitcast.gateway.server.sockets.small_reads import SmallReads
from commitcast.gateway.server.sockets.strict_protocol import StrictProtocol
from commitcast.gateway.server.sockets.websocket import CLOSE_TIMEOUT_S

INTERNALS: Final = ("data_received", "pause_writing", "resume_writing", "handle_parser_exception", "receive")
"""Methods of uvicorn's class that this one builds on; tested with uvicorn 0.54."""
LOG_EVERY_S: Final = 60.0
"""Between two warnings that say the same: anybody can cause one."""
MAX_WARNINGS: Final = 100
"""Different ones that are remembered; uvicorn has less than ten."""
_GONE: Final = 1006
"""RFC 6455 section 7.4.1."""


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
        """Take what came; read no more from a peer that does not read: each ping of its costs a pong."""
        if self.transport.is_closing() or self.conn.parser_exc is not None:
            return
        super().data_received(data)
        if not self.writable.is_set():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on, unless the app has not taken yet what was read."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def handle_parser_exception(self) -> None:
        """Close, also if the handshake is not answered yet: then there is nothing to say.

        uvicorn closes the socket at once; while more comes, the system would answer that with a reset, and the peer may
        never see why. So the rest is taken for nothing, for a while.
        """
        self.close_sent = self.handshake_complete = self.disconnected = True  # to the app it is a client that is gone
        code = _GONE if self.conn.close_sent is None else self.conn.close_sent.code
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.conn.close_sent is None or not self.transport.can_write_eof():  # TLS has an end of its own
            self.transport.close()
            return
        self.transport.write_eof()
        self.read_paused = False
        self.transport.resume_reading()
        if self.close_timer is not None:  # the app has closed it already
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)


def websocket_options(limits: Limits) -> dict[str, Any]:
    """Return what uvicorn is to be told of its WebSockets."""
    own: dict[str, Any] = {"ws": partial(BoundedWebSocket, limits=limits), "ws_max_size": MAX_FRAME_BYTES}
    other: dict[str, Any] = {"ws_max_size": 2 * MAX_FRAME_BYTES}  # what is between is told why, with a goodbye
    has_all = all(name in vars(WebSocketsSansIOProtocol) for name in INTERNALS)
    # No compression: each frame would be compressed for each subscriber.
    return {"ws_per_message_deflate": False, **(own if has_all else other)}


class SeldomWarnings(logging.Filter):
    """Lets each warning through once in a while, and says how many were not; what is worse always."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is logged."""
        if record.levelno != logging.WARNING:
            return True
        now, key = self._clock(), str(record.msg)
        told_at, untold = self._told.get(key, (now - LOG_EVERY_S, 0))
        if now - told_at < LOG_EVERY_S:
            self._told[key] = told_at, untold + 1
            return False
        if len(self._told) < MAX_WARNINGS or key in self._told:
            self._told[key] = now, 0
        if untold:
            record.msg = f"{record.getMessage()} ({untold} more since the last such line)"
            record.args = None
        return True
