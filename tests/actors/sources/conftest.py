"""What the tests of sources share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_agent import Agent
from commitcast.actors.sources.processes import pipes
from processes import children as children_of_this_process
from shells import Children


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    descriptors, before = os.listdir("/proc/self/fd"), children_of_this_process()
    yield agent
    assert os.listdir("/proc/self/fd") == descriptors
    assert not children_of_this_process() - before, "a child is left, or a zombie"


@pytest.fixture
def children() -> Iterator[Children]:
    """What a test starts, killed and reaped at its end however that comes."""
    started = Children()
    yield started
    started.end()


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "SILENCE_AFTER_EXIT_S", 0.1)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe between a test and a child."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path
