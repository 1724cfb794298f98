"""What a source has opened is closed at its end, and the stop waits for it: generators within it, and streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime, AgentStatus

SECONDS = 10.0


class Model:
    """Says words until it is closed, and then needs a moment."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def words(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "word"
                await asyncio.sleep(0)
        finally:
            self.log.append("begun")
            await asyncio.sleep(0.02)  # longer than a few turns of the loop
            self.log.append("done")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncIterator[str]]:
        try:
            yield self.words()
        finally:
            self.log.append("left")

    async def goes_on(self, context: AgentContext) -> AsyncIterator[str]:
        async for word in self.words():
            yield word

    async def goes_on_inside(self, context: AgentContext) -> AsyncIterator[str]:
        async for word in self.goes_on(context):
            yield word

    async def goes_on_within_a_context(self, context: AgentContext) -> AsyncIterator[str]:
        async with self.opened() as words:
            async for word in words:
                yield word

    async def goes_on_in_a_task(self, context: AgentContext) -> AsyncIterator[str]:
        async def listen() -> None:
            async for _ in self.words():
                await asyncio.sleep(0)

        listening = asyncio.create_task(listen())
        while not listening.done():
            yield "word"
            await asyncio.sleep(0)

    async def raises(self, context: AgentContext) -> AsyncIterator[str]:
        async for word in self.words():
            yield word
            raise ConnectionResetError

    async def returns(self, context: AgentContext) -> AsyncIterator[str]:
        async for word in self.words():
            yield word
            return

    async def returns_all(self, context: AgentContext) -> str:
        async for word in self.words():
            return word
        return ""


def run_here(path: Path, source: Any, end: Callable[[AgentHandle], object]) -> None:
    """On the loop that the runtime makes."""
    with AgentRuntime(path) as runtime:
        agent = runtime.launch(source)
        next(iter(agent.follow()))
        end(agent)


def run_on_a_host(path: Path, source: Any, end: Callable[[AgentHandle], object]) -> None:
    """On a loop of the host."""

    async def host() -> None:
        async with AgentRuntime(path) as runtime:
            agent = await runtime.alaunch(source)
            await anext(aiter(agent.afollow()))
            await asyncio.to_thread(end, agent)

    asyncio.run(host())


def terminate(agent: AgentHandle) -> None:
    agent.terminate().get(SECONDS)


def leave_to_the_stop(agent: AgentHandle) -> None:
    pass


def wait(agent: AgentHandle) -> None:
    agent.wait(SECONDS)


@pytest.mark.parametrize("run", [run_here, run_on_a_host])
class TestGenerators:
    @pytest.mark.parametrize("end", [terminate, leave_to_the_stop])
    @pytest.mark.parametrize("kind", ["goes_on", "goes_on_inside", "goes_on_within_a_context"])
    def test_one_inside_of_a_source_that_is_stopped_is_closed_to_the_end(
        self, tmp_path: Path, run: Any, kind: str, end: Any
    ) -> None:
        model = Model()

        run(tmp_path / "a.db", getattr(model, kind), end)

        assert [word for word in model.log if word != "left"] == ["begun", "done"]

    @pytest.mark.parametrize("end", [leave_to_the_stop, wait])
    @pytest.mark.parametrize("kind", ["raises", "returns", "returns_all"])
    def test_one_inside_of_a_source_that_ends_by_itself_is_closed_to_the_end(
        self, tmp_path: Path, run: Any, kind: str, end: Any
    ) -> None:
        model = Model()

        run(tmp_path / "a.db", getattr(model, kind), end)

        assert model.log == ["begun", "done"]


def test_one_inside_of_a_task_that_a_source_leaves_behind_is_closed_to_the_end(tmp_path: Path) -> None:
    model = Model()

    run_here(tmp_path / "a.db", model.goes_on_in_a_task, terminate)

    assert model.log == ["begun", "done"]


def test_a_hosts_own_generators_are_left_to_its_loop(tmp_path: Path) -> None:
    model, own = Model(), Model()

    async def host() -> None:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(model.returns)
            await agent.await_(SECONDS)
            async for _ in own.words():
                break
        while len(own.log) < 2:
            await asyncio.sleep(0)

    asyncio.run(host())

    assert (model.log, own.log) == (["begun", "done"], ["begun", "done"])


