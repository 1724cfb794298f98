"""Agents of other runtimes of the same file: read, followed and waited for anywhere, written to by their owner."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime, AgentStatus, CommandSource
from commitcast.actors.errors import FutureTimeoutError, InputRefusedError
from commitcast.actors.kernel.future import Future
from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    CommitcastError,
    IllegalTransitionError,
    NotOwnerError,
)
from hosts import hosts_on
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.parametrize("server", ["process"], indirect=True), pytest.mark.sampled(8, of_file=True)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file whose server stays from test to test."""
    path = tmp_path_factory.mktemp("shared") / "agents.db"
    with AgentRuntime(path, server="process"):
        yield path


@pytest.fixture
def owner(shared: Path) -> Iterator[AgentRuntime]:
    with AgentRuntime(shared) as runtime:
        yield runtime


@pytest.fixture
def other(shared: Path, owner: AgentRuntime) -> Iterator[AgentRuntime]:
    with AgentRuntime(shared) as runtime:
        yield runtime


@pytest.fixture
def name() -> str:
    """The id of an agent that no other test has."""
    return uuid4().hex


def on_a_thread(work: Callable[[], Any]) -> "tuple[threading.Thread, list[Any]]":
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    return thread, done


def repeat(context: AgentContext) -> Iterator[str]:
    """A source that repeats what it is sent."""
    for text in context:
        if text == "end":
            return
        yield f"you said {text}"


