"""What the tests of processes left behind share."""

from collections.abc import Iterator

import pytest

from shells import Children


@pytest.fixture
def children() -> Iterator[Children]:
    """What a test starts, killed and reaped at its end however that comes."""
    started = Children()
    yield started
    started.end()
