"""Tunnels between a host's ASGI app and a gateway: both forms of an app, and either end played by a test."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.gateway.server.http import tunnel_frames
from commitcast.gateway.server.http.asgi import Served
from commitcast.gateway.server.http.tunnel import Streams
from commitcast.gateway.server.http.tunnel_frames import FromHost, FromServer, Received
from commitcast.gateway.server.http.tunnel_server import serve_tunnel
from commitcast.gateway.server.http.tunnel_stream import FrameStream
from commitcast.gateway.server.server import GatewayServer
from waiting import TIMEOUT_S

FORMS: Final = ("in this process", pytest.param("through a tunnel", marks=pytest.mark.sampled(1 / 3)))


def served(gateway: GatewayServer | None, form: str) -> Served | None:
    """Return what an app is given of a gateway."""
    return gateway if gateway is None or form == FORMS[0] else Tunnels(gateway)


class Tunnels:
    """Opens tunnels to a gateway, which serves them on its own loop, as one in another process does."""

    def __init__(self, gateway: GatewayServer) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        """The gateway's ends."""
        self._gateway = gateway

    async def open_tunnel(self) -> Streams:
        """Return a new connection to the gateway."""
        ours, theirs = socket.socketpair()
        serving = self._serve(theirs)
        try:
            loop = self._gateway.core.loop
            if loop is None:
                raise ConnectionRefusedError
            asyncio.run_coroutine_threadsafe(serving, loop)
        except (OSError, RuntimeError) as error:  # RuntimeError: the loop is closed
            serving.close()
            ours.close()
            theirs.close()
            raise ConnectionRefusedError from error
        return await asyncio.open_connection(sock=ours)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self.writers.append(writer)
        await serve_tunnel(self._gateway, reader, writer)


# A server played by a test, on a loop and a thread of its own.

Play = Callable[[FrameStream[FromHost], asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def playing(play: Play) -> Iterator[Callable[[], Awaitable[Streams]]]:
    """Serve tunnels by a script, which ends with its connection; yields what connects to it.

    An error in the script is raised at the end.
    """
    errors: list[BaseException] = []
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        path, stopping = Path(folder) / "s", asyncio.Event()
        is_listening = threading.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = FrameStream(reader, writer, tunnel_frames.decode_host)
            try:
                async with asyncio.timeout(2 * TIMEOUT_S):
                    await play(stream, writer)
            except BaseException as error:
                errors.append(error)
            finally:
                stream.close()

        async def listen() -> None:
            async with await asyncio.start_unix_server(connected, path):
                is_listening.set()
                await stopping.wait()
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)

        thread = threading.Thread(target=lambda: runner.run(listen()), name="played server")
        thread.start()
        is_listening.wait(TIMEOUT_S)
        try:
            yield partial(asyncio.open_unix_connection, path)
        finally:
            runner.get_loop().call_soon_threadsafe(stopping.set)
            thread.join()
    if errors:
        raise errors[0]


# A host played by a test.


class Host:
    """One connection to a gateway, as a host's app has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stream = FrameStream(reader, writer, tunnel_frames.decode_server)
        self.writer = writer

    async def ask(self, kind: str, path: str, *headers: tuple[str, str], **fields: Any) -> None:
        """Send the scope of a request."""
        named = [(b"host", b"localhost"), *((name.lower().encode(), value.encode()) for name, value in headers)]
        scope = {"type": kind, "path": path, "headers": named, "client": ("127.0.0.1", 1), **fields}
        await self.stream.send(tunnel_frames.scope_of(scope))

    async def say(self, text: str) -> None:
        """Send a text frame of the client."""
        await self.stream.send(Received(text.encode(), is_text=True))

    async def receive(self) -> FromServer | None:
        """Return the next frame; None at the end."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.stream.receive()

    async def rest(self) -> list[FromServer]:
        """Return all frames to the end."""
        frames: list[FromServer] = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames


@asynccontextmanager
async def connected(gateway: GatewayServer) -> AsyncIterator[Host]:
    """A connection of a host to a gateway."""
    host = Host(*await Tunnels(gateway).open_tunnel())
    try:
        yield host
    finally:
        host.stream.close()
