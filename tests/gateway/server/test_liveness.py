"""Peers that are silent, slow, or read nothing at all."""

import asyncio
import json
from pathlib import Path
from typing import Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.server import gateway
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.sockets import websocket
from hostile import (
    PING,
    PONG,
    asleep,
    masked,
    opened,
    play,
    say,
    server_of,
)
from subscribers import raw
from waiting import wait_until

MIB: Final = 1024 * 1024


class TestSilentPeer:
    def test_who_gives_no_sign_of_life_is_closed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as silent:
                goodbye, code = await silent.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4003, 4003)

        play(tmp_path, scenario, heartbeat_s=0.05)

    @pytest.mark.parametrize("shares", [True, False], ids=["shared frames", "fallback"])
    def test_who_only_answers_pings_lives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool) -> None:
        if not shares:
            monkeypatch.setattr("commitcast.gateway.server.sockets.websocket.INTERNALS", ("what no version has",))

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as listener:
                for _ in range(4):
                    await listener.until("heartbeat")

        play(tmp_path, scenario, heartbeat_s=0.3)


class TestSlowReader:
    @pytest.fixture(autouse=True)
    def looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateway, "TICK_S", 0.02)
        monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.2)

    def test_each_policy_does_what_it_says(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with (
                opened(runtime, receive_buffer=4_096) as patient,
                opened(runtime, receive_buffer=4_096) as hasty,
                opened(runtime, receive_buffer=4_096) as proud,
            ):
                slow = {"catch_up": patient, "skip": hasty, "close": proud}
                for policy, each in slow.items():
                    await each.ask("subscribe", agent="a", slow=policy)
                    await each.until("live")
                    each.stop_reading()
                await say(agent, *["x" * 50_000] * 40)
                for each in slow.values():
                    await asleep(runtime, each)
                    each.read_on()
                cursor = 0
                while cursor < 40:
                    frame = await patient.until("messages")
                    assert frame["prev"] == cursor
                    cursor = frame["last"]
                gap = await hasty.until("gap")
                assert gap["last"] == 40
                goodbye, code = await proud.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4002, 4002)

        play(tmp_path, scenario)

    def test_who_takes_nothing_at_all_is_dropped_in_time(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, receive_buffer=4_096) as stalled, raw(runtime.url) as other:
                await stalled.ask("subscribe", agent="a")
                stalled.stop_reading()
                await other.subscribe("a")
                await say(agent, *["x" * 50_000] * 10)
                await asleep(runtime, stalled)
                left = server_of(runtime).core._sessions
                await asyncio.to_thread(wait_until, lambda: len(left) == 1, "the stalled one to be gone")
                assert server_of(runtime).core.traffic.closes[4002] == 1
                assert len((await other.follow("a", 10)).items) == 10

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=0.1))

    def test_forty_kilobytes_a_second_are_alive(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, receive_buffer=4_096) as slow:
                await slow.ask("subscribe", agent="a")
                await say(agent, *["x" * 25_000] * 10)
                cursor, unread = 0, bytearray()
                while cursor < 3:
                    unread += await slow.reader.read(1_000)
                    await asyncio.sleep(0.025)  # this is its speed
                    while (taken := _first_frame(unread)) is not None:
                        first, payload = taken
                        if first & 0x0F == PING:
                            await slow.send(masked(PONG, payload))
                        elif (frame := json.loads(payload))["type"] == "messages":
                            assert frame["prev"] == cursor
                            cursor = frame["last"]
                        else:
                            assert frame["type"] != "goodbye", frame

        play(tmp_path, scenario, heartbeat_s=0.05, limits=Limits(stall_timeout_s=1.0))

    def test_who_pings_and_reads_nothing_is_read_no_more_and_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            core = server_of(runtime).core
            async with opened(runtime, receive_buffer=4_096) as enemy, raw(runtime.url) as other:
                enemy.stop_reading()
                flood = asyncio.create_task(enemy.send(masked(PING, b"x" * 125) * 100_000))
                most = 0
                while len(core._sessions) > 1:
                    most = max([most, *(peer.unsent_bytes for peer in list(core._sessions))])
                    await other.still_works()
                assert most < MIB
                assert core.traffic.closes[4002] == 1
                flood.cancel()

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=0.2, burst=1e6))


def _first_frame(unread: bytearray) -> tuple[int, bytes] | None:
    """Take a whole frame from what was read, if there is one."""
    if len(unread) < 2:
        return None
    start = {126: 4, 127: 10}.get(unread[1], 2)
    size = unread[1] if start == 2 else int.from_bytes(unread[2:start])
    if len(unread) < start + size:
        return None
    taken = unread[0], bytes(unread[start : start + size])
    del unread[: start + size]
    return taken
