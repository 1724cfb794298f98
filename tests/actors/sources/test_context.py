"""What a source does with its context: it receives what is sent, and emits with room, keys and records."""

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus, BackpressureError, Draft, RestartPolicy
from commitcast.actors.errors import LoopWouldBlockError, ReceiveTimeoutError, SourceCancelledError
from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.testing import HeldStore, MockGateway, SeededDispatcher
from commitcast.persistence import AgentNotFoundError, IdempotencyConflictError
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, NewMessage
from waiting import TIMEOUT_S, wait_until

AT_ONCE = RestartPolicy(intensity=2, period_s=TIMEOUT_S, backoff_s=0.01)


def contents(agent: Any) -> list[Any]:
    return [message.content for message in agent.messages(limit=1_000) if message.type == "assistant"]


async def echo_async(context: AgentContext) -> AsyncIterator[str]:
    yield "ready"
    while (text := await context.receive()) != "end":
        yield f"echo {text}"


async def iterate_async(context: AgentContext) -> AsyncIterator[str]:
    yield "ready"
    async for text in context:
        if text == "end":
            break
        yield f"echo {text}"


def echo(context: AgentContext) -> Iterator[str]:
    yield "ready"
    while (text := context.receive(timeout=TIMEOUT_S)) != "end":
        yield f"echo {text}"


def iterate(context: AgentContext) -> Iterator[str]:
    yield "ready"
    for text in context:
        if text == "end":
            break
        yield f"echo {text}"


async def echo_on_a_thread(context: AgentContext) -> AsyncIterator[str]:
    yield "ready"
    while (text := await asyncio.to_thread(context.receive)) != "end":
        yield f"echo {text}"


