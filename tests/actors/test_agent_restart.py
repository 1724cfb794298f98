"""Sources that fail and are started again, on real files: the sequence goes on, and the end is true."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime, AgentStatus, CommandSource
from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.messages import RestartDue
from commitcast.actors.testing import FailingStore, MockGateway
from commitcast.persistence import InvalidValueError, NotStoredError, SqliteStore, verify
from commitcast.persistence.writes import AgentWrites
from waiting import TIMEOUT_S, wait_until

AT_ONCE = RestartPolicy(intensity=3, period_s=60, backoff_s=0.001, max_backoff_s=0.002)
LATER = RestartPolicy(backoff_s=3_600, max_backoff_s=3_600)


class Flaky:
    """Fails so many times before it succeeds, each time after it has said something."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.attempts: list[int] = []

    def __call__(self, context: AgentContext) -> Iterator[str]:
        self.attempts.append(context.attempt)
        yield f"run {context.attempt}"
        if context.attempt < self.failures:
            raise ConnectionResetError(f"hung up {context.attempt}")
        yield "done"


def said(agent: AgentHandle) -> list[tuple[int, str, str]]:
    return [(message.sequence, message.type, message.content) for message in agent.messages()]


def waits_for_its_restart(agent: AgentHandle) -> None:
    wait_until(lambda: any(message.type == "system" for message in agent.messages()), "the restart to be announced")


def test_by_default_the_first_error_is_the_end(agent_runtime: AgentRuntime) -> None:
    source = Flaky(1)
    agent = agent_runtime.launch(source)

    record = agent.wait(TIMEOUT_S)

    assert (record.status, record.error_name, record.error_message) == ("failed", "ConnectionResetError", "hung up 0")
    assert said(agent) == [(1, "assistant", "run 0")]
    assert source.attempts == [0]


def test_a_source_that_fails_twice_and_then_succeeds_completes_in_one_sequence(
    agent_runtime: AgentRuntime, mock_gateway: MockGateway
) -> None:
    source = Flaky(2)
    agent = agent_runtime.launch(source, prompt="go", restart=AT_ONCE)

    record = agent.wait(TIMEOUT_S)

    assert (record.status, record.error_name) == (AgentStatus.COMPLETED, None)
    assert source.attempts == [0, 1, 2]
    text = "The source failed (ConnectionResetError: hung up {}) and will be restarted in {} s."
    assert said(agent) == [
        (1, "user", "go"),
        (2, "assistant", "run 0"),
        (3, "system", text.format(0, "0.001")),
        (4, "assistant", "run 1"),
        (5, "system", text.format(1, "0.002")),
        (6, "assistant", "run 2"),
        (7, "assistant", "done"),
    ]
    assert [message.metadata for message in agent.messages() if message.type == "system"] == [
        {"restart": 1, "delay_s": 0.001, "error_name": "ConnectionResetError", "error_message": "hung up 0"},
        {"restart": 2, "delay_s": 0.002, "error_name": "ConnectionResetError", "error_message": "hung up 1"},
    ]
    mock_gateway.wait_for_status(agent.id, "completed")
    assert [change.status for change in mock_gateway.changes] == ["running", "completed"]
    assert [message.sequence for message in mock_gateway.messages] == list(range(1, 8))
    assert agent_runtime.stats().unacknowledged_messages == 0


def test_the_name_of_the_policy_is_enough(agent_runtime: AgentRuntime) -> None:
    agent = agent_runtime.launch(Flaky(1), restart="on_failure")

    assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED


def test_the_limit_ends_it_with_the_last_error(agent_runtime: AgentRuntime) -> None:
    source = Flaky(100)
    agent = agent_runtime.launch(source, restart=AT_ONCE)

    record = agent.wait(TIMEOUT_S)

    assert (record.status, record.error_message) == (AgentStatus.FAILED, "hung up 3")
    assert source.attempts == [0, 1, 2, 3]
    assert [sequence for sequence, _, _ in said(agent)] == list(range(1, 8))


def test_an_async_source_is_started_again_too(agent_runtime: AgentRuntime) -> None:
    async def source(context: AgentContext) -> AsyncIterator[str]:
        yield f"run {context.attempt}"
        await asyncio.sleep(0)
        if context.attempt < 2:
            raise OSError("no")

    agent = agent_runtime.launch(source, restart=AT_ONCE)

    assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
    assert [content for _, type, content in said(agent) if type == "assistant"] == ["run 0", "run 1", "run 2"]


def test_an_async_source_of_an_async_host_is_started_again_on_the_same_loop(tmp_path: Path) -> None:
    loops: list[Any] = []

    async def source(context: AgentContext) -> str:
        loops.append(asyncio.get_running_loop())
        if context.attempt == 0:
            raise OSError("no")
        return "done"

    async def host() -> Any:
        async with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = await runtime.alaunch(source, restart=AT_ONCE)
            assert (await agent.await_(TIMEOUT_S)).status is AgentStatus.COMPLETED
        return asyncio.get_running_loop()

    loop = asyncio.run(host())
    assert loops == [loop, loop]


