"""A WebSocket client for pools of thousands that costs as little as possible, so that the receiver is not measured.

Knows the part of RFC 6455 that a server's frames need: the handshake, whole unmasked text frames, ping and close. A
server sends a frame in 7.4 µs, and this client takes it in 4.3; the sans-IO protocol of `websockets` takes 6.5, its
asyncio client 8 to 10, which lowers `fanout` by a seventh. Runs on an event loop, into which it never raises.
"""

import asyncio
import base64
import os
import resource
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from benchmark_errors import BenchmarkError
from commitcast.gateway.protocol import frames

OPEN_TIMEOUT_S: Final = 60.0
"""A server that a thousand connect to at once answers the last of them late."""
SPARE_FILES: Final = 256

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A


def allow_files(count: int) -> None:
    """Let this process have that many connections.

    Raises:
        BenchmarkError: the system does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchmarkError(f"{count} connections need {wanted} open files and the limit is {hard}: raise it (ulimit)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LightClient(asyncio.Protocol):
    """One connection."""

    def __init__(self, url: str, take: Callable[[bytes], object]) -> None:
        """Make it; `open` connects.

        Args:
            url: `ws://…`.
            take: is given the content of each text frame; an error that it raises ends the connection.
        """
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the reason for the end of the connection: an error of `take`, or a ConnectionError."""
        self._url = urlsplit(url)
        self._take = take
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    async def open(self, receive_buffer_bytes: int | None = None) -> None:
        """Connect, with the handshake.

        Args:
            receive_buffer_bytes: how much the kernel buffers for a client that does not read; None for its own choice.

        Raises:
            OSError: there is no connection, or the server refuses to make it a WebSocket.
        """
        loop = asyncio.get_running_loop()
        peer = socket.socket()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                peer.setblocking(False)
                if receive_buffer_bytes is not None:  # before connecting, which fixes the window
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
                await loop.sock_connect(peer, (self._url.hostname, self._url.port))
                await loop.create_connection(lambda: self, sock=peer)
                await self._opened
        except BaseException:
            self.abort()
            peer.close()
            raise

    async def wait_for(self, future: asyncio.Future[None]) -> None:
        """Wait for a future that this connection completes.

        Raises:
            Exception: the reason for the end of the connection, if that comes first.
        """
        await asyncio.wait([future, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            self.closed.result()

    def send(self, text: bytes) -> None:
        """Send a text frame."""
        self._write(Opcode.TEXT, text)

    def stop_reading(self) -> None:
        """Never read from the socket again."""
        assert self._transport is not None
        self._transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, opcode: Opcode, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(Frame(opcode, data).serialize(mask=True))

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            f"GET {self._url.path} HTTP/1.1\r\nHost: {self._url.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {self._key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {frames.SUBPROTOCOL}\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Complete `closed`."""
        self._end(ConnectionError(f"the connection was lost ({error or 'the server closed it'})"))

    def data_received(self, data: bytes) -> None:
        """Take the whole frames in it."""
        try:
            data = self._rest + data if self._rest else data
            self._rest = data[self._scan(data) if self._opened.done() else self._answered(data) :]
        except Exception as error:  # asyncio would only log it
            self._end(error)

    def _end(self, error: Exception) -> None:
        for future in (self._opened, self.closed):
            if not future.done():
                future.set_exception(error)
                future.exception()  # a connection that is lost at the end is not an error, and need not be asked for
        self.abort()

    def _answered(self, data: bytes) -> int:
        """Take the answer to the handshake and what follows it; return how many bytes were taken."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return 0
        answer = data[:end].decode("latin-1")
        if not answer.startswith("HTTP/1.1 101 ") or accept_key(self._key) not in answer:
            raise ConnectionError(f"the server refused the connection: {answer.splitlines()[0]}")
        self._opened.set_result(None)
        return end + self._scan(data[end:])

    def _scan(self, data: bytes) -> int:
        """Take all whole frames; return how many bytes those were."""
        start, end = 0, len(data)
        while end - start >= 2:
            size, body = data[start + 1], start + 2
            if size > 125:
                width = 2 if size == 126 else 8
                if end - body < width:
                    break
                size, body = int.from_bytes(data[body : body + width]), body + width
            if end - body < size:
                break
            self._on_frame(data[start], data[body : body + size])
            start = body + size
        return start

    def _on_frame(self, first: int, content: bytes) -> None:
        if first == _TEXT:
            self._take(content)
        elif first == _PING:
            self._write(Opcode.PONG, content)
        elif first == _CLOSE:
            self._write(Opcode.CLOSE, content[:2])
            raise ConnectionError(f"the server closed the connection: {content[2:].decode()}")
        elif first != _PONG:
            raise ConnectionError(f"the server sent a frame that begins with {first:#x}")
