"""A slow disk is felt by whoever speaks, costs bounded memory, and never blocks an event loop."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pushing
from commitcast.actors import AgentContext, AgentRuntime, AgentStatus, BackpressureError
from commitcast.actors.backpressure import AGENT_MESSAGES
from commitcast.actors.kernel.future import Future
from commitcast.actors.testing import HeldStore
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites, Outcome
from waiting import SLOWNESS, TIMEOUT_S, wait_until

MEMORY_MIB = 64
"""What a runtime may grow by, however much is pushed through it: what may be on its way, several times over."""


def held_store(tmp_path: Path) -> HeldStore:
    return HeldStore(SqliteStore(tmp_path / "a.db"))


class Yielding:
    """Sources that count what was taken from them."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.taken = 0

    def blocking(self, context: AgentContext) -> Iterator[str]:
        for number in range(self.messages):
            self.taken += 1
            yield str(number)

    async def on_a_loop(self, context: AgentContext) -> AsyncIterator[str]:
        for number in range(self.messages):
            self.taken += 1
            yield str(number)


class TestTheBound:
    @pytest.mark.parametrize("kind", ["blocking", "on_a_loop"])
    def test_a_source_is_read_no_further_than_the_bound_while_the_database_stands_still(
        self, tmp_path: Path, kind: str
    ) -> None:
        source = Yielding(200)
        store = held_store(tmp_path)
        with AgentRuntime(store, max_unacknowledged=16) as runtime:
            store.hold(lambda work: source.taken > 0)
            agent = runtime.launch(getattr(source, kind))
            store.wait_until_held()
            wait_until(lambda: runtime._running.credit.has_waiters, "the source to wait at its bound")

            taken = source.taken
            store.release()

            assert 16 <= taken <= 2 * 16 + 1  # what the first commit took, what is on its way, one in its hand
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            assert agent.record().head == 200

    def test_one_agent_at_its_bound_keeps_no_other_from_speaking(self, tmp_path: Path) -> None:
        store = held_store(tmp_path)
        with AgentRuntime(store, max_unacknowledged=2, emit_timeout_s=0) as runtime:
            busy, quiet = runtime.launch(), runtime.launch()
            store.hold()
            for _ in range(2):
                busy.emit("x")
            with pytest.raises(BackpressureError):
                busy.emit("x")

            future = quiet.emit("still heard")
            store.release()

            assert future.get(TIMEOUT_S).sequence == 1

    def test_emit_waits_as_long_as_it_may_and_then_says_so_and_nothing_is_stored(self, tmp_path: Path) -> None:
        store = held_store(tmp_path)
        with AgentRuntime(store, max_unacknowledged=1, emit_timeout_s=0.05) as runtime:
            agent = runtime.launch()
            store.hold()
            first = agent.emit("first")
            begun = time.monotonic()

            with pytest.raises(BackpressureError, match="aemit"):
                agent.emit("refused")
            waited_s = time.monotonic() - begun
            store.release()

            assert waited_s >= 0.05
            assert first.get(TIMEOUT_S).sequence == 1
            assert agent.emit("second").get(TIMEOUT_S).sequence == 2
            assert [message.content for message in agent.messages()] == ["first", "second"]

    def test_emit_goes_on_as_soon_as_there_is_room(self, tmp_path: Path) -> None:
        store = held_store(tmp_path)
        with AgentRuntime(store, max_unacknowledged=1) as runtime:
            agent = runtime.launch()
            store.hold()
            agent.emit("first")
            records: list[int] = []
            speaking = threading.Thread(target=lambda: records.append(agent.emit("second").get(TIMEOUT_S).sequence))
            speaking.start()
            wait_until(lambda: runtime._running.credit.has_waiters, "the speaker to wait")

            store.release()
            speaking.join(TIMEOUT_S)

            assert records == [2]

    def test_a_place_that_was_cancelled_is_free_for_the_next(self, tmp_path: Path) -> None:
        store = held_store(tmp_path)
        with AgentRuntime(store, max_unacknowledged=2, emit_timeout_s=0) as runtime:
            agent = runtime.launch()
            store.hold()
            agent.emit("first")
            store.wait_until_held()
            waiting = agent.emit("second")
            with pytest.raises(BackpressureError):
                agent.emit("no room")
            waiting.cancel()
            store.release()

            waiting.exception(TIMEOUT_S)

            wait_until(lambda: runtime.stats().unacknowledged_messages == 0, "every place to be given back")
            assert agent.emit("room").get(TIMEOUT_S).sequence == agent.record().head

    def test_on_a_loop_emit_refuses_at_once_and_aemit_waits_and_can_be_given_up(self, tmp_path: Path) -> None:
        async def host() -> list[str]:
            store = held_store(tmp_path)
            async with AgentRuntime(store, max_unacknowledged=1, emit_timeout_s=3_600) as runtime:
                agent = await runtime.alaunch()
                store.hold()
                first = agent.emit("first")
                with pytest.raises(BackpressureError):
                    agent.emit("refused at once, for an hour would be too long")
                waiting = [asyncio.create_task(agent.aemit(text)) for text in ("second", "given up")]
                await asyncio.sleep(0)
                waiting[1].cancel()
                store.release()
                await first
                await waiting[0]
                await asyncio.wait([waiting[1]])
                assert waiting[1].cancelled()
                return [message.content for message in await agent.amessages()]

        assert asyncio.run(host()) == ["first", "second"]


