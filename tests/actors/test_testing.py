"""The doubles that are shipped: they do what they say, also inside somebody else's pytest."""

import subprocess
import sys
from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.actors.messages import Notice
from commitcast.actors.testing import MockGateway
from commitcast.persistence import Committed

SECONDS = 10.0


def test_it_receives_committed_and_notices_in_order(agent_runtime: AgentRuntime, mock_gateway: MockGateway) -> None:
    agent = agent_runtime.launch(prompt="hi")
    agent.start().get(SECONDS)
    agent_runtime.emit("nobody", "x").exception(SECONDS)

    received = mock_gateway.wait_for(3)

    assert [type(told) for told in received] == [Committed, Committed, Notice]
    assert [message.content for message in mock_gateway.messages] == ["hi"]
    assert [change.status for change in mock_gateway.changes] == ["running"]


def test_waiting_in_vain_raises_and_shows_what_was_there(mock_gateway: MockGateway) -> None:
    for wait in (
        lambda: mock_gateway.wait_for(1, timeout_s=0),
        lambda: mock_gateway.wait_for_messages(1, timeout_s=0),
        lambda: mock_gateway.wait_for_status("a", "running", timeout_s=0),
    ):
        with pytest.raises(TimeoutError, match=r"received \[\]"):
            wait()


def test_fail_on_raises_at_that_message_and_it_is_not_kept(tmp_path: Path) -> None:
    gateway = MockGateway()
    gateway.fail_on(3)
    with AgentRuntime(tmp_path / "a.db", gateway=gateway.ref) as runtime:
        agent = runtime.launch()
        for number in range(4):
            agent.emit(str(number)).get(SECONDS)

    assert len(gateway.received) == 2
    gateway.stop()


def test_nothing_but_a_store_can_make_a_committed() -> None:
    with pytest.raises(TypeError, match="made by a store"):
        Committed()


def test_the_fixtures_are_found_by_a_hosts_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_host.py").write_text(
        "def test_host(agent_runtime, mock_gateway):\n"
        "    agent = agent_runtime.launch(lambda context: ['a', 'b'])\n"
        "    agent.wait(timeout=5)\n"
        "    assert [m.content for m in mock_gateway.wait_for_messages(2)] == ['a', 'b']\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert "1 passed" in done.stdout, done.stdout
