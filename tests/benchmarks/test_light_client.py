"""The light client against a real server of the library."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from light_client import LightClient

SIZES = (0, 1, 125, 126, 65_535, 65_536, 300_000)


Handle = Callable[[ServerConnection], Awaitable[None]]
Refuse = Callable[[ServerConnection, Request], Response]


@asynccontextmanager
async def serving(handle: Handle, refuse: Refuse | None = None) -> AsyncIterator[str]:
    """Serve, and give the URL."""
    async with serve(handle, "127.0.0.1", 0, compression=None, process_request=refuse) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def runs(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a coroutine."""

    @functools.wraps(test)
    def run() -> None:
        async def awaited() -> None:
            await test()

        asyncio.run(awaited())

    return run


@runs
async def test_frames_of_every_size_arrive_whole_and_in_order() -> None:
    async def handle(connection: ServerConnection) -> None:
        for size in SIZES:
            await connection.send("x" * size)

    given: list[int] = []
    async with serving(handle) as url:
        client = LightClient(url, lambda data: given.append(len(data)))
        await client.open()
        with pytest.raises(ConnectionError, match="the server closed the connection"):
            await client.closed

    assert tuple(given) == SIZES


@runs
async def test_what_it_sends_arrives_and_pings_are_answered() -> None:
    heard: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def handle(connection: ServerConnection) -> None:
        await (await connection.ping("are you there?"))
        heard.put_nowait(await connection.recv())

    async with serving(handle) as url:
        client = LightClient(url, lambda data: None)
        await client.open()
        client.send(b"a text")

        assert await heard.get() == "a text"


@runs
async def test_what_the_taker_raises_ends_the_connection() -> None:
    async def handle(connection: ServerConnection) -> None:
        await connection.send("unexpected")
        await connection.wait_closed()

    def refuse(data: bytes) -> None:
        raise ValueError(data.decode())

    async with serving(handle) as url:
        client = LightClient(url, refuse)
        await client.open()
        with pytest.raises(ValueError, match="unexpected"):
            await client.wait_for(asyncio.get_running_loop().create_future())


@runs
async def test_a_refused_handshake_is_an_error() -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "not now\n")

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serving(handle, refuse) as url:
        with pytest.raises(ConnectionError, match=r"the server refused the connection: HTTP/1\.1 503"):
            await LightClient(url, lambda data: None).open()


@runs
async def test_nobody_there_is_an_error() -> None:
    async with serving(lambda connection: connection.wait_closed()) as url:
        pass

    with pytest.raises(OSError):
        await LightClient(url, lambda data: None).open()
