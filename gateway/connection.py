"""One WebSocket connection of the server: the only place that touches more of `websockets` than `serve` and `recv`.

Adds to `ServerConnection` a write that does not wait, and word of when the socket takes no more and takes more again.
Runs on the gateway's loop.
"""

import asyncio
import socket
from typing import Any, Final, Protocol

from websockets.asyncio.server import ServerConnection, broadcast

from commitcast.gateway.hub import Subscriber

WRITE_LIMIT_BYTES: Final = 64 * 1024
"""Beyond this the connection is paused; the rest stays in the ring or the store."""
UNSENT_LIMIT_BYTES: Final = 16 * 1024
"""TCP_NOTSENT_LOWAT: without it the kernel takes 4 MiB, behind which the keepalive's ping waits too long."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long a peer may take to read what is left and to close; then the connection is dropped."""
_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # 25 on Linux; not in every Python


class FlowListener(Protocol):
    """Who wants to know whether a connection takes more."""

    def pause(self, subscriber: Subscriber) -> None:
        """It takes no more."""

    def resume(self, subscriber: Subscriber) -> None:
        """It takes more again."""


class GatewayConnection(ServerConnection):
    """A subscriber's connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.subscriber = Subscriber(self)
        self.is_authenticated = False
        self.listener: FlowListener | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        try:
            raw.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LIMIT_BYTES)
        except (OSError, AttributeError):  # another system, or a socket that is no TCP: it works without, less well
            pass

    def pause_writing(self) -> None:
        """The write buffer is full."""
        super().pause_writing()
        if self.listener is not None:
            self.listener.pause(self.subscriber)

    def resume_writing(self) -> None:
        """The write buffer is empty enough."""
        super().resume_writing()
        if self.listener is not None:
            self.listener.resume(self.subscriber)

    def write(self, data: bytes) -> None:
        """Send a text frame without waiting; does nothing if the connection is not open."""
        if not self.transport.is_closing():  # else asyncio would warn of what nobody can help
            broadcast([self], data, text=True)

    async def wait_until_it_takes_more(self) -> None:
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
