"""Readers in the host: everything once and in order, whatever is dropped meanwhile; and the store is left in peace."""

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime
from commitcast.actors.errors import LoopWouldBlockError, RuntimeStoppedError
from commitcast.actors.readers import LOG_BYTES, AgentLog, Follower, Readers, Step
from commitcast.actors.testing import MockGateway
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import AgentPage
from stores import COMPLETED, INITIALIZING, RUNNING, change, commit, new_agent, opened, proof, text
from waiting import TIMEOUT_S, wait_until

MANY = 200


class CountingStore(SqliteStore):
    """Counts what is read."""

    reads = 0

    def agent(self, agent: str) -> AgentRecord | None:
        self.reads += 1
        return super().agent(agent)

    def entries(self, *args: Any, **options: Any) -> AgentPage:
        self.reads += 1
        return super().entries(*args, **options)

    def messages(self, *args: Any, **options: Any) -> list[MessageRecord]:
        self.reads += 1
        return super().messages(*args, **options)


@pytest.mark.parametrize("gateway", ["none", "mock", "port"])
def test_a_follower_reads_the_store_when_it_begins_and_never_again(tmp_path: Path, gateway: str) -> None:
    store = CountingStore(tmp_path / "a.db")
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if gateway == "mock":
            options["gateway"] = mock = MockGateway()
            stack.callback(mock.stop)
        elif gateway == "port":
            options["listen"] = "127.0.0.1:0"
        runtime = stack.enter_context(AgentRuntime(store, **options))
        agent = runtime.launch(id="a")
        agent.emit("0").get(TIMEOUT_S)
        followed = agent.follow()
        assert next(followed).content == "0"
        before = store.reads
        for number in range(1, MANY):
            agent.emit(str(number)).get(TIMEOUT_S)
            assert next(followed).content == str(number)
        agent.terminate().get(TIMEOUT_S)
        assert list(followed) == []
        assert store.reads - before <= 1  # that which finds that the first page was the last


def test_an_async_follower_and_one_that_waits_leave_the_store_in_peace_too(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "a.db")

    async def scenario() -> tuple[list[str], AgentRecord]:
        async with AgentRuntime(store) as runtime:
            store.reads = 0  # a start reads for each process of any runtime that it finds
            agent = await runtime.alaunch(id="a")
            await agent.start()
            waiter = asyncio.create_task(agent.await_())
            contents = []
            agent.emit("0")
            async for message in agent.afollow():
                contents.append(message.content)
                if message.sequence == MANY:
                    agent.complete({"answer": 42})
                else:
                    agent.emit(str(message.sequence))
            record = await waiter
            assert record == await agent.arecord()
            return contents, record

    contents, record = asyncio.run(scenario())

    assert contents == [str(number) for number in range(MANY)]
    assert record.status is AgentStatus.COMPLETED
    assert record.head == MANY
    assert store.reads < 8


def test_a_waiter_is_given_the_record_of_an_end_that_nobody_asked_for(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "a.db")
    release = threading.Event()

    def source(context: Any) -> Iterator[str]:
        yield "begun"
        release.wait(TIMEOUT_S)
        yield "ended"

    with AgentRuntime(store) as runtime:
        agent = runtime.launch(source)
        readers = agent._system.readers
        waiting = threading.Thread(target=lambda: records.append(agent.wait()))
        records: list[AgentRecord] = []
        waiting.start()
        wait_until(lambda: (log := readers.get(agent.id)) is not None and log.is_waited_for, "it to wait")
        before = store.reads
        release.set()
        waiting.join(TIMEOUT_S)

        assert store.reads == before
        assert records == [agent.record()]
        assert readers.get(agent.id) is None


