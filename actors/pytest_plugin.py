"""Fixtures for tests of programs that embed the runtime; pytest finds them by itself once commitcast is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.testing import MockGateway


@pytest.fixture
def mock_gateway() -> Iterator[MockGateway]:
    """A gateway actor that keeps what it receives."""
    gateway = MockGateway()
    yield gateway
    gateway.stop()


@pytest.fixture
def agent_runtime(tmp_path: Path, mock_gateway: MockGateway) -> Iterator[AgentRuntime]:
    """A running runtime on a real database in a temporary folder, with `mock_gateway` as its gateway."""
    with AgentRuntime(tmp_path / "agents.db", gateway=mock_gateway) as runtime:
        yield runtime
