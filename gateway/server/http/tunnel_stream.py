"""One end of a tunnel's connection: frames in, frames out, and an end that loses nothing.

Backpressure is the socket's own: a write waits while the peer does not read, and nothing is read that is not asked for,
so each end holds a frame, a part and the buffers of its socket at most. A Unix socket that is closed with unread bytes
resets the connection, and its peer loses what it has not read yet. So each end finishes writing first, and then reads
to the other's end. Runs on the loop of its streams.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from commitcast.gateway.server.http import tunnel_frames
from commitcast.gateway.server.http.tunnel_frames import FromHost, FromServer

T = TypeVar("T")

SOCKET_BYTES: Final = 64 * 1024
"""Of the socket's send buffer, which Linux doubles: by default it takes more than 200 KiB that nobody reads."""
END_TIMEOUT_S: Final = 2.0
"""For the peer to read what is left and to end; then the connection is dropped."""

_DISCARDED_BYTES: Final = 64 * 1024
"""Read at once of what is not wanted any more."""


class FrameStream(Generic[T]):
    """One end of a connection, which receives one kind of frames."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decode: Callable[[bytes], T]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decode = decode
        with suppress(OSError):  # it is lost already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)

    @property
    def _socket(self) -> socket.socket:
        found: socket.socket = self._writer.get_extra_info("socket")
        return found

    @property
    def descriptor(self) -> int:
        """The number of the socket's descriptor."""
        return self._socket.fileno()

    async def receive(self) -> T | None:
        """Return the next frame's message; None if the peer has ended or is lost. Cancelling is safe between frames.

        Raises:
            BadFrameError: the peer has sent something else.
        """
        try:
            size = tunnel_frames.size_of(await self._reader.readexactly(tunnel_frames.PREFIX_BYTES))
            return self._decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def send(self, message: FromHost | FromServer) -> None:
        """Send a message; wait while the peer does not read.

        Raises:
            OSError: the connection is lost.
            BadFrameError: the message is too large.
        """
        self._writer.write(tunnel_frames.encode(message))
        await self._writer.drain()

    async def end(self) -> None:
        """Finish writing, and read to the peer's end, for `END_TIMEOUT_S` at most. What comes is discarded."""
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(END_TIMEOUT_S):
                self._writer.write_eof()
                while await self._reader.read(_DISCARDED_BYTES):
                    continue

    def close(self) -> None:
        """Drop the connection. Unsent bytes are lost. Idempotent."""
        self._writer.transport.abort()