@pytest.mark.both_forms
@pytest.mark.sampled(1 / 2)
def test_slow_followers_cost_a_cursor_and_get_everything(tmp_path: Path) -> None:
    count, followers = 20_000, 100
    with AgentRuntime(tmp_path / "a.db") as runtime, ExitStack() as open_ones:
        agent = runtime.launch(id="a")
        agent.emit("x" * 200).get(TIMEOUT_S)
        slow = [agent.follow() for _ in range(followers)]
        for follower in slow:
            open_ones.callback(follower.close)  # type: ignore[attr-defined]  # it is a generator
            assert next(follower).sequence == 1
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(count):
                future = agent.emit("x" * 200)
            future.get(TIMEOUT_S)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        agent.terminate().get(TIMEOUT_S)

        assert after - before < 4 * LOG_BYTES
        assert [message.sequence for message in slow[0]] == list(range(2, count + 2))


@pytest.mark.both_forms
def test_nothing_is_kept_for_one_that_only_waits_and_a_later_follower_gets_everything(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch(id="a")
        readers = agent._system.readers
        waiting = threading.Thread(target=agent.wait)
        waiting.start()
        wait_until(lambda: (log := readers.get("a")) is not None and log.is_waited_for, "it to wait")
        log = readers.get("a")
        assert log is not None
        agent.emit("0").get(TIMEOUT_S)
        earlier = agent.follow()
        assert next(earlier).content == "0"
        agent.emit("1").get(TIMEOUT_S)
        assert log.next(1) is not None
        earlier.close()  # type: ignore[attr-defined]  # it is a generator
        for number in range(2, 5):
            agent.emit(str(number)).get(TIMEOUT_S)
        assert [log.next(sequence) for sequence in range(6)] == [None] * 6

        followed = agent.follow(after=2)
        seen = [next(followed).content for _ in range(3)]
        agent.emit("5").get(TIMEOUT_S)
        assert log.next(5) is not None
        agent.terminate().get(TIMEOUT_S)
        waiting.join(TIMEOUT_S)

        assert [*seen, *(message.content for message in followed)] == ["2", "3", "4", "5"]


@pytest.mark.both_forms
def test_the_end_of_the_runtime_wakes_who_follows_and_who_waits(tmp_path: Path) -> None:
    async def scenario() -> list[Any]:
        runtime = AgentRuntime(tmp_path / "a.db", stop_timeout_s=0.1)
        await asyncio.to_thread(runtime.start)
        agent = await runtime.alaunch(id="a")
        log = agent._system.readers
        tasks = [asyncio.create_task(agent.await_()), asyncio.create_task(anext(aiter(agent.afollow())))]  # type: ignore[arg-type]
        async with asyncio.timeout(TIMEOUT_S):
            while (used := log.get("a")) is None or not (used.is_waited_for and used._waiting):
                await asyncio.sleep(0.001)
        log.close(None)
        runtime._backend.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(runtime.stop)
        return outcomes

    assert [type(outcome) for outcome in asyncio.run(scenario())] == [RuntimeStoppedError] * 2


@pytest.mark.both_forms
@pytest.mark.parametrize("blocks", [lambda agent: agent.wait(), lambda agent: list(agent.follow())])
def test_to_block_the_loop_of_its_source_is_refused_and_names_the_twin(
    tmp_path: Path, blocks: Callable[[AgentHandle], object]
) -> None:
    async def source(context: AgentContext) -> AsyncIterator[str]:
        yield await context.receive()

    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(source)
            with pytest.raises(LoopWouldBlockError, match=r"await_\(\)|afollow\(\)"):
                blocks(agent)
            await agent.asend("go on")
            record = await agent.await_()
            assert agent.wait() == record  # it does not block any more

    asyncio.run(scenario())


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 6)), max_size=30)


