"""What the tests of sources share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_agent import Agent
from commitcast.actors.sources import pipes


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    descriptors = os.listdir("/proc/self/fd")
    yield agent
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(ChildProcessError):  # no child is left, not even a zombie
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "SILENCE_AFTER_EXIT_S", 0.1)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe between a test and a child."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path
