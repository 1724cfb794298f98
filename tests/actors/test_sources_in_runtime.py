"""What feeds an agent, through the whole runtime: every kind of source, its end, its bound and its cancelling."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime, AgentStatus, CommandSource, Draft, RestartPolicy
from commitcast.actors.errors import InputRefusedError
from commitcast.actors.testing import HeldStore, MockGateway
from commitcast.persistence import AgentNotFoundError, InvalidValueError, SqliteStore
from waiting import wait_until

SECONDS = 10.0


def contents(agent: AgentHandle) -> list[str]:
    return [message.content for message in agent.follow()]


def says_generator(context: AgentContext) -> Iterator[str]:
    yield from ("a", "b")


def says_list(context: AgentContext) -> list[Draft]:
    return [Draft("a"), Draft("b")]


async def says_async_generator(context: AgentContext) -> AsyncIterator[str]:
    yield "a"
    await asyncio.sleep(0)
    yield "b"


async def says_coroutine(context: AgentContext) -> list[str]:
    await asyncio.sleep(0)
    return ["a", "b"]


def says_by_emit(context: AgentContext) -> None:
    assert context.emit("a").get(SECONDS).sequence == 1
    context.emit("b")


class SaysByCall:
    async def __call__(self, context: AgentContext) -> list[str]:
        return ["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        says_generator,
        says_list,
        says_async_generator,
        says_coroutine,
        says_by_emit,
        SaysByCall(),
        lambda context: says_async_generator(context),
        CommandSource(["printf", "a\\nb\\n"], type="text"),
    ],
    ids=["generator", "list", "async-generator", "coroutine", "emit", "async-call", "hidden-async", "command"],
)
def test_every_kind_of_source_is_stored_in_order_and_completes(agent_runtime: AgentRuntime, source: Any) -> None:
    agent = agent_runtime.launch(source)

    assert contents(agent) == ["a", "b"]
    record = agent.wait(SECONDS)
    assert record.status is AgentStatus.COMPLETED
    assert record.started_at is not None


def test_an_async_source_of_an_async_host_runs_on_the_hosts_loop(tmp_path: Path) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def source(context: AgentContext) -> AsyncIterator[str]:
        loops.append(asyncio.get_running_loop())
        yield "a"

    async def host() -> asyncio.AbstractEventLoop:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(source)
            assert [message.content async for message in agent.afollow()] == ["a"]
            assert (await agent.await_(SECONDS)).status is AgentStatus.COMPLETED
            assert (await agent.arecord()).head == 1
            assert [message.sequence for message in await agent.amessages()] == [1]
        return asyncio.get_running_loop()

    assert loops == [asyncio.run(host())]


def test_a_source_that_raises_fails_its_agent_and_keeps_what_it_said(agent_runtime: AgentRuntime) -> None:
    def source(context: AgentContext) -> Iterator[str]:
        yield "before"
        raise ConnectionResetError("the model hung up")

    agent = agent_runtime.launch(source)

    record = agent.wait(SECONDS)
    assert (record.status, record.error_name, record.error_message) == (
        AgentStatus.FAILED,
        "ConnectionResetError",
        "the model hung up",
    )
    assert contents(agent) == ["before"]


@pytest.mark.parametrize("said", [42, b"bytes", object()], ids=["int", "bytes", "object"])
def test_a_source_that_yields_what_is_no_message_fails_its_agent(agent_runtime: AgentRuntime, said: object) -> None:
    record = agent_runtime.launch(lambda context: [said]).wait(SECONDS)

    assert (record.status, record.error_name) == (AgentStatus.FAILED, "TypeError")


def test_bad_text_of_a_source_is_replaced_and_kept_in_raw(agent_runtime: AgentRuntime) -> None:
    agent = agent_runtime.launch(lambda context: "lone \ud800 surrogate")

    agent.wait(SECONDS)
    message = agent.messages()[0]
    assert message.content == "lone \ufffd surrogate"
    assert message.raw == b"lone \xed\xa0\x80 surrogate"


def test_one_failing_agent_does_not_stop_another(agent_runtime: AgentRuntime) -> None:
    def fails(context: AgentContext) -> None:
        raise SystemError("broken")

    def speaks(context: AgentContext) -> Iterator[str]:
        for number in range(200):
            yield str(number)

    good, bad = agent_runtime.launch(speaks), agent_runtime.launch(fails)

    assert bad.wait(SECONDS).status is AgentStatus.FAILED
    assert contents(good) == [str(number) for number in range(200)]


def test_terminate_stops_the_source_and_what_it_yields_after_that_is_discarded(
    agent_runtime: AgentRuntime, mock_gateway: MockGateway
) -> None:
    said, may_end = threading.Event(), threading.Event()

    def source(context: AgentContext) -> Iterator[str]:
        yield "before"
        said.set()
        context.cancelled.wait(SECONDS)
        may_end.wait(SECONDS)
        yield "after"

    agent = agent_runtime.launch(source)
    said.wait(SECONDS)

    record = agent.terminate("enough").get(SECONDS)
    may_end.set()

    assert record.status is AgentStatus.TERMINATED
    assert contents(agent) == ["before"]
    change = mock_gateway.wait_for_status(agent.id, "terminated")
    assert (change.reason, change.sequence) == ("enough", 1)


def test_an_async_source_is_cancelled_by_terminate(agent_runtime: AgentRuntime) -> None:
    async def source(context: AgentContext) -> AsyncIterator[str]:
        yield "before"
        await asyncio.get_running_loop().create_future()

    agent = agent_runtime.launch(source)
    assert next(iter(agent.follow())).content == "before"

    assert agent.terminate().get(SECONDS).status is AgentStatus.TERMINATED


def test_a_source_waits_at_its_bound_while_the_database_stands_still(tmp_path: Path) -> None:
    """The generator is not read further than the bound allows, however long the commit takes."""
    yielded: list[int] = []

    def source(context: AgentContext) -> Iterator[str]:
        for number in range(100):
            yielded.append(number)
            yield str(number)

    store = HeldStore(SqliteStore(tmp_path / "a.db"))
    with AgentRuntime(store, max_unacknowledged=10) as runtime:
        store.hold(lambda _: len(yielded) > 0)
        agent = runtime.launch(source, id="bounded")
        store.wait_until_held()
        wait_until(lambda: len(yielded) >= 11, "the source to reach its bound")
        assert len(yielded) == 11  # ten on their way, and one in the source's hand
        store.release()

        assert contents(agent) == [str(number) for number in range(100)]


def test_send_is_stored_as_a_users_message_and_reaches_the_inbox_only_after_that(agent_runtime: AgentRuntime) -> None:
    def source(context: AgentContext) -> Iterator[str]:
        text = context.inbox.get(timeout=SECONDS)
        stored = [message.content for message in agent_runtime.store.messages(context.id)]
        yield f"heard {text!r}, stored {stored!r}"

    agent = agent_runtime.launch(source)

    sent = agent.send("hello").get(SECONDS)

    assert (sent.type, sent.role) == ("user", "user")
    assert contents(agent) == ["hello", "heard 'hello', stored ['hello']"]


def test_more_sources_than_threads_take_turns(tmp_path: Path) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def source(context: AgentContext) -> str:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        context.cancelled.wait(0.001)
        with lock:
            now -= 1
        return "done"

    with AgentRuntime(tmp_path / "a.db", max_running_sources=3) as runtime:
        agents = [runtime.launch(source) for _ in range(20)]
        assert [agent.wait(SECONDS).status for agent in agents] == [AgentStatus.COMPLETED] * 20

    assert most <= 3


def test_what_is_no_source_is_refused_before_anything_is_stored(agent_runtime: AgentRuntime) -> None:
    with pytest.raises(InvalidValueError, match="callable"):
        agent_runtime.launch(["a", "b"])  # type: ignore[arg-type]

    assert agent_runtime.agents() == []


def test_the_prompt_reaches_the_source_and_is_message_one(agent_runtime: AgentRuntime) -> None:
    agent = agent_runtime.launch(
        lambda context: f"{context.prompt} {context.configuration['model']}", prompt="hi", configuration={"model": "m"}
    )

    assert contents(agent) == ["hi", "hi m"]


def test_a_users_message_that_nobody_would_read_is_refused_and_not_stored(agent_runtime: AgentRuntime) -> None:
    ended = agent_runtime.launch(lambda context: "done")
    ended.wait(SECONDS)
    program = agent_runtime.launch(CommandSource(["sleep", "60"], type="text"))

    assert isinstance(ended.send("hello?").exception(SECONDS), InputRefusedError)
    assert isinstance(program.send("hello?").exception(SECONDS), InputRefusedError)

    assert contents(ended) == ["done"]
    assert program.messages() == []
    program.terminate().get(SECONDS)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_source_that_tries_to_end_its_thread_fails_its_agent_only(
    agent_runtime: AgentRuntime, error: BaseException, is_async: bool
) -> None:
    def source(context: AgentContext) -> Iterator[str]:
        yield "before"
        raise error

    async def async_source(context: AgentContext) -> AsyncIterator[str]:
        yield "before"
        raise error

    bad = agent_runtime.launch(async_source if is_async else source)

    assert bad.wait(SECONDS).status.is_terminal
    assert contents(bad) == ["before"]
    assert contents(agent_runtime.launch(says_async_generator)) == ["a", "b"]


def test_a_message_to_an_agent_that_is_not_there_counts_at_no_gate(agent_runtime: AgentRuntime) -> None:
    ended = agent_runtime.launch(lambda context: "done")
    ended.wait(SECONDS)
    errors: list[BaseException | None] = []

    def source(context: AgentContext) -> None:
        errors.extend(context.send(agent, "hello?").exception(SECONDS) for agent in ("nobody", ended.id))

    assert agent_runtime.launch(source).wait(SECONDS).status is AgentStatus.COMPLETED
    assert [type(error) for error in errors] == [AgentNotFoundError, InputRefusedError]
    assert agent_runtime.stats().unacknowledged_messages == 0


def test_bad_text_anywhere_in_a_draft_is_replaced(agent_runtime: AgentRuntime) -> None:
    drafts = [Draft("x", metadata={"a": ["\ud800"]}), Draft({"b\udfff": "\ud800"})]

    agent = agent_runtime.launch(lambda context: drafts)

    assert agent.wait(SECONDS).status is AgentStatus.COMPLETED
    first, second = agent.messages()
    assert (first.metadata, second.json()) == ({"a": ["\ufffd"]}, {"b\ufffd": "\ufffd"})


def test_a_failing_callback_keeps_no_agent_from_its_end(agent_runtime: AgentRuntime) -> None:
    def source(context: AgentContext) -> Iterator[str]:
        context.cancelled.on_set(lambda: 1 / 0)
        yield "ready"
        context.cancelled.wait(SECONDS)

    agent = agent_runtime.launch(source)
    next(iter(agent.follow()))

    assert agent.terminate().get(SECONDS).status is AgentStatus.TERMINATED


def test_an_async_source_that_will_not_be_cancelled_does_not_hold_the_stop_up_for_ever(tmp_path: Path) -> None:
    may_end = threading.Event()

    async def stubborn(context: AgentContext) -> AsyncIterator[str]:
        yield "here"
        while not may_end.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    runtime = AgentRuntime(tmp_path / "a.db", stop_timeout_s=0.5).start()
    next(iter(runtime.launch(stubborn).follow()))

    runtime.stop()
    may_end.set()

    assert runtime.failure is None


def clean_up_of(log: list[str], is_cleaning: threading.Event) -> Any:
    """A source that waits, and awaits while it cleans up."""

    async def source(context: AgentContext) -> AsyncIterator[str]:
        try:
            yield "here"
            await asyncio.Event().wait()
        finally:
            is_cleaning.set()
            log.append("begun")
            await asyncio.sleep(0.05)
            log.append("done")

    return source


def test_a_stop_cancels_an_async_source_once_and_waits_until_it_has_cleaned_up(tmp_path: Path) -> None:
    log: list[str] = []
    runtime = AgentRuntime(tmp_path / "a.db").start()
    next(iter(runtime.launch(clean_up_of(log, threading.Event())).follow()))

    runtime.stop()

    assert log == ["begun", "done"]


def test_a_stop_in_the_midst_of_a_clean_up_does_not_break_it_off(tmp_path: Path) -> None:
    log: list[str] = []
    is_cleaning = threading.Event()
    runtime = AgentRuntime(tmp_path / "a.db").start()
    agent = runtime.launch(clean_up_of(log, is_cleaning))
    next(iter(agent.follow()))
    agent.terminate().get(SECONDS)
    assert is_cleaning.wait(SECONDS)

    runtime.stop()

    assert log == ["begun", "done"]


def test_a_stop_of_an_async_host_waits_for_clean_up_on_the_hosts_loop(tmp_path: Path) -> None:
    log: list[str] = []

    async def host() -> list[str]:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(clean_up_of(log, threading.Event()))
            async for _ in agent.afollow():
                break
        return list(log)

    assert asyncio.run(host()) == ["begun", "done"]


def test_a_source_that_stops_its_own_runtime_is_not_waited_for(tmp_path: Path) -> None:
    async def host() -> float:
        stopped_after_s: list[float] = []
        is_stopped = asyncio.Event()
        async with AgentRuntime(tmp_path / "a.db", stop_timeout_s=SECONDS) as runtime:

            async def source(context: AgentContext) -> AsyncIterator[str]:
                yield "here"
                began = asyncio.get_running_loop().time()
                runtime.stop()  # blocks the loop that it is on
                stopped_after_s.append(asyncio.get_running_loop().time() - began)
                is_stopped.set()

            await runtime.alaunch(source)
            await is_stopped.wait()
        return stopped_after_s[0]

    assert asyncio.run(host()) < SECONDS / 2


async def cancelled_inside(context: AgentContext) -> AsyncIterator[str]:
    yield "asks"
    request = asyncio.ensure_future(asyncio.Event().wait())
    request.cancel()  # a library gives up
    await request


async def says_that_it_was_cancelled(context: AgentContext) -> None:
    raise asyncio.CancelledError("the connection was closed")


async def cancels_its_own_task(context: AgentContext) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def blocking_says_that_it_was_cancelled(context: AgentContext) -> None:
    raise asyncio.CancelledError("the connection was closed")


@pytest.mark.parametrize(
    "source",
    [cancelled_inside, says_that_it_was_cancelled, cancels_its_own_task, blocking_says_that_it_was_cancelled],
)
def test_a_cancellation_that_the_agent_did_not_ask_for_is_a_failure(agent_runtime: AgentRuntime, source: Any) -> None:
    record = agent_runtime.launch(source).wait(SECONDS)

    assert (record.status, record.error_name) == (AgentStatus.FAILED, "CancelledError")
    assert "not by its agent" in (record.error_message or "")


def test_a_task_that_its_host_cancels_before_it_runs_has_failed_too(tmp_path: Path) -> None:
    def cancelled(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(work, loop=loop, **options)
        if work.__qualname__.startswith("SourceRunner."):
            task.cancel()
        return task

    async def host() -> AgentStatus:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            asyncio.get_running_loop().set_task_factory(cancelled)
            agent = await runtime.alaunch(says_coroutine)
            record = await agent.await_(SECONDS)
            asyncio.get_running_loop().set_task_factory(None)
            return record.status

    assert asyncio.run(host()) is AgentStatus.FAILED


def test_it_runs_again_after_a_cancellation_that_nobody_asked_for(agent_runtime: AgentRuntime) -> None:
    async def source(context: AgentContext) -> AsyncIterator[str]:
        if context.attempt == 0:
            raise asyncio.CancelledError
        yield "again"

    agent = agent_runtime.launch(source, restart=RestartPolicy(backoff_s=0.001))

    assert agent.wait(SECONDS).status is AgentStatus.COMPLETED
    assert contents(agent)[-1] == "again"


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_the_traceback_of_a_failing_source_is_logged_as_a_warning(
    agent_runtime: AgentRuntime, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    def fails(context: AgentContext) -> None:
        raise LookupError("here it is")

    async def afails(context: AgentContext) -> None:
        raise LookupError("here it is")

    agent_runtime.launch(fails if kind == "blocking" else afails, id="loud").wait(SECONDS)

    (found,) = [record for record in caplog.records if "loud" in record.getMessage()]
    assert found.levelname == "WARNING"
    assert found.exc_info is not None and found.exc_info[0] is LookupError


def test_a_source_that_its_agent_ends_is_logged_as_no_failure(
    agent_runtime: AgentRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    agent = agent_runtime.launch(clean_up_of([], ended))
    next(iter(agent.follow()))

    agent.terminate().get(SECONDS)

    assert ended.wait(SECONDS)
    assert not [record for record in caplog.records if "failed" in record.getMessage()]