def test_a_program_that_fails_twice_is_run_three_times(agent_runtime: AgentRuntime, tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; file = pathlib.Path(sys.argv[1]); run = len(file.read_bytes()) if file.exists() else 0;"
        "file.write_bytes(b'x' * (run + 1)); print('run', run); sys.exit(0 if run == 2 else 3)"
    )
    source = CommandSource([sys.executable, "-c", script, str(tmp_path / "runs")], type="text")
    agent = agent_runtime.launch(source, restart=AT_ONCE)

    record = agent.wait(TIMEOUT_S)

    assert record.status is AgentStatus.COMPLETED
    assert [content for _, type, content in said(agent) if type == "assistant"] == ["run 0", "run 1", "run 2"]
    restarts = [message.metadata for message in agent.messages() if message.type == "system"]
    assert [(found or {})["error_name"] for found in restarts] == ["CommandFailedError"] * 2


def test_the_inbox_survives_the_restart_and_takes_what_is_sent_during_the_backoff(agent_runtime: AgentRuntime) -> None:
    may_fail = threading.Event()

    def source(context: AgentContext) -> Iterator[str]:
        if context.attempt == 0:
            may_fail.wait(TIMEOUT_S)
            raise OSError("read nothing")
        for _ in range(2):
            yield f"heard {context.inbox.get(timeout=TIMEOUT_S)}"

    agent = agent_runtime.launch(source, restart=RestartPolicy(backoff_s=0.05))
    agent.send("before").get(TIMEOUT_S)
    may_fail.set()
    waits_for_its_restart(agent)
    agent.send("during").get(TIMEOUT_S)

    assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
    assert [content for _, type, content in said(agent) if type == "assistant"] == ["heard before", "heard during"]


def test_terminate_during_the_backoff_ends_it_at_once(agent_runtime: AgentRuntime) -> None:
    source = Flaky(100)
    agent = agent_runtime.launch(source, restart=LATER)
    waits_for_its_restart(agent)

    record = agent.terminate("enough").get(TIMEOUT_S)

    assert record.status is AgentStatus.TERMINATED
    assert source.attempts == [0]
    wait_until(lambda: agent_runtime.stats().agents == 0, "its actor to be retired")


def test_complete_during_the_backoff_ends_it_and_no_run_follows(tmp_path: Path) -> None:
    source = Flaky(100)
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch(source, restart=LATER)
        waits_for_its_restart(agent)
        system = runtime._running
        wait_until(lambda: system.credit.try_acquire(agent.id, 1), "a place")  # taken, so that its actor is not retired

        agent.complete("good enough").get(TIMEOUT_S)
        system.directory.tell(agent.id, RestartDue())  # its timer was quicker
        agent.emit("behind it").get(TIMEOUT_S)
        system.credit.release(agent.id, 1, 1)
        record = agent.record()

    assert record.status is AgentStatus.COMPLETED
    assert source.attempts == [0]


def test_the_stop_of_the_runtime_during_the_backoff_ends_it_at_once(tmp_path: Path) -> None:
    source = Flaky(100)
    with AgentRuntime(tmp_path / "a.db", stop_timeout_s=3_600) as runtime:
        agent = runtime.launch(source, restart=LATER)
        waits_for_its_restart(agent)

    assert source.attempts == [0]
    with AgentRuntime(tmp_path / "a.db") as again:
        assert again.recovered_agents == 0
        assert again.agent(agent.id).record().status is AgentStatus.TERMINATED
    assert verify(tmp_path / "a.db").is_sound


def test_what_the_database_refused_is_not_tried_again(tmp_path: Path) -> None:
    store = FailingStore(SqliteStore(tmp_path / "a.db"))
    attempts: list[int] = []

    def is_refused(work: Sequence[AgentWrites]) -> bool:
        return any(getattr(write, "content", None) == "refused" for writes in work for write in writes.writes)

    def source(context: AgentContext) -> None:
        attempts.append(context.attempt)
        context.emit("refused").get(TIMEOUT_S)  # raises inside the source

    store.fail(NotStoredError("the disk said no"), times=None, when=is_refused)
    with AgentRuntime(store) as runtime:
        agent = runtime.launch(source, restart=AT_ONCE)

        record = agent.wait(TIMEOUT_S)

        assert (record.status, record.error_name) == (AgentStatus.FAILED, "NotStoredError")
        assert attempts == [0]
        assert said(agent) == []


@pytest.mark.parametrize("restart", ["always", None, 3, RestartPolicy(intensity=-1)])
def test_what_is_no_policy_is_refused_in_one_sentence_before_anything_is_stored(
    agent_runtime: AgentRuntime, restart: Any
) -> None:
    with pytest.raises(InvalidValueError, match="restart") as refused:
        agent_runtime.launch(Flaky(0), restart=restart)

    assert "\n" not in str(refused.value)
    assert agent_runtime.agents() == []


def test_one_agents_restarts_are_not_counted_for_another(agent_runtime: AgentRuntime) -> None:
    policy = RestartPolicy(intensity=1, period_s=60, backoff_s=0.001)

    agents = [agent_runtime.launch(Flaky(1), restart=policy) for _ in range(5)]

    assert [agent.wait(TIMEOUT_S).status for agent in agents] == [AgentStatus.COMPLETED] * 5


def test_terminating_an_agent_that_waits_for_its_restart_leaves_no_dead_letter(agent_runtime: AgentRuntime) -> None:
    def fails(context: AgentContext) -> None:
        raise OSError("no")

    agent = agent_runtime.launch(fails, restart=RestartPolicy(backoff_s=0.05))
    next(iter(agent.follow()))
    agent.terminate().get(TIMEOUT_S)
    again = agent_runtime.launch(fails, restart=RestartPolicy(intensity=2, backoff_s=0.1))
    again.wait(TIMEOUT_S)  # longer than the other's backoff

    assert agent_runtime.stats().latest_dead_letters == ()
