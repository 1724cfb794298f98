"""`serve --asgi` on the wire: the bounds and goodbyes of the gateway's own port, and a log that nobody can fill."""

import asyncio
import gc
import http.client
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from starlette.types import Receive, Scope, Send

from commitcast.actors import AgentRuntime
from commitcast.actors.commands import uvicorn_websocket
from commitcast.actors.commands.uvicorn_server import serving
from commitcast.actors.commands.uvicorn_websocket import BoundedWebSocket, SeldomWarnings
from commitcast.gateway.server.access.limits import Limits
from hostile import BINARY, CONT, FIN, PING, TEXT, UPGRADE, Wire, masked, opened, request, wire
from hosting import hosted
from waiting import TIMEOUT_S, wait_until

MIB: Final = 1024 * 1024


class Door(NamedTuple):
    """Where uvicorn listens, in place of a runtime that does."""

    address: str


@contextmanager
def served(tmp_path: Path, **options: Any) -> Iterator[AgentRuntime]:
    with (
        AgentRuntime(tmp_path / "a.db", listen="asgi", **options) as runtime,
        serving(runtime, ("127.0.0.1", 0), None, None) as address,
    ):
        yield cast(AgentRuntime, Door(address))


def play(tmp_path: Path, scenario: Callable[[AgentRuntime], Awaitable[None]], **options: Any) -> None:
    """Run a scenario against uvicorn."""

    async def bounded(door: AgentRuntime) -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await scenario(door)

    with served(tmp_path, **options) as door:
        asyncio.run(bounded(door))


BROKEN: Final[dict[str, tuple[int, bytes]]] = {
    "unmasked": (1002, masked(TEXT, "{}", mask=False)),
    "a reserved opcode": (1002, masked(0x3, "{}")),
    "a reserved bit": (1002, masked(TEXT, "{}", first=FIN | 0x20)),
    "compressed, which was not agreed": (1002, masked(TEXT, "{}", first=FIN | 0x40)),
    "the rest of nothing": (1002, masked(CONT, "{}")),
    "a message inside another": (1002, masked(TEXT, "{", first=0) + masked(TEXT, "{}")),
    "a ping in fragments": (1002, masked(PING, b"x", first=0)),
    "a long ping": (1002, masked(PING, b"x" * 126)),
    "no UTF-8": (1007, masked(TEXT, b'{"type":"ping","id":"\xff"}')),
    "a surrogate": (1007, masked(TEXT, b'{"id":"\xed\xa0\x80"}')),
    "no UTF-8 in a later fragment": (1007, masked(TEXT, b"{", first=0) + masked(CONT, b"\xff", first=0)),
    "half a letter at the end": (1007, masked(TEXT, b'{"id":"\xc3', first=0) + masked(CONT, b"")),
    "too large": (1009, b"\x81\xff" + (2 * MIB + 1).to_bytes(8) + b"\0\0\0\0"),
    "too large in two": (1009, masked(TEXT, "x" * MIB, first=0) + masked(CONT, "x" * (MIB + 1))),
    "too many fragments": (1009, masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 64),
    "too many empty ones": (1009, masked(BINARY, b"", first=0) + masked(CONT, b"", first=0) * 5_000),
    "with pings between": (1009, masked(TEXT, b"{", first=0) + (masked(CONT, b" ", first=0) + masked(PING)) * 64),
}


