"""What comes beside requests, at every door: control frames and fragments by the thousand, in reads of any size."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from websockets.frames import Opcode

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.actors.commands import uvicorn_server, uvicorn_websocket
from commitcast.actors.commands.uvicorn_server import serving
from commitcast.actors.commands.uvicorn_websocket import BoundedWebSocket
from commitcast.gateway.server.access.limits import OVERDRAFT, STRANGER_BURST, Bucket, FrameMeter, Limits
from commitcast.gateway.server.sockets import websocket
from commitcast.gateway.server.sockets.websocket import READ_BYTES, GatewayConnection
from commitcast.gateway.tls import server_context
from hostile import CONT, PING, PONG, TEXT, Wire, masked, nobody_is_left, opened, play, server_of
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(15, of_file=True)

TOKEN: Final = "S3cr3t-Tok3n"
BURST: Final = 200.0
SPLIT: Final = masked(TEXT, '{"type":"ping"}', first=0) + masked(CONT, b"", first=0) * 62 + masked(CONT, b"")
KINDS: Final = {"pongs": masked(PONG), "pings": masked(PING), "long pings": masked(PING, b"x" * 125)}
DOORS: Final = ["plain", "tls", *(pytest.param(name, marks=pytest.mark.newest) for name in ("asgi", "asgi with tls"))]


class Door(NamedTuple):
    """Where it listens, in place of a runtime that does; and how to come in."""

    address: str
    options: dict[str, Any]

    @asynccontextmanager
    async def opened(self, *headers: tuple[str, str]) -> AsyncIterator[Wire]:
        async with opened(cast(AgentRuntime, self), *headers, **self.options) as enemy:
            yield enemy


def enter(door: str, tmp_path: Path, scenario: Callable[[Door], Awaitable[None]], **options: Any) -> None:
    """Run a scenario at a door, and see that it leaves nobody behind."""
    is_asgi, has_tls = door.startswith("asgi"), door.endswith("tls")
    files = write_certificate(tmp_path) if has_tls else (None, None)
    client = {"ssl": ssl._create_unverified_context(), "server_hostname": "localhost"} if has_tls else {}

    async def bounded(address: str) -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await scenario(Door(address, client))

    with ExitStack() as stack:
        if files[0] is not None and files[1] is not None and not is_asgi:
            options["tls"] = server_context(files[0], files[1])
        listen = "asgi" if is_asgi else "127.0.0.1:0"
        runtime = stack.enter_context(AgentRuntime(tmp_path / "a.db", listen=listen, **options))
        address = stack.enter_context(serving(runtime, ("127.0.0.1", 0), *files)) if is_asgi else str(runtime.address)
        asyncio.run(bounded(address))
        nobody_is_left(server_of(runtime))


async def told(enemy: Wire, flood: bytes) -> int:
    """Send a flood, and return the code that the connection is closed with, once it has been cut."""
    sending = asyncio.create_task(enemy.send(flood))
    goodbye, code = await enemy.farewell()
    assert (goodbye["type"], goodbye["code"]) == ("goodbye", code)
    await enemy.is_dropped()
    await sending
    return code


class TestFloods:
    @pytest.mark.parametrize("door", DOORS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_control_frames_count_like_requests(self, tmp_path: Path, door: str, kind: str) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as enemy:
                assert await told(enemy, KINDS[kind] * int(BURST + OVERDRAFT + 100)) == 4004

        enter(door, tmp_path, scenario, limits=Limits(requests_per_s=1, burst=BURST))

    @pytest.mark.parametrize("door", DOORS)
    def test_so_do_the_fragments_of_messages(self, tmp_path: Path, door: str) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as enemy:
                assert await told(enemy, SPLIT * (int(BURST + OVERDRAFT) // 63 + 3)) == 4004

        enter(door, tmp_path, scenario, limits=Limits(requests_per_s=1, burst=BURST))

    @pytest.mark.parametrize("door", DOORS)
    def test_a_few_harm_nobody(self, tmp_path: Path, door: str) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as client:
                await client.send((masked(PING, b"there?") + masked(PONG)) * int(BURST // 2 - 10))
                assert (await client.ask("ping"))["type"] == "ok"

        enter(door, tmp_path, scenario, limits=Limits(requests_per_s=1, burst=BURST))

    @pytest.mark.parametrize("door", ["plain", "tls"])
    def test_of_a_stranger_there_may_be_less(self, tmp_path: Path, door: str) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as enemy:
                assert await told(enemy, masked(PONG) * int(3 * STRANGER_BURST)) == 4004
            async with door.opened(("Authorization", f"Bearer {TOKEN}")) as client:
                await client.send(masked(PONG) * int(3 * STRANGER_BURST))
                assert (await client.ask("ping"))["type"] == "ok"

        enter(door, tmp_path, scenario, token=TOKEN)

    def test_pongs_that_were_asked_for_cost_nothing(self) -> None:
        meter, bucket = FrameMeter(lambda: 0.0), Bucket(rate=1, burst=1, now=0.0, overdraft=0)
        for _ in range(3):
            meter.ping()

        faults = [meter.fault_of(Opcode.PONG, bucket, is_open=True) for _ in range(5)]

        assert faults == [None] * 4 + [(4004, "too many frames: slow down")]


class TestAfterwards:
    @pytest.fixture(autouse=True)
    def a_peer_has_little_time_to_close(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (websocket, uvicorn_websocket, uvicorn_server):
            monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.2)

    @pytest.mark.parametrize("door", DOORS)
    @pytest.mark.parametrize(
        "flood",
        [masked(PONG), masked(TEXT, '{"type":"ping"}'), masked(TEXT, "{}")],
        ids=["pongs", "requests", "nothing of the protocol"],
    )
    def test_who_goes_on_is_cut_soon(self, tmp_path: Path, door: str, flood: bytes) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as enemy:
                reading = asyncio.create_task(enemy.is_dropped())
                async with asyncio.timeout(5.0):
                    while not enemy.writer.transport.is_closing():
                        await enemy.send(flood * 1_000)
                        await asyncio.sleep(0)
                await reading

        enter(door, tmp_path, scenario, limits=Limits(requests_per_s=1, burst=BURST))

    @pytest.mark.parametrize("door", DOORS)
    def test_so_is_who_does_not_answer_the_close(self, tmp_path: Path, door: str) -> None:
        async def scenario(door: Door) -> None:
            async with door.opened() as enemy:
                await enemy.send(masked(TEXT, "{}") * 100)
                async with asyncio.timeout(5.0):
                    assert b"\x11\x94" in await enemy.is_dropped()  # 4500

        enter(door, tmp_path, scenario)


class TestReads:
    @pytest.mark.parametrize("door", DOORS)
    def test_are_small(self, tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []

        def spy(kind: type[Any]) -> None:
            received = kind.data_received

            def data_received(self: Any, data: bytes) -> None:
                sizes.append(len(data))
                received(self, data)

            monkeypatch.setattr(kind, "data_received", data_received)

        spy(BoundedWebSocket if door.startswith("asgi") else GatewayConnection)

        async def scenario(door: Door) -> None:
            async with door.opened() as client:
                content = "x" * 1_000_000
                answer = await client.ask("ping", id="long", padding=content)
                assert answer["id"] == "long"

        enter(door, tmp_path, scenario)
        assert max(sizes) == READ_BYTES


def test_a_peer_that_pings_and_is_gone_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        async with opened(runtime) as enemy:
            plug: socket.socket = enemy.writer.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await enemy.send(masked(PING) * 40_000)
            enemy.cut()
            sessions = server_of(runtime).core._sessions
            await asyncio.to_thread(wait_until, lambda: not sessions, "it to be gone")

    play(tmp_path, scenario, limits=Limits(burst=1e6))
    assert not caplog.records