class Stream:
    """Says two words, as an SDK's stream does, and is closed in one of the ways that they have."""

    def __init__(self, *, fails: bool = False) -> None:
        self.closed = 0
        self._words = iter(["a"] if fails else ["a", "b"])
        self._fails = fails

    def word(self) -> str | None:
        word = next(self._words, None)
        if word is None and self._fails:
            raise ConnectionResetError
        return word


class Plain(Stream):
    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        word = self.word()
        if word is None:
            raise StopIteration
        return word

    def close(self) -> None:
        self.closed += 1


class MakesIterators(Stream):
    def __iter__(self) -> Iterator[str]:
        while (word := self.word()) is not None:
            yield word

    def close(self) -> None:
        self.closed += 1


class Async(Stream):
    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        word = self.word()
        if word is None:
            raise StopAsyncIteration
        return word

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class AsyncWithClose(Stream):
    async def __aiter__(self) -> AsyncIterator[str]:
        while (word := self.word()) is not None:
            yield word

    def close(self) -> Awaitable[None]:
        return Async.aclose(self)  # type: ignore[arg-type]  # it needs no more than this has


@pytest.mark.parametrize("run", [run_here, run_on_a_host])
@pytest.mark.parametrize("fails", [False, True], ids=["to-the-end", "failing"])
@pytest.mark.parametrize("kind", [Plain, MakesIterators, Async, AsyncWithClose])
class TestStreams:
    def check(self, path: Path, run: Any, stream: Any, source: Any, *, fails: bool) -> None:
        seen: list[AgentStatus] = []
        closed: list[int] = []

        def wait_and_look(agent: AgentHandle) -> None:
            seen.append(agent.wait(SECONDS).status)
            closed.append(stream.closed)  # before the stop, so before its end was told

        run(path, source, wait_and_look)

        assert seen == [AgentStatus.FAILED if fails else AgentStatus.COMPLETED]
        assert closed == [1]

    def test_one_that_a_function_returns_is_closed_once(self, tmp_path: Path, run: Any, kind: Any, fails: bool) -> None:
        stream = kind(fails=fails)

        self.check(tmp_path / "a.db", run, stream, lambda context: stream, fails=fails)

    def test_one_that_a_coroutine_returns_is_closed_once(
        self, tmp_path: Path, run: Any, kind: Any, fails: bool
    ) -> None:
        stream = kind(fails=fails)

        async def source(context: AgentContext) -> Any:
            return stream

        self.check(tmp_path / "a.db", run, stream, source, fails=fails)


def test_a_stream_whose_agent_is_ended_is_closed(tmp_path: Path) -> None:
    class Endless(Async):
        async def __anext__(self) -> str:
            await asyncio.sleep(0)
            return "word"

    stream = Endless()

    run_here(tmp_path / "a.db", lambda context: stream, terminate)

    assert stream.closed == 1


@pytest.mark.parametrize("is_generator", [False, True], ids=["stream", "generator"])
def test_the_clean_up_of_one_that_says_more_when_its_agent_has_ended_is_not_cancelled(
    tmp_path: Path, is_generator: bool
) -> None:
    """The runtime notices that before the task is cancelled, and begins to close it."""
    closed: list[bool] = []

    class Late(Async):
        def __init__(self, context: AgentContext) -> None:
            super().__init__()
            self._context = context
            self._said = 0

        async def __anext__(self) -> str:
            self._said += 1
            if self._said == 2:
                self._context.cancelled.wait(SECONDS)  # keeps the loop, so that nothing is cancelled before it goes on
            return "word"

        async def aclose(self) -> None:
            await asyncio.sleep(0.02)
            closed.append(True)

    async def generator(context: AgentContext) -> AsyncIterator[str]:
        late = Late(context)
        try:
            async for word in late:
                yield word
        finally:
            await late.aclose()

    run_here(tmp_path / "a.db", generator if is_generator else Late, terminate)

    assert closed == [True]