@given(steps=STEPS, after=st.integers(0, 12), max_bytes=st.sampled_from([0, 1_600, 100_000]))
def test_whatever_is_dropped_and_whenever_it_looks_it_gets_each_message_once(
    steps: list[tuple[int, int, int]], after: int, max_bytes: int
) -> None:
    """Against the store itself: commits, missed ones, and looks in any order."""
    with opened(":memory:") as store:
        commit(store, "a", new_agent("1", "2", "3"))
        commit(store, "a", change(INITIALIZING, RUNNING))
        log = AgentLog()
        log.followers = 1
        follower = Follower(log, after)
        seen: list[int] = []

        def look(times: int) -> Step | None:
            for _ in range(times):
                step = follower.next()
                if step is Step.READ:
                    follower.take(store.entries("a", follower.after, 0, limit=4))
                elif isinstance(step, MessageRecord):
                    seen.append(step.sequence)
                else:
                    return step
            return None

        head = 3
        for kind, messages, looks in steps:
            outcome = commit(store, "a", *(text("x") for _ in range(messages)))
            head += messages
            if kind:  # else it was committed before the reader began, or went by
                log.publish(proof(outcome), outcome.replies, max_bytes)
            look(looks)
        outcome = commit(store, "a", change(RUNNING, COMPLETED))
        log.publish(proof(outcome), outcome.replies, max_bytes)

        assert look(10_000) is Step.END
        assert seen == list(range(after + 1, head + 1))


@pytest.mark.parametrize("way", ["follow", "afollow", "wait", "await_"])
def test_of_an_agent_at_work_nothing_is_read_before_or_after_the_first_news(tmp_path: Path, way: str) -> None:
    store = CountingStore(tmp_path / "a.db")

    async def read(agent: AgentHandle, heard: list[Any]) -> None:
        if way == "await_":
            heard.append((await agent.await_(TIMEOUT_S)).status)
        elif way == "wait":
            heard.append((await asyncio.to_thread(agent.wait, TIMEOUT_S)).status)
        elif way == "follow":
            heard += [message.content for message in await asyncio.to_thread(list, agent.follow())]
        else:
            async for message in agent.afollow():
                heard.append(message.content)

    async def scenario() -> None:
        async with AgentRuntime(store) as runtime:
            store.reads = 0  # a start reads for each process of any runtime that it finds
            agent = await runtime.alaunch(id="a")
            await agent.start()
            heard: list[Any] = []
            reading = asyncio.create_task(read(agent, heard))
            while (
                runtime._system is None
                or not (log := runtime._system.readers.get("a"))
                or not (log._waiting or log._waiting_for_end)
            ):
                await asyncio.sleep(0)
            before = store.reads
            await agent.aemit("one")
            await agent.aemit("two")
            await agent.complete()
            await reading

            assert heard == (["one", "two"] if "follow" in way else [AgentStatus.COMPLETED])
            assert (before, store.reads) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.both_forms
def test_one_that_begins_between_messages_misses_none_and_hears_none_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(id="a")
            await agent.start()
            heard: dict[int, list[int]] = {}

            async def follow(after: int) -> None:
                heard[after] = [message.sequence async for message in agent.afollow(after=after)]

            followers = []
            for number in range(MANY):
                future = agent.emit(str(number))
                if number % 5 == 0:
                    followers.append(asyncio.create_task(follow(number)))
                if number % 3 == 0:
                    await future
            await agent.complete()
            await asyncio.gather(*followers)

            assert heard == {after: list(range(after + 1, MANY + 1)) for after in range(0, MANY, 5)}

    asyncio.run(scenario())


def committed_by(store: SqliteStore, content: str) -> Committed:
    return proof(commit(store, "a", text(content)))


def test_a_log_that_has_begun_keeps_what_came_meanwhile() -> None:
    with opened(":memory:") as store:
        commit(store, "a", new_agent())
        log = AgentLog()
        log.followers = 1
        log.publish(committed_by(store, "one"), [], LOG_BYTES)

        log.begin_after(1)  # of one who looked before, and comes late

        found = log.next(0)
        assert found is not None and found.content == "one"


def test_what_was_added_while_the_last_follower_left_is_not_continued_by_the_next() -> None:
    readers = Readers()
    with opened(":memory:") as store, readers.of("a", follows=False) as log:
        commit(store, "a", new_agent())
        log.followers = 1  # as one saw it that was just publishing
        log.publish(committed_by(store, "one"), [], LOG_BYTES)
        log.followers = 0
        log.publish(committed_by(store, "two"), [], LOG_BYTES)  # for nobody

        with readers.of("a", follows=True):
            assert Follower(log, 1).next() is Step.READ  # what was for nobody is in the store
