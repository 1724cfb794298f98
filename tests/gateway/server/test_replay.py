"""Replays in bulk: a connection that asks for everything, and everybody at once."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.server.access.limits import Limits
from hostile import (
    TEXT,
    asleep,
    masked,
    opened,
    play,
    server_of,
    spoken,
)
from subscribers import raw

MIB: Final = 1024 * 1024


class TestUnboundedReplay:
    def test_who_asks_for_more_subscriptions_than_allowed_is_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await asyncio.to_thread(runtime.launch_many, 4, ids=["a", "b", "c", "d"])
            async with raw(runtime.url) as greedy:
                for agent in ("a", "b", "c", "b"):
                    await greedy.subscribe(agent)
                assert (await greedy.ask("subscribe", agent="d", id="one more"))["code"] == "limit"
                assert (await greedy.ask("unsubscribe", agent="a", id="away"))["type"] == "ok"
                await greedy.subscribe("d")

        play(tmp_path, scenario, limits=Limits(subscriptions=3))

    def test_who_reads_nothing_of_a_thousand_histories_holds_little_and_delays_nobody(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            handles = await asyncio.to_thread(runtime.launch_many, 1_000)
            futures = [handle.emit("x" * 8_000) for handle in handles for _ in range(3)]
            await futures[-1]
            asked = [masked(TEXT, json.dumps({"type": "subscribe", "agent": handle.id})) for handle in handles]
            async with opened(runtime, receive_buffer=4_096) as greedy, raw(runtime.url) as other:
                greedy.stop_reading()
                await greedy.send(b"".join(asked))
                peer = await asleep(runtime, greedy)

                await other.subscribe(handles[0].id)
                assert len((await other.follow(handles[0].id, 3)).contents) == 3
                await handles[0].aemit("heard at once")
                assert (await other.follow(handles[0].id, 4)).contents[-1] == "heard at once"

                core = server_of(runtime).core
                assert peer.unsent_bytes < MIB
                assert core.hub._rings.size + core.reader.pages.size < MIB
                assert core.traffic.pages < 100, "pages were read for who does not take them"

        play(tmp_path, scenario)


class TestReconnectStorm:
    @pytest.mark.sampled(1 / 2)
    def test_two_hundred_who_come_back_at_once_share_their_pages(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 1_000)
            traffic = server_of(runtime).core.traffic

            async def come_back(number: int) -> list[int]:
                async with raw(runtime.url) as client:
                    after = 250 * (number % 2)
                    await client.subscribe("a", after=after)
                    return (await client.follow_to_end("a", 1_000 - after)).sequences

            everybody = await asyncio.gather(*map(come_back, range(200)))

            assert everybody == [list(range(1 + 250 * (number % 2), 1_001)) for number in range(200)]
            alone = 2 * 5  # what one of each would have read: four pages, and the last that is empty
            assert traffic.pages < 20 * alone, "every client read for itself"

        play(tmp_path, scenario)


@pytest.mark.parametrize("begins", [True, False])
def test_a_page_that_could_not_be_read_is_read_again_for_all_who_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        await spoken(runtime, "a", 10, end=False)
        threads = server_of(runtime).core.reader._threads
        submit = threads.submit

        def fail(read: Callable[..., object]) -> None:
            read()
            raise OSError("the disk said no")

        def submit_one_that_fails(function: Callable[..., object], *arguments: object) -> Future[object]:
            if function.__name__ != "read":
                return submit(function, *arguments)
            monkeypatch.undo()
            if not begins:
                raise RuntimeError("can't start new thread")
            return submit(fail, function)

        async with raw(runtime.url) as one, raw(runtime.url) as other:
            monkeypatch.setattr(threads, "submit", submit_one_that_fails)
            await one.subscribe("a")
            await other.subscribe("a")
            await runtime.agent("a").aemit("and on")
            for client in (one, other):
                assert (await client.follow("a", 11)).sequences == list(range(1, 12))

    play(tmp_path, scenario)
    assert "cannot read on for a subscriber to a" in caplog.text
