"""What a source has read and not said when its agent is ended: it is stored before the end, once."""

import threading
from pathlib import Path

import pytest

from commitcast.actors import AgentHandle, AgentRuntime, AgentStatus, CommandSource
from waiting import wait_until

SECONDS = 10.0
HALF = '{"half'
"""It may become an event, so that no piece of it is shown."""
SAYS_HALF_A_LINE = ["/bin/sh", "-c", f"printf 'ready\\n%s' '{HALF}'; exec sleep 60"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


def says_half_a_line(runtime: AgentRuntime) -> AgentHandle:
    """Launch a program that writes a line and a half, and is silent; return when that was read."""
    agent = runtime.launch(CommandSource(SAYS_HALF_A_LINE, type="codex"), id="a")
    wait_until(lambda: agent.record().head == 1, "the first line")
    return agent


def stored(path: Path) -> list[str]:
    with AgentRuntime(path) as runtime:
        return [message.content for message in runtime.agent("a").messages()]


def test_it_is_stored_before_the_end_when_the_host_ends_the_agent(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        agent = says_half_a_line(runtime)

        agent.terminate("enough").get(SECONDS)

        assert agent.record().status is AgentStatus.TERMINATED
    assert stored(path) == ["ready", HALF]


def test_it_is_stored_when_the_runtime_stops(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        says_half_a_line(runtime)

    assert stored(path) == ["ready", HALF]


def test_several_ends_at_once_store_it_once(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        agent = says_half_a_line(runtime)
        ends = [threading.Thread(target=lambda: agent.terminate("enough").exception(SECONDS)) for _ in range(8)]

        for end in ends:
            end.start()
        for end in ends:
            end.join(SECONDS)

    assert stored(path) == ["ready", HALF]


def test_an_end_that_a_program_has_said_something_before_is_answered(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        agent = says_half_a_line(runtime)

        agent.complete({"ok": True}).get(SECONDS)

        assert agent.record().status is AgentStatus.COMPLETED
    assert stored(path) == ["ready", HALF]