class TestReading:
    def test_it_is_followed_from_its_beginning_to_its_end_begun_at_any_time(
        self, owner: AgentRuntime, other: AgentRuntime, name: str
    ) -> None:
        agent = owner.launch(id=name)
        agent.start().get(TIMEOUT_S)
        following = [on_a_thread(lambda: [message.content for message in other.agent(name).follow()])]
        said = [str(number) for number in range(200)]
        for number in said:
            agent.emit(number)
            if number in ("50", "100"):
                following.append(on_a_thread(lambda: [message.content for message in other.agent(name).follow()]))
        agent.complete().get(TIMEOUT_S)
        following.append(on_a_thread(lambda: [message.content for message in other.agent(name).follow()]))

        for thread, _ in following:
            thread.join(TIMEOUT_S)
        assert [done for _, done in following] == [[said]] * 4

    def test_it_is_waited_for_begun_at_any_time(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        agent = owner.launch(id=name)
        agent.start().get(TIMEOUT_S)
        with pytest.raises(FutureTimeoutError):
            other.agent(name).wait(0.05)
        waiting = [on_a_thread(lambda: other.agent(name).wait(TIMEOUT_S).status)]
        waiting.append(on_a_thread(lambda: asyncio.run(other.agent(name).await_(TIMEOUT_S)).status))
        agent.complete().get(TIMEOUT_S)
        waiting.append(on_a_thread(lambda: other.agent(name).wait(TIMEOUT_S).status))

        for thread, _ in waiting:
            thread.join(TIMEOUT_S)
        assert [done for _, done in waiting] == [[AgentStatus.COMPLETED]] * 3

    def test_its_record_and_messages_are_those_of_its_owner(
        self, owner: AgentRuntime, other: AgentRuntime, name: str
    ) -> None:
        agent = owner.launch(id=name, configuration={"model": "m"})
        agent.emit({"json": [1, 2]}, metadata={"x": "y"}, raw=b"\xff").get(TIMEOUT_S)

        assert other.agent(name).record() == agent.record()
        assert other.agent(name).messages() == agent.messages()
        assert name in [record.id for record in other.agents(limit=1_000)]


class TestRequests:
    def test_what_is_sent_reaches_its_source_once(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        owner.launch(repeat, id=name)

        first = other.agent(name).send("hello", key="k").get(TIMEOUT_S)
        again = other.agent(name).send("hello", key="k").get(TIMEOUT_S)
        other.agent(name).send("end").get(TIMEOUT_S)

        assert (first, first.role) == (again, "user")
        assert other.agent(name).wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        contents = [message.content for message in other.agent(name).messages()]
        assert sorted(contents) == ["end", "hello", "you said hello"]

    def test_it_is_terminated_by_its_owner(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        owner.launch(repeat, id=name)

        record = other.agent(name).terminate("enough").get(TIMEOUT_S)

        assert record.status is AgentStatus.TERMINATED
        assert record == owner.agent(name).record()

    def test_the_owners_refusal_is_of_its_own_class(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        owner.launch(CommandSource(["sleep", "600"], type="text"), id=name)

        with pytest.raises(InputRefusedError, match=name):
            other.agent(name).send("hello").get(TIMEOUT_S)

    def test_many_requests_to_one_that_does_not_answer_wait_until_it_does(self, path: Path) -> None:
        with hosts_on(path) as hosts:
            host = hosts()
            host.start()
            agents = host.ask("[agent.id for agent in runtime.launch_many(600)]")
            with AgentRuntime(path) as other:
                host.send_signal(signal.SIGSTOP)
                ending = [other.agent(agent).terminate() for agent in agents]
                assert len(other.agents(limit=1)) == 1
                host.send_signal(signal.SIGCONT)

                assert {future.get(TIMEOUT_S).status for future in ending} == {AgentStatus.TERMINATED}
                assert other.failure is None

    def test_after_its_end_it_is_refused_as_by_its_owner(
        self, owner: AgentRuntime, other: AgentRuntime, name: str
    ) -> None:
        agent = owner.launch(id=name)
        agent.start().get(TIMEOUT_S)
        agent.complete().get(TIMEOUT_S)

        with pytest.raises(IllegalTransitionError):
            other.agent(name).terminate().get(TIMEOUT_S)
        with pytest.raises(InputRefusedError):
            other.agent(name).send("late").get(TIMEOUT_S)

    def test_an_owner_that_dies_meanwhile_is_reported(self, path: Path) -> None:
        with hosts_on(path) as hosts:
            host = hosts()
            host.start()
            host.ask("agent = runtime.launch(id='a')")
            with AgentRuntime(path) as other:
                host.send_signal(signal.SIGSTOP)
                asking: list[Future[Any]] = [other.agent("a").terminate(), other.agent("a").send("hello")]
                with pytest.raises(FutureTimeoutError):
                    asking[0].get(0.1)
                host.kill()

                errors = [future.exception(TIMEOUT_S) for future in asking]
                assert all(isinstance(error, CommitcastError) and error.retryable for error in errors), errors
                assert other.agent("a").wait(TIMEOUT_S).error_name == "Interrupted"


WRITES: dict[str, Callable[[AgentHandle], Future[Any]]] = {
    "emit": lambda agent: agent.emit("no"),
    "start": lambda agent: agent.start(),
    "complete": lambda agent: agent.complete(),
    "fail": lambda agent: agent.fail("no"),
}


class TestWriting:
    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("is_running", [False, True])
    @pytest.mark.parametrize("write", WRITES)
    def test_only_its_owner_writes_to_it(
        self, write: str, is_running: bool, owner: AgentRuntime, other: AgentRuntime, name: str
    ) -> None:
        agent = owner.launch(id=name)
        if is_running:
            agent.start().get(TIMEOUT_S)
        before = agent.record()

        with pytest.raises(NotOwnerError):
            WRITES[write](other.agent(name)).get(TIMEOUT_S)

        assert agent.record() == before
        assert agent.emit("mine").get(TIMEOUT_S).sequence == 1
        assert other.agent(name).messages() == agent.messages()

    def test_a_finished_one_is_written_to_by_any(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        agent = owner.launch(id=name)
        with pytest.raises(NotOwnerError):
            other.agent(name).emit("too early").get(TIMEOUT_S)
        agent.terminate().get(TIMEOUT_S)

        writing = [handle.emit(f"late {number}") for number in range(50) for handle in (agent, other.agent(name))]

        assert sorted(future.get(TIMEOUT_S).sequence for future in writing) == list(range(1, 101))

    def test_an_id_is_given_away_once(self, owner: AgentRuntime, other: AgentRuntime, name: str) -> None:
        owner.launch(id=name)
        with pytest.raises(AgentExistsError):
            other.launch(id=name)
        second = f"{name}-2"
        first = owner.launch(id=second, idempotency_key=name)
        assert other.launch(id=second, idempotency_key=name).record() == first.record()
        with pytest.raises(NotOwnerError):
            other.agent(second).emit("no").get(TIMEOUT_S)

    def test_of_an_agent_that_nobody_has_launched_it_is_said_in_both(
        self, owner: AgentRuntime, other: AgentRuntime, name: str
    ) -> None:
        for runtime in (owner, other):
            with pytest.raises(AgentNotFoundError):
                runtime.agent(name).emit("no").get(TIMEOUT_S)
            with pytest.raises(AgentNotFoundError):
                runtime.agent(name).terminate().get(TIMEOUT_S)
        owner.launch(id=name)
        assert owner.agent(name).emit("x").get(TIMEOUT_S).sequence == 1
        wait_until(lambda: other.agent(name).messages(), "its message")