class TestReceiving:
    @pytest.mark.parametrize("source", [echo, iterate, echo_async, iterate_async, echo_on_a_thread])
    def test_each_text_is_received_once_and_in_order(self, agent_runtime: AgentRuntime, source: Any) -> None:
        agent = agent_runtime.launch(source)
        for text in ("one", "zwei 二", "end"):
            agent.send(text).get(TIMEOUT_S)

        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        assert contents(agent) == ["ready", "echo one", "echo zwei 二"]

    def test_sources_on_the_hosts_own_loop_block_nothing_and_leave_no_thread(self, tmp_path: Path) -> None:
        async def host() -> list[AgentStatus]:
            async with AgentRuntime(tmp_path / "a.db") as runtime:
                agents = [await runtime.alaunch(source) for source in (echo_async, iterate_async, echo_on_a_thread)]
                await agents[0].asend("hello")
                await agents[0].asend("end")
                await agents[1].terminate("enough")
                await agents[2].terminate("enough")
                return [(await agent.await_(TIMEOUT_S)).status for agent in agents]

        before = set(threading.enumerate())
        completed, *terminated = asyncio.run(asyncio.wait_for(host(), 3 * TIMEOUT_S))

        assert completed is AgentStatus.COMPLETED
        assert terminated == [AgentStatus.TERMINATED] * 2
        assert set(threading.enumerate()) <= before

    @pytest.mark.parametrize("is_there", [True, False], ids=["a text waits", "none"])
    def test_a_forgotten_await_fails_with_what_to_write(self, agent_runtime: AgentRuntime, is_there: bool) -> None:
        async def yields(context: AgentContext) -> AsyncIterator[str]:
            await has_text.wait()
            yield context.receive()

        async def iterates(context: AgentContext) -> AsyncIterator[str]:
            await has_text.wait()
            for text in context:
                yield text

        for source, advice in ((yields, "`await context.receive()`"), (iterates, "`async for text in context`")):
            has_text = asyncio.Event()
            agent = agent_runtime.launch(source)
            if is_there:
                agent.send("text").get(TIMEOUT_S)
            agent_runtime._running._loop.get().call_soon_threadsafe(has_text.set)
            record = agent.wait(TIMEOUT_S)

            assert record.status is AgentStatus.FAILED
            assert advice in str(record.error_message)
            assert contents(agent) == []

    @pytest.mark.parametrize("source", [echo, iterate, echo_async, iterate_async])
    def test_a_stop_wakes_a_source_that_receives(self, tmp_path: Path, source: Any) -> None:
        runtime = AgentRuntime(tmp_path / "a.db", stop_timeout_s=100 * TIMEOUT_S).start()
        agent = runtime.launch(source)
        wait_until(lambda: contents(agent) == ["ready"], "the source to receive")
        stopping = threading.Thread(target=runtime.stop, daemon=True)
        stopping.start()
        stopping.join(TIMEOUT_S)

        assert not stopping.is_alive()

    @pytest.mark.parametrize("is_late", [False, True], ids=["woken", "ended before"])
    def test_an_async_source_is_told_of_the_end_and_finishes_its_clean_up(self, tmp_path: Path, is_late: bool) -> None:
        log: list[str] = []

        async def source(context: AgentContext) -> AsyncIterator[str]:
            yield "ready"
            if is_late:
                while not context.cancelled.is_set():  # never gives the loop a chance to cancel it first
                    time.sleep(0.001)
            try:
                await context.receive()
            except SourceCancelledError:
                await asyncio.sleep(0.02)
                log.append("cleaned up")
                raise

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)
            next(iter(agent.follow()))
            assert agent.terminate().get(TIMEOUT_S).status is AgentStatus.TERMINATED

        assert log == ["cleaned up"]

    def test_a_task_of_a_source_may_receive_too(
        self, agent_runtime: AgentRuntime, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def source(context: AgentContext) -> AsyncIterator[str]:
            async with asyncio.TaskGroup() as tasks:
                receiving: asyncio.Task[str] = tasks.create_task(context.__anext__())
                yield "ready"
                yield await receiving
                await tasks.create_task(context.__anext__())

        agent = agent_runtime.launch(source)
        agent.send("hello").get(TIMEOUT_S)
        wait_until(lambda: contents(agent) == ["ready", "hello"], "the source to receive again")

        assert agent.terminate().get(TIMEOUT_S).status is AgentStatus.TERMINATED
        assert not caplog.records

    def test_a_task_that_is_told_of_the_end_before_its_source_is_not_a_failure(
        self, agent_runtime: AgentRuntime, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def source(context: AgentContext) -> AsyncIterator[str]:
            async def emit_late() -> None:
                while not context.cancelled.is_set():  # never gives the loop a chance to cancel the source first
                    time.sleep(0.001)
                await context.aemit("late")

            yield "ready"
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(emit_late())

        agent = agent_runtime.launch(source)
        next(iter(agent.follow()))

        assert agent.terminate().get(TIMEOUT_S).status is AgentStatus.TERMINATED
        agent_runtime.stop()  # after the source's end
        assert not caplog.records

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
    def test_a_timeout_is_a_typed_timeout_error(self, agent_runtime: AgentRuntime, is_async: bool) -> None:
        def blocking(context: AgentContext) -> str:
            with pytest.raises(ReceiveTimeoutError) as caught:
                context.receive(timeout=0.01)
            assert isinstance(caught.value, TimeoutError)
            context.emit("nothing yet")
            return context.receive(timeout=TIMEOUT_S)

        async def awaiting(context: AgentContext) -> str:
            with pytest.raises(TimeoutError, match=r"nothing was sent to agent .* within 0.01 seconds"):
                await context.receive(timeout=0.01)
            context.emit("nothing yet")
            return await context.receive(timeout=TIMEOUT_S)

        agent = agent_runtime.launch(awaiting if is_async else blocking)
        next(iter(agent.follow()))
        agent.send("hello").get(TIMEOUT_S)

        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        assert contents(agent) == ["nothing yet", "hello"]

    def test_a_wait_that_is_broken_off_loses_no_text(self, agent_runtime: AgentRuntime) -> None:
        async def source(context: AgentContext) -> AsyncIterator[str]:
            waits = [asyncio.ensure_future(context.receive()) for _ in range(3)]
            await asyncio.sleep(0)
            yield "ready"
            while not context.inbox.qsize():
                time.sleep(0.001)  # the first wait is woken, and has not run yet
            waits[0].cancel()
            waits[1].cancel()
            yield await waits[2]

        agent = agent_runtime.launch(source)
        next(iter(agent.follow()))
        agent.send("hello").get(TIMEOUT_S)

        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        assert contents(agent) == ["ready", "hello"]

    def test_a_for_loop_in_an_async_source_is_told_what_to_use(self, agent_runtime: AgentRuntime) -> None:
        async def source(context: AgentContext) -> list[str]:
            return list(context)

        record = agent_runtime.launch(source).wait(TIMEOUT_S)

        assert record.error_name == LoopWouldBlockError.__name__
        assert "async for text in context" in (record.error_message or "")

    def test_a_negative_timeout_is_refused(self, agent_runtime: AgentRuntime) -> None:
        record = agent_runtime.launch(lambda context: context.receive(timeout=-1)).wait(TIMEOUT_S)

        assert record.error_message == "timeout must be 0 or more seconds, or None, not -1"

    @pytest.mark.parametrize("source", [echo, iterate, echo_async, iterate_async])
    def test_a_conversation_can_be_tested_in_many_orders(self, source: Any) -> None:
        for seed in range(20):
            with SeededDispatcher(seed) as dispatcher:
                gateway = MockGateway(dispatcher=dispatcher)
                with AgentRuntime(":memory:", gateway=gateway.ref, dispatcher=dispatcher) as runtime:
                    agent = runtime.launch(source)
                    for text in ("a", "b", "end"):
                        agent.send(text).get(TIMEOUT_S)
                    assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
                    assert contents(agent) == ["ready", "echo a", "echo b"]
                gateway.stop()

    def test_a_timeout_takes_no_real_time_under_a_seeded_dispatcher(self) -> None:
        def source(context: AgentContext) -> Iterator[str]:
            for _ in range(3):
                with pytest.raises(ReceiveTimeoutError):
                    context.receive(timeout=100 * TIMEOUT_S)
            yield context.receive()

        with SeededDispatcher(1) as dispatcher, AgentRuntime(":memory:", dispatcher=dispatcher) as runtime:
            agent = runtime.launch(source)
            dispatcher.run()
            assert dispatcher.now() > 299 * TIMEOUT_S
            agent.send("hello").get(TIMEOUT_S)
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            runtime.launch(echo)
            dispatcher.run()

        assert not [thread for thread in threading.enumerate() if thread.name.startswith("Source-")]

    def test_an_async_source_lives_by_the_virtual_clock_too_and_its_order_is_the_seeds(self) -> None:
        async def source(context: AgentContext) -> AsyncIterator[str]:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(100 * TIMEOUT_S):
                await asyncio.sleep(50 * TIMEOUT_S)
            with pytest.raises(ReceiveTimeoutError):
                await context.receive(timeout=50 * TIMEOUT_S)
            yield await asyncio.to_thread(lambda: f"{loop.time():.0f}")
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            theirs.send(b"by a socket\n")
            yield (await reader.readline()).decode().strip()
            writer.close()

        traces = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            with SeededDispatcher(3) as dispatcher, AgentRuntime(":memory:", dispatcher=dispatcher) as runtime:
                waiting = runtime.launch(echo_async, id="waiting")
                agent = runtime.launch(source, id="agent")
                dispatcher.run_until(Signal(), 99 * TIMEOUT_S)
                traces.append(list(dispatcher.trace))
                assert agent.wait(1000 * TIMEOUT_S).status is AgentStatus.COMPLETED
                assert contents(agent) == [f"{100 * TIMEOUT_S:.0f}", "by a socket"]
                waiting.send("end").get(TIMEOUT_S)
                assert waiting.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            theirs.close()

        assert traces[0] == traces[1]
        assert not [thread for thread in threading.enumerate() if thread.name == "sources"]


class TestEmitting:
    def test_callbacks_on_a_loop_await_room_and_lose_nothing(self, tmp_path: Path) -> None:
        tokens = [f"token {number}" for number in range(60)]

        async def source(context: AgentContext) -> None:
            async def on_token(token: str) -> None:
                sequences.append((await context.aemit(token, key=token)).sequence)

            async with asyncio.TaskGroup() as tasks:  # a library that calls back without waiting for the calls
                for token in tokens:
                    tasks.create_task(on_token(token))

        sequences: list[int] = []
        with AgentRuntime(tmp_path / "a.db", max_unacknowledged=4) as runtime:
            agent = runtime.launch(source)
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            assert sorted(contents(agent)) == sorted(tokens)

        assert sorted(sequences) == list(range(1, 61))

    def test_emit_on_a_loop_refuses_at_the_bound_aloud_and_once_in_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused: list[BaseException] = []

        async def source(context: AgentContext) -> None:
            for number in range(50):
                try:
                    context.emit(str(number))
                except BackpressureError as error:
                    refused.append(error)

        with AgentRuntime(tmp_path / "a.db", max_unacknowledged=4) as runtime:
            agent = runtime.launch(source)
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            assert len(contents(agent)) + len(refused) == 50

        assert refused
        assert "await ….aemit(...)" in str(refused[0])
        assert [record.getMessage().count("use `await context.aemit(...)`") for record in caplog.records] == [1]

    def test_emit_in_a_futures_callback_refuses_at_the_bound(self, tmp_path: Path) -> None:
        refused: list[BaseException] = []
        is_called = threading.Event()

        def source(context: AgentContext) -> None:
            def emit_more(_: object) -> None:
                try:
                    for number in range(50):
                        context.emit(str(number))
                except BackpressureError as error:
                    refused.append(error)
                is_called.set()

            context.emit("first").add_done_callback(emit_more)
            assert is_called.wait(TIMEOUT_S)

        with AgentRuntime(tmp_path / "a.db", max_unacknowledged=4) as runtime:
            assert runtime.launch(source).wait(TIMEOUT_S).status is AgentStatus.COMPLETED

        assert len(refused) == 1

    def test_aemit_after_the_end_raises(self, agent_runtime: AgentRuntime) -> None:
        errors: list[BaseException] = []

        async def source(context: AgentContext) -> AsyncIterator[str]:
            yield "ready"
            try:
                await context.receive()
            finally:
                try:
                    await context.aemit("late")
                except SourceCancelledError as error:
                    errors.append(error)

        agent = agent_runtime.launch(source)
        next(iter(agent.follow()))
        agent.terminate().get(TIMEOUT_S)
        wait_until(lambda: errors, "the refusal")

        assert contents(agent) == ["ready"]


def has_messages(work: Sequence[AgentWrites]) -> bool:
    return any(isinstance(write, NewMessage) for writes in work for write in writes.writes)


class TestAtTheBound:
    """An agent may have 4 unacknowledged messages, and its source emits or sends more."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> HeldStore:
        return HeldStore(SqliteStore(tmp_path / "a.db"))

    @pytest.fixture
    def runtime(self, store: HeldStore) -> Iterator[AgentRuntime]:
        with AgentRuntime(store, max_unacknowledged=4) as runtime:
            yield runtime

    def test_asend_and_aput_wait_for_room_and_lose_nothing(self, runtime: AgentRuntime) -> None:
        async def source(context: AgentContext) -> None:
            async with asyncio.TaskGroup() as tasks:
                for number in range(100):
                    tasks.create_task(context.asend("other", str(number)))
                    tasks.create_task(context.aput(Draft(str(number))))

        other = runtime.launch(id="other")
        agent = runtime.launch(source)

        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        numbers = sorted(map(str, range(100)))
        assert sorted(contents(agent)) == numbers
        assert sorted(message.content for message in other.messages(limit=1_000)) == numbers

    def test_asend_returns_the_record_and_is_delivered_once_under_its_key(self, runtime: AgentRuntime) -> None:
        records: list[Any] = []

        async def source(context: AgentContext) -> None:
            for text in ("hello", "hello"):
                records.append(await context.asend("other", text, key="k"))
            with pytest.raises(AgentNotFoundError):
                await context.asend("nobody", "x")
            await context.asend("other", "end")

        other = runtime.launch(echo, id="other")
        assert runtime.launch(source).wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        other.wait(TIMEOUT_S)

        assert records[0] == records[1]
        assert contents(other) == ["ready", "echo hello"]

    @pytest.mark.parametrize(
        ("call", "instead"),
        [
            (lambda context, text: context.emit(text), "aemit"),
            (lambda context, text: context.put(Draft(text)), "aput"),
            (lambda context, text: context.send("other", text), "asend"),
        ],
        ids=["emit", "put", "send"],
    )
    def test_a_refusal_on_a_loop_names_the_call_that_waits(
        self, runtime: AgentRuntime, caplog: pytest.LogCaptureFixture, call: Any, instead: str
    ) -> None:
        refused: list[BackpressureError] = []

        async def source(context: AgentContext) -> None:
            for number in range(50):
                try:
                    call(context, str(number))
                except BackpressureError as error:
                    refused.append(error)

        runtime.launch(id="other")
        assert runtime.launch(source).wait(TIMEOUT_S).status is AgentStatus.COMPLETED

        assert f"await ….{instead}(...)" in str(refused[0])
        assert str(pickle.loads(pickle.dumps(refused[0]))) == str(refused[0])
        assert [record.getMessage().count(f"`await context.{instead}(...)`") for record in caplog.records] == [1]

    def test_a_refusal_to_the_host_names_the_call_that_waits(self, store: HeldStore, tmp_path: Path) -> None:
        async def host(runtime: AgentRuntime) -> None:
            agent = runtime.launch(id="a")
            store.hold()
            futures = [agent.emit("x") for _ in range(4)]
            with pytest.raises(BackpressureError, match="asend"):
                agent.send("x")
            with pytest.raises(BackpressureError, match="aemit"):
                runtime.emit("a", "x")
            waiting = asyncio.create_task(runtime.aemit("a", "waits", key="k"))
            await asyncio.sleep(0)
            store.release()
            assert (await waiting).sequence == len(futures) + 1

        with AgentRuntime(store, max_unacknowledged=4) as runtime:
            asyncio.run(host(runtime))

    @pytest.mark.parametrize("call", ["aemit", "aput", "asend"])
    @pytest.mark.parametrize("is_held", [True, False], ids=["while the commit is held", "after it"])
    def test_tasks_that_wait_learn_of_the_end(
        self, store: HeldStore, runtime: AgentRuntime, call: str, is_held: bool
    ) -> None:
        outcomes: list[object] = []
        is_waiting = threading.Event()

        async def one(context: AgentContext) -> None:
            try:
                if call == "aput":
                    await context.aput(Draft("x"))
                elif call == "asend":
                    await context.asend("other", "x")
                else:
                    outcomes.append(await context.aemit("x"))
            except BaseException as error:
                outcomes.append(type(error))

        async def source(context: AgentContext) -> None:
            store.hold(has_messages)
            tasks = [asyncio.create_task(one(context)) for _ in range(20)]
            await asyncio.sleep(0)
            is_waiting.set()
            try:
                await context.receive()
            finally:
                await asyncio.wait(tasks)

        runtime.launch(id="other")
        agent = runtime.launch(source)
        assert is_waiting.wait(TIMEOUT_S)
        store.wait_until_held()
        wait_until(lambda: runtime._running.credit.has_waiters, "tasks to wait for room")
        ending = agent.terminate()
        if is_held:
            wait_until(lambda: not runtime._running.credit.has_waiters, "the tasks to be woken")
            wait_until(lambda: outcomes.count(SourceCancelledError) == 16, "the tasks to learn of it")
        store.release()

        assert ending.get(TIMEOUT_S).status is AgentStatus.TERMINATED
        wait_until(lambda: runtime.stats().unacknowledged_messages == 0, "every place to be given back")
        assert {outcome for outcome in outcomes if isinstance(outcome, type)} <= {SourceCancelledError}

    @pytest.mark.parametrize("call", ["emit", "put", "send"])
    def test_a_thread_that_waits_learns_of_the_end_at_once(
        self, store: HeldStore, runtime: AgentRuntime, call: str
    ) -> None:
        errors: list[BaseException] = []

        def source(context: AgentContext) -> None:
            store.hold(has_messages)
            try:
                for _ in range(20):
                    if call == "put":
                        context.put(Draft("x"))
                    elif call == "send":
                        context.send("other", "x")
                    else:
                        context.emit("x")
            except BaseException as error:
                errors.append(error)
                raise

        runtime.launch(id="other")
        agent = runtime.launch(source)
        store.wait_until_held()
        wait_until(lambda: runtime._running.credit.has_waiters, "the source to wait for room")

        ending = agent.terminate()
        wait_until(lambda: errors, "the source to learn of the end")
        store.release()

        assert type(errors[0]) is SourceCancelledError
        assert ending.get(TIMEOUT_S).status is AgentStatus.TERMINATED
        wait_until(lambda: runtime.stats().unacknowledged_messages == 0, "every place to be given back")


class TestKeys:
    def test_what_a_later_run_yields_again_under_its_key_is_stored_once(self, agent_runtime: AgentRuntime) -> None:
        def source(context: AgentContext) -> Iterator[Draft]:
            yield Draft("one", key="1")
            if context.attempt == 0:
                raise ConnectionResetError
            yield Draft("bad \ud800 text", key="2")

        agent = agent_runtime.launch(source, restart=AT_ONCE)

        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        assert contents(agent) == ["one", "bad \ufffd text"]
        assert [message.key for message in agent.messages() if message.type == "assistant"] == ["1", "2"]

    def test_emit_returns_the_record_that_is_there(self, agent_runtime: AgentRuntime) -> None:
        async def source(context: AgentContext) -> None:
            first = await context.emit("one", key="k")
            assert await context.emit("one", key="k") == first == await context.aemit("one", key="k")

        assert agent_runtime.launch(source).wait(TIMEOUT_S).status is AgentStatus.COMPLETED

    def test_another_message_under_the_same_key_fails_the_agent(self, agent_runtime: AgentRuntime) -> None:
        record = agent_runtime.launch(lambda context: [Draft("one", key="k"), Draft("two", key="k")]).wait(TIMEOUT_S)

        assert (record.status, record.error_name) == (AgentStatus.FAILED, IdempotencyConflictError.__name__)

    def test_a_text_for_another_agent_is_delivered_once(self, agent_runtime: AgentRuntime) -> None:
        other = agent_runtime.launch(echo, id="other")

        def source(context: AgentContext) -> None:
            for text in ("hello", "hello"):
                context.send("other", text, key="k").get(TIMEOUT_S)
            context.send("other", "end").get(TIMEOUT_S)

        assert agent_runtime.launch(source).wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        other.wait(TIMEOUT_S)
        assert contents(other) == ["ready", "echo hello"]
