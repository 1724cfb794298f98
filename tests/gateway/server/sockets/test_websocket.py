"""Hostile frames: bombs, floods, huge ones, and what compression could give away."""

import asyncio
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from commitcast.actors import AgentRuntime
from hostile import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Wire,
    masked,
    opened,
    play,
    say,
    spoken,
)
from subscribers import Raw, raw

SECRET: Final = "S3cr3t-Tok3n"
MIB: Final = 1024 * 1024


class TestDecompressionBomb:
    OFFER: Final = ("Sec-WebSocket-Extensions", "permessage-deflate")

    @pytest.mark.parametrize("fragments", [1, 2])
    def test_it_is_closed_before_it_bursts(self, tmp_path: Path, fragments: int) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = (deflate.compress(bytes(50_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        half = len(bomb) // fragments
        parts = [masked(TEXT, bomb[:half], first=RSV1 | (FIN if fragments == 1 else 0))]
        parts += [masked(CONT, bomb[half:])] if fragments == 2 else []

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, self.OFFER) as enemy, raw(runtime.url) as other:
                assert enemy.offered.startswith("permessage-deflate")
                tracemalloc.start()
                try:
                    await enemy.send(b"".join(parts))
                    goodbye, code = await enemy.farewell()
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)
                assert peak < 12 * MIB
                await other.still_works()

        play(tmp_path, scenario)


class TestFragmentFlood:
    def test_sixty_four_fragments_are_a_message(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as client:
                blanks = (masked(CONT, b" ", first=0) + masked(PING, b"between")) * 62
                await client.send(masked(TEXT, '{"type":"ping",', first=0) + blanks + masked(CONT, '"id":7}'))
                assert (await client.until("ok"))["id"] == 7

        play(tmp_path, scenario)

    @pytest.mark.parametrize("between", [b"", masked(PONG, b"x")], ids=["bare", "control frames between"])
    def test_more_are_closed(self, tmp_path: Path, between: bytes) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(masked(TEXT, b"{", first=0) + (masked(CONT, b" ", first=0) + between) * 64)
                goodbye, code = await enemy.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)

        play(tmp_path, scenario)

    def test_what_comes_behind_the_flood_is_not_looked_at(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        flood = masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 200 + masked(CONT, b"}")

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(flood + masked(TEXT, '{"type":"ping"}') + flood)
                assert (await enemy.farewell())[1] == 1009

        play(tmp_path, scenario)
        assert not [record for record in caplog.records if record.exc_info]


class TestHugeFrames:
    @pytest.mark.parametrize(
        "data",
        [
            masked(TEXT, b"x" * (2 * MIB + 1)),
            masked(BINARY, b"x" * (2 * MIB + 1)),
            bytes((FIN | TEXT, 0xFF)) + (2**63 - 1).to_bytes(8),
            masked(TEXT, b"x" * MIB, first=0) + masked(CONT, b"x" * MIB, first=0) + masked(CONT, b"x"),
        ],
        ids=["text", "binary", "only announced", "in fragments"],
    )
    def test_more_than_two_mebibytes_are_closed(self, tmp_path: Path, data: bytes) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(data)
                goodbye, code = await enemy.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)

        play(tmp_path, scenario)

    def test_control_frames_and_contents_have_bounds_of_their_own_in_bytes(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime, ("Authorization", f"Bearer {SECRET}")) as client:
                bare = len(json.dumps({"type": "ping", "id": "asked", "pad": ""}))
                assert (await client.ask("ping", pad="x" * (64 * 1024 - bare)))["type"] == "ok"
                assert (await client.ask("ping", pad="x" * (64 * 1024 - bare + 1)))["code"] == "too_large"
                assert (await client.ask("send", agent="a", content="x" * MIB))["type"] == "ok"
                assert (await client.ask("send", agent="a", content="x" * (MIB + 1)))["code"] == "too_large"
                text = json.dumps({"type": "send", "id": "asked", "agent": "a", "content": "\u00e9" * (MIB // 2)})
                await client.send(masked(TEXT, text.encode().decode("unicode_escape")[:-2] + 'x"}'))
                assert (await client.until("error"))["code"] == "too_large"
                assert (await client.ask("launch", template="t", prompt="x" * (MIB + 1)))["code"] == "too_large"

        play(tmp_path, scenario, token=SECRET)


class TestCompressionSideChannel:
    @pytest.mark.parametrize(
        "offer",
        [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=12",
        ],
    )
    def test_no_context_is_kept_whatever_is_offered(self, tmp_path: Path, offer: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 30)
            async with opened(runtime, ("Sec-WebSocket-Extensions", offer)) as client:
                assert {"server_no_context_takeover", "client_no_context_takeover"} <= set(client.offered.split("; "))
                same = [await _replayed(client, str(number)) for number in range(3)]
                assert same[0].is_compressed
                assert len({frame.payload for frame in same}) == 1

        play(tmp_path, scenario)

    @pytest.mark.parametrize(
        "offer", ["permessage-deflate; server_max_window_bits=9", "permessage-deflate; dance", "other"]
    )
    def test_who_insists_on_what_is_not_shared_gets_plain_frames(self, tmp_path: Path, offer: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 30)
            async with opened(runtime, ("Sec-WebSocket-Extensions", offer)) as client:
                assert not (await _replayed(client, "plain")).is_compressed

        play(tmp_path, scenario)

    @pytest.mark.parametrize("bits", [9, 10, 12, 15, None])
    def test_a_client_with_any_window_understands(self, tmp_path: Path, bits: int | None) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 300, text="a long and far from random text " * 9)
            offer = [ClientPerMessageDeflateFactory(server_max_window_bits=bits)]
            async with connect(str(runtime.url), compression=None, extensions=offer, max_size=None) as connection:
                client = Raw(connection)
                assert (await client.receive())["type"] == "welcome"
                await client.subscribe("a")
                assert len((await client.follow_to_end("a", 300)).items) == 300

        play(tmp_path, scenario)

    def test_who_keeps_a_context_all_the_same_only_harms_itself(self, tmp_path: Path) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = json.dumps({"type": "ping", "id": "a text that is long enough to be found again in the window"})
        both = [(deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2)]

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, TestDecompressionBomb.OFFER) as enemy, raw(runtime.url) as other:
                await enemy.send(masked(TEXT, both[0], first=FIN | RSV1))
                assert (await enemy.until("ok"))["id"].startswith("a text")
                await enemy.send(masked(TEXT, both[1], first=FIN | RSV1))
                goodbye, code = await enemy.farewell()
                assert goodbye["code"] == code == 1002
                await other.still_works()

        play(tmp_path, scenario)


async def _replayed(client: Wire, id: str) -> Any:
    """Return the frame with the messages of agent `a`, asked for once more."""
    await client.say("subscribe", id=id, agent="a")
    while True:
        frame = await client.read()
        if frame.opcode == TEXT and frame.json["type"] == "messages":
            return frame


def test_hostile_clients_leave_the_others_alone(tmp_path: Path) -> None:
    """All of the loud ones at once, beside one honest subscriber who misses nothing."""
    attacks: list[Callable[[], bytes]] = [
        lambda: masked(TEXT, b"x" * (2 * MIB + 1)),
        lambda: masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 70,
        lambda: masked(TEXT, b"\xff"),
        lambda: masked(TEXT, b"{}", mask=False),
        lambda: masked(TEXT, "[" * 60_000),
    ]

    async def scenario(runtime: AgentRuntime) -> None:
        agent = await runtime.alaunch(id="a")
        agent.start()

        async def attack(make: Callable[[], bytes]) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(make() + masked(CLOSE, b"\x03\xe8"))
                await enemy.is_dropped()

        async with raw(runtime.url) as honest:
            await honest.subscribe("a")
            enemies = [asyncio.create_task(attack(make)) for make in attacks * 4]
            for ten in range(10):
                await say(agent, *(str(number) for number in range(10 * ten, 10 * ten + 10)))
            await agent.complete()
            assert (await honest.follow_to_end("a", 100)).contents == [str(number) for number in range(100)]
            await asyncio.gather(*enemies)

    play(tmp_path, scenario)
