"""A runtime on a file that a server process serves, and a second one on it: what each sees and may do."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentHandle, AgentRuntime, served
from hosts import server_of
from waiting import TIMEOUT_S


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[AgentRuntime, AgentRuntime]]:
    path = tmp_path / "agents.db"
    with AgentRuntime(path, server="process") as one, AgentRuntime(path, server="process") as other:
        yield one, other


def test_a_callback_of_what_another_runtime_has_answered_may_read(both: tuple[AgentRuntime, AgentRuntime]) -> None:
    """The answers of the reads come on the thread that has brought the first one."""
    one, other = both
    seen: SimpleQueue[Any] = SimpleQueue()

    def echo(context: AgentContext) -> Iterator[str]:
        yield context.receive()

    one.launch(echo, id="a")
    handle = other.agent("a")
    handle.send("hello").add_done_callback(lambda future: seen.put((future.get(0).sequence, handle.record().head)))

    sequence, head = seen.get(timeout=TIMEOUT_S)
    assert sequence == 1 and head >= 1
    assert handle.wait(TIMEOUT_S).status == "completed"


def test_agents_that_go_on_when_they_are_acknowledged_share_each_commit(
    both: tuple[AgentRuntime, AgentRuntime],
) -> None:
    """Else half of them would always wait for the commit of the other half."""
    one, _ = both
    agents = one.launch_many(8)
    before, rounds = one.stats().commits, 40
    done: SimpleQueue[int] = SimpleQueue()

    def say(agent: AgentHandle, number: int) -> None:
        if number == rounds:
            done.put(number)
        else:
            agent.emit(str(number)).add_done_callback(lambda _: say(agent, number + 1))

    for agent in agents:
        say(agent, 0)
    for _ in agents:
        done.get(timeout=TIMEOUT_S)

    commits = one.stats().commits - before
    assert commits < 1.5 * rounds, commits


@pytest.mark.sampled(1 / 3)
def test_a_stop_beside_a_server_that_is_stopped_waits_for_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "DRAIN_S", 0.1)
    with AgentRuntime(tmp_path / "agents.db", server="process", listen="127.0.0.1:0") as runtime:
        server = server_of(runtime)
        os.kill(server, signal.SIGSTOP)
        try:
            began = time.monotonic()
            runtime.stop(0.2)

            assert time.monotonic() - began < served.CLOSE_S
        finally:
            os.kill(server, signal.SIGCONT)
