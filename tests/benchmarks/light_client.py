"""A WebSocket client for pools of thousands, on the sans-IO protocol of `websockets`.

The receiver must cost less CPU than what is measured: a server sends a frame in 7.4 µs, this client takes it in 6.5 µs,
and that of `websockets.asyncio` in 8 to 10 µs (a parser of our own: 4.3 µs). Runs on an event loop.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from typing import Final

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from benchmark_errors import BenchmarkError
from commitcast.gateway.protocol import frames

OPEN_TIMEOUT_S: Final = 60.0
"""A server that a thousand connect to at once answers the last of them late."""
SPARE_FILES: Final = 256


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
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._uri = parse_uri(url)
        self._protocol = ClientProtocol(self._uri, subprotocols=[Subprotocol(frames.SUBPROTOCOL)], max_size=None)
        self._take = take
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
                await loop.sock_connect(peer, (self._uri.host, self._uri.port))
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
        self._protocol.send_text(text)
        self._flush()

    def stop_reading(self) -> None:
        """Never read from the socket again."""
        assert self._transport is not None
        self._transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(self._protocol.data_to_send())

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Complete `closed`."""
        self._end(ConnectionError(f"the connection was lost ({error or 'the server closed it'})"))

    def data_received(self, data: bytes) -> None:
        """Give the frames to `take`."""
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                self._on_event(event)
            self._flush()  # pongs
        except Exception as error:  # asyncio would only log it
            self._end(error)

    def _on_event(self, event: object) -> None:
        match event:
            case Frame(opcode=Opcode.TEXT):
                self._take(bytes(event.data))
            case Response() if self._protocol.handshake_exc is None:
                self._opened.set_result(None)
            case Response():
                raise ConnectionError(f"the server refused the connection: {self._protocol.handshake_exc}")
            case Frame(opcode=Opcode.CLOSE):
                self._flush()
                raise ConnectionError(f"the server closed the connection: {Close.parse(event.data)}")

    def _end(self, error: Exception) -> None:
        for future in (self._opened, self.closed):
            if not future.done():
                future.set_exception(error)
                future.exception()  # a connection that is lost at the end is not an error, and need not be asked for
        self.abort()