class TestBrokenFrames:
    @pytest.mark.newest
    def test_each_is_told_with_a_goodbye_and_leaves_nothing_in_the_log(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def scenario(door: AgentRuntime) -> None:
            for name, (code, data) in BROKEN.items():
                async with opened(door) as enemy:
                    await enemy.send(data)
                    goodbye, closed = await enemy.farewell()
                    assert (goodbye["type"], goodbye["code"], closed) == ("goodbye", code, code), name

        play(tmp_path, scenario)
        assert capsys.readouterr().err == ""

    def test_letters_may_be_split_between_as_many_fragments_as_allowed(self, tmp_path: Path) -> None:
        async def scenario(door: AgentRuntime) -> None:
            async with opened(door) as client:
                blanks = (masked(CONT, b" ", first=0) + masked(PING, b"between")) * 61
                split = masked(TEXT, b'{"type":"ping","id":"\xc3', first=0) + masked(CONT, b'\xa9"', first=0)
                await client.send(split + blanks + masked(CONT, "}"))
                assert (await client.until("ok"))["id"] == "é"
                await client.send(masked(TEXT, '{"type":"ping","id":8}'))
                assert (await client.until("ok"))["id"] == 8

        play(tmp_path, scenario)

    def test_what_comes_before_the_handshake_is_answered_is_no_defect_of_ours(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked, taken = threading.Event(), threading.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                assert (await receive())["type"] == "websocket.connect"
                asked.set()
                assert (await receive())["type"] == "websocket.disconnect"
                taken.set()
                await send({"type": "websocket.accept"})

        async def scenario(door: AgentRuntime) -> None:
            for data in (b"\x83\x80\0\0\0\0", masked(TEXT, b"\xff"), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5_000):
                async with wire(door) as enemy:
                    await enemy.send(request(door, "/v1/ws", UPGRADE))
                    assert await asyncio.to_thread(asked.wait, TIMEOUT_S)
                    await enemy.send(data)
                    assert await enemy.is_dropped() == b""
                    assert await asyncio.to_thread(taken.wait, TIMEOUT_S)
                asked.clear()
                taken.clear()

        with hosted(app, ws=BoundedWebSocket) as address:
            asyncio.run(scenario(cast(AgentRuntime, Door(address))))
        gc.collect()  # asyncio tells of a task's exception when the task is gone
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestPingsThatAreNotRead:
    @pytest.mark.newest
    def test_their_sender_is_not_read_from(self, tmp_path: Path) -> None:
        async def flood(enemy: Wire) -> None:
            while True:
                await enemy.send(masked(PING, b"x" * 125) * 1_000)

        async def scenario(door: AgentRuntime) -> None:
            async with opened(door, receive_buffer=4_096) as enemy:
                enemy.stop_reading()
                (connection,) = [each for each in gc.get_objects() if type(each) is BoundedWebSocket]
                transport = connection.transport
                flooding = asyncio.create_task(flood(enemy))
                try:
                    await asyncio.to_thread(wait_until, lambda: not transport.is_reading(), "it to be paused")
                    assert transport.get_write_buffer_size() < 2 * MIB
                finally:
                    flooding.cancel()
                enemy.read_on()
                while not transport.is_reading():
                    await enemy.reader.read(MIB)

        play(tmp_path, scenario, limits=Limits(burst=1e6))


class TestLog:
    def test_bad_requests_fill_no_log(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with served(tmp_path) as door:
            host, _, port = str(door.address).rpartition(":")
            for _ in range(50):
                with socket.create_connection((host, int(port))) as plug:
                    plug.sendall(b"nonsense\r\n\r\n")
                    while plug.recv(4_096):
                        pass
        assert capsys.readouterr().err.split() == ["WARNING:", "Invalid", "HTTP", "request", "received."]

    def test_a_warning_comes_again_later_and_says_how_often_it_was_left_out(self) -> None:
        now = 0.0
        seldom = SeldomWarnings(lambda: now)

        def said(level: int, text: str, *args: object) -> str | None:
            record = logging.LogRecord("uvicorn.error", level, "", 0, text, args, None)
            return record.getMessage() if seldom.filter(record) else None

        assert [said(logging.WARNING, "100 %% bad %s", number) for number in range(3)] == ["100 % bad 0", None, None]
        assert said(logging.WARNING, "another") == "another"
        assert [said(logging.ERROR, "broken") for _ in range(2)] == ["broken"] * 2
        now = 61.0
        assert said(logging.WARNING, "100 %% bad %s", 3) == "100 % bad 3 (2 more since the last such line)"
        assert said(logging.WARNING, "100 %% bad %s", 4) is None


class TestOptions:
    def test_who_says_to_come_from_elsewhere_is_not_believed(self, tmp_path: Path) -> None:
        with served(tmp_path, token="S3cr3t-Tok3n", limits=Limits(refused_tokens=3)) as door:
            statuses = []
            for number in range(5):
                connection = http.client.HTTPConnection(str(door.address), timeout=TIMEOUT_S)
                headers = {"X-Forwarded-For": f"1.2.3.{number}", "Authorization": f"Bearer wrong{number}"}
                connection.request("GET", "/v1/agents", headers=headers)
                statuses.append(connection.getresponse().status)
                connection.close()
        assert statuses == [401, 401, 401, 429, 429]

    @pytest.mark.newest
    def test_a_uvicorn_without_what_is_needed_keeps_its_own_websocket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = Limits()
        assert uvicorn_websocket.websocket_options(limits)["ws"].func is BoundedWebSocket

        monkeypatch.setattr(uvicorn_websocket, "INTERNALS", (*uvicorn_websocket.INTERNALS, "of a later version"))
        options = uvicorn_websocket.websocket_options(limits)
        assert "ws" not in options and options["ws_max_size"] == 4 * MIB
