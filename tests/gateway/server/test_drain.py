"""How connections end from the server's side: a goodbye before each, and a stop that all come back from."""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway import subscribe
from commitcast.gateway.client import reconnect
from commitcast.gateway.server import gateway
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.tls import server_context
from hostile import (
    CLOSE,
    CONT,
    FIN,
    READ,
    TEXT,
    UPGRADE,
    Passes,
    Wire,
    allowed,
    asleep,
    get,
    masked,
    opened,
    play,
    request,
    say,
    server_of,
    wire,
)
from subscribers import raw
from waiting import TIMEOUT_S, wait_until


class TestBeforeTheStop:
    def test_a_server_that_drains_is_not_ready_takes_nobody_new_and_serves_who_is_there(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with raw(runtime.url) as early:
                await early.subscribe("a")
                server_of(runtime).drain()

                ready = await get(runtime, "/readyz")
                assert (ready.status, ready.json["status"]) == (503, "draining")
                assert (await get(runtime, "/healthz")).status == 200
                async with wire(runtime) as late:
                    await late.send(request(runtime, "/v1/ws", UPGRADE))
                    refusal = await late.answer()
                assert refusal.status == 503 and int(refusal.headers["retry-after"]) > 0

                await agent.aemit("still served")
                assert (await early.follow("a", 1)).contents == ["still served"]

        play(tmp_path, scenario)


class TestTheStop:
    def test_each_is_told_to_come_back_at_another_time_and_then_closed(self, tmp_path: Path) -> None:
        farewells: list[tuple[Any, int]] = []

        async def scenario() -> None:
            runtime = await asyncio.to_thread(AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0").start)
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(opened(runtime)) for _ in range(40)]
                stopping = asyncio.create_task(asyncio.to_thread(runtime.stop))
                for client in clients:
                    farewells.append(await client.farewell())
                    client.cut()
                await stopping

        asyncio.run(scenario())
        waits = [goodbye["reconnect_ms"] for goodbye, _ in farewells]
        assert {(goodbye["type"], goodbye["code"], code) for goodbye, code in farewells} == {("goodbye", 4000, 4000)}
        assert all(gateway.RECONNECT_MS[0] <= wait <= gateway.RECONNECT_MS[1] for wait in waits)
        assert len(set(waits)) > 20 and max(waits) - min(waits) > 500

    @pytest.mark.parametrize("policy", ["patient", "windowed"])
    def test_clients_come_back_by_themselves_without_a_hole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
    ) -> None:
        monkeypatch.setattr(gateway, "RECONNECT_MS", (50, 100))
        monkeypatch.setattr(reconnect, "BACKOFF_S", (0.05, 0.1))
        heard: list[str] = []
        wanted = [f"{life} {number}" for life in range(3) for number in range(100)]

        async def follow(url: str) -> None:
            window = 40 if policy == "windowed" else None
            async with subscribe(url, "*", window=window) as messages:
                async for item in messages:
                    heard.append(item.content)
                    if item.content == wanted[-1]:
                        return

        async def scenario() -> None:
            listen, following = "127.0.0.1:0", None
            for life in range(3):
                runtime = AgentRuntime(tmp_path / "a.db", listen=listen)
                async with runtime:
                    listen = str(runtime.address)
                    following = following or asyncio.create_task(follow(str(runtime.url)))
                    agent = await runtime.alaunch(id=f"a{life}")
                    for ten in range(10):
                        await say(agent, *(f"{life} {number}" for number in range(10 * ten, 10 * ten + 10)))
                    if life == 2:
                        await asyncio.wait_for(following, TIMEOUT_S)

        asyncio.run(scenario())
        assert heard == wanted

    def test_nobody_can_hold_it_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("sockets.websocket", "server"):
            monkeypatch.setattr(f"commitcast.gateway.server.{module}.CLOSE_TIMEOUT_S", 0.2)
        options: Any = {"tls": server_context(*write_certificate(tmp_path)), "limits": Limits(handshake_timeout_s=60)}
        trusting: Any = {"ssl": ssl._create_unverified_context(), "server_hostname": "localhost"}

        async def scenario() -> float:
            runtime = AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", **options)
            await asyncio.to_thread(runtime.start)
            agent = await runtime.alaunch(id="a")
            async with (
                wire(runtime),  # has not even begun with TLS
                wire(runtime, **trusting) as mute,  # asks for nothing
                wire(runtime, **trusting) as half,
                wire(runtime, receive_buffer=4_096, **trusting) as deaf,
                opened(runtime, **trusting),  # does not answer the close
            ):
                assert mute
                await half.send(request(runtime, "/v1/ws", UPGRADE)[:-2])
                await deaf.open()
                await deaf.ask("subscribe", agent="a")
                deaf.stop_reading()
                await say(agent, *["x" * 50_000] * 60)
                await asleep(runtime, deaf)
                began = time.monotonic()
                await asyncio.to_thread(runtime.stop)
                return time.monotonic() - began

        assert asyncio.run(scenario()) < 3

    def test_stopped_at_once_after_the_start_it_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("commitcast.gateway.server.server.CLOSE_TIMEOUT_S", 0.1)
        for _ in range(3):
            with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
                host, _, port = str(runtime.address).rpartition(":")
                early = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
            with early:
                assert early.recv(1) == b""


