"""What the tests that break disks and processes have in common: a file, and hosts that are programs of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts import Hosts, hosts_on


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a database that is not there yet."""
    return tmp_path / "agents.db"


@pytest.fixture
def hosts(path: Path) -> Iterator[Hosts]:
    """Starts hosts on the file; none outlives the test."""
    with hosts_on(path) as hosts:
        yield hosts