def push(tmp_path: Path, messages: int, microseconds: int) -> None:
    done = subprocess.run(
        [sys.executable, pushing.__file__, str(tmp_path), str(messages), str(microseconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(figures)

    assert (figures["completed"], figures["stored"]) == (pushing.AGENTS, messages)
    assert AGENT_MESSAGES <= figures["most_waiting"] <= pushing.AGENTS * AGENT_MESSAGES  # felt, and kept
    assert figures["grown_mib"] < MEMORY_MIB, figures


class TestMemory:
    @pytest.mark.sampled(1 / 2)
    def test_it_stays_flat_when_far_more_is_pushed_than_the_disk_takes(self, tmp_path: Path) -> None:
        push(tmp_path, 30_000, 40)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_it_stays_flat_over_a_million_messages(self, tmp_path: Path) -> None:
        push(tmp_path, 1_000_000, 100)


class Ticker(HeldStore):
    """Counts what a loop has time for, and holds each commit until the loop has had time for something."""

    TICKS = 5

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.ticks = 0
        self.commits = 0
        self.blocked: list[int] = []
        """For each commit during which the loop stood still: its number."""

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        self.commits += 1
        begun = self.ticks
        try:
            wait_until(lambda: self.ticks >= begun + self.TICKS, "the loop to tick", SLOWNESS)
        except AssertionError:
            self.blocked.append(self.commits)
        return super().commit(work)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.ticks += 1


class TestTheLoop:
    def test_it_ticks_during_every_commit_whatever_is_awaited(self, tmp_path: Path) -> None:
        """A commit does not return before the loop has ticked: what blocks the loop for it is found out."""

        async def host() -> tuple[int, list[int]]:
            ticker = Ticker(SqliteStore(tmp_path / "a.db"))
            ticking = asyncio.create_task(ticker.tick())
            async with AgentRuntime(ticker, max_unacknowledged=64) as runtime:
                agents = await asyncio.gather(*(runtime.alaunch() for _ in range(8)))

                async def follow(agent: Any) -> list[int]:
                    return [message.sequence async for message in agent.afollow()]

                async def speak(agent: Any) -> None:
                    await asyncio.gather(*(agent.aemit(str(number)) for number in range(200)))
                    for _ in range(10):
                        await agent.emit("awaited future")
                    await agent.asend("a user's message")
                    await agent.start()
                    await agent.complete()

                async def launch() -> None:
                    async def source(context: AgentContext) -> AsyncIterator[str]:
                        for number in range(100):
                            yield str(number)

                    agent = await runtime.alaunch(source, prompt="hi")
                    assert (await agent.await_(TIMEOUT_S)).status is AgentStatus.COMPLETED
                    assert len(await agent.amessages()) == 101

                following = [asyncio.create_task(follow(agent)) for agent in agents[:4]]
                await asyncio.gather(*map(speak, agents), *(launch() for _ in range(8)))
                assert await asyncio.gather(*following) == [list(range(1, 212))] * 4
                ticking.cancel()
                return ticker.commits, ticker.blocked

        commits, blocked = asyncio.run(host())

        print(f"{commits} commits, the loop stood still in {len(blocked)}")
        assert commits > 20
        assert blocked == []

    def test_an_emit_that_is_answered_on_the_callers_thread_still_does_not_wait_for_the_disk(
        self, tmp_path: Path
    ) -> None:
        async def host() -> None:
            store = held_store(tmp_path)
            async with AgentRuntime(store) as runtime:
                agents = await asyncio.gather(*(runtime.alaunch() for _ in range(50)))
                store.hold()

                futures: list[Future[Any]] = [agent.emit("idle agents take it at once") for agent in agents]
                futures += [agent.complete() for agent in agents]
                futures += [runtime.emit("nobody", "unknown")]  # its actor looks into the store
                assert not any(future.done() for future in futures)
                store.release()

                found = await asyncio.gather(*futures, return_exceptions=True)
                assert [getattr(record, "sequence", None) for record in found[:50]] == [1] * 50

        asyncio.run(host())