Provocation = Callable[[AgentRuntime, Wire], Awaitable[object]]


async def _wait(runtime: AgentRuntime, client: Wire) -> None:
    """Do nothing."""


async def _many(runtime: AgentRuntime, client: Wire) -> None:
    await client.send(masked(TEXT, '{"type":"ping"}') * 600)


async def _nonsense(runtime: AgentRuntime, client: Wire) -> None:
    await client.send(masked(TEXT, "nonsense") * 600)


async def _drain(runtime: AgentRuntime, client: Wire) -> None:
    server = server_of(runtime)
    server.core.call(lambda: server.core.tasks.spawn(server.core.say_goodbye()))


async def _slow(runtime: AgentRuntime, client: Wire) -> None:
    agent = await runtime.alaunch(id="a")
    await client.ask("subscribe", agent="a", slow="close")
    await client.until("live")
    client.stop_reading()
    await say(agent, *["x" * 50_000] * 40)
    await asleep(runtime, client)
    client.read_on()


def _sending(data: bytes) -> Provocation:
    async def provoke(runtime: AgentRuntime, client: Wire) -> None:
        await client.send(data)

    return provoke


class _Broken:
    async def verify(self, token: str) -> Grant:
        raise ConnectionError("the identity provider is down")


PROVOKED: Final[dict[str, tuple[int, Provocation]]] = {
    "drain": (4000, _drain),
    "token expired": (4001, _wait),
    "slow": (4002, _slow),
    "silent": (4003, _wait),
    "too many requests": (4004, _many),
    "tokens that cannot be checked": (4005, _wait),
    "nonsense": (4500, _nonsense),
    "bad token": (4501, _wait),
    "token that allows nothing": (4503, _wait),
    "too many connections": (4504, _wait),
    "no hello": (4507, _wait),
    "no text": (1007, _sending(masked(TEXT, b"\xff\xfe"))),
    "no text in fragments": (1007, _sending(masked(TEXT, b"\xc3", first=0) + masked(CONT, b"x"))),
    "not masked": (1002, _sending(masked(TEXT, b"{}", mask=False))),
    "unknown opcode": (1002, _sending(masked(3))),
    "reserved bit": (1002, _sending(masked(TEXT, b"{}", first=FIN | 0x20))),
    "control frame too long": (1002, _sending(masked(9, b"x" * 126))),
    "control frame in fragments": (1002, _sending(masked(9, b"x", first=0))),
    "continuation of nothing": (1002, _sending(masked(CONT, b"x"))),
    "text in the middle of a text": (1002, _sending(masked(TEXT, b"{", first=0) + masked(TEXT, b"}"))),
    "close with half a code": (1002, _sending(masked(CLOSE, b"\x03"))),
    "close with a code that is none": (1002, _sending(masked(CLOSE, b"\x03\xed"))),
    "too large": (1009, _sending(bytes((FIN | TEXT, 0xFF)) + (2**40).to_bytes(8))),
    "too many fragments": (1009, _sending(masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 64)),
}


@pytest.mark.parametrize("what", PROVOKED)
def test_goodbye_comes_before_every_close_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("commitcast.gateway.server.sockets.websocket.CLOSE_TIMEOUT_S", 0.5)  # of a flood
    code, provoke = PROVOKED[what]
    options: Any = {
        4001: {"token": Passes(t=allowed("t", ("*", [READ]), expires_at=time.time() + 0.1))},
        4003: {"heartbeat_s": 0.03},
        4004: {"limits": Limits(burst=10, requests_per_s=0.001)},
        4005: {"token": _Broken()},
        4500: {"limits": Limits(burst=10, requests_per_s=0.001)},
        4501: {"token": "another"},
        4503: {"token": Passes(t=allowed("t"))},
        4504: {"limits": Limits(connections_per_peer=1)},
        4507: {"token": "another", "limits": Limits(hello_timeout_s=0.05)},
    }.get(code, {})
    headers = [("Authorization", "Bearer t")] if code in (4001, 4005, 4501, 4503) else []

    async def scenario(runtime: AgentRuntime) -> None:
        async with AsyncExitStack() as stack:
            if code == 4504:
                await stack.enter_async_context(opened(runtime))
            client = await stack.enter_async_context(wire(runtime, receive_buffer=4_096))
            await client.send(request(runtime, "/v1/ws", (*UPGRADE, *headers)))
            await client.reader.readuntil(b"\r\n\r\n")
            if provoke is not _wait:
                await client.until("welcome")
            await provoke(runtime, client)
            goodbye, closed = await client.farewell()
            assert (goodbye.get("type"), goodbye.get("code"), closed) == ("goodbye", code, code)
            assert goodbye["reason"]
            assert (await client.is_dropped()) == b"", "nothing comes after the close"
            counted = server_of(runtime).core.traffic.closes
            if code >= 4000:
                await asyncio.to_thread(wait_until, lambda: counted[code] == 1, "the close to be counted")

    play(tmp_path, scenario, **options)
