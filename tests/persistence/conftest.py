"""A place for a database, and a good one to be damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import FaultyDisk, faulty_disk
from stores import COMPLETED, INITIALIZING, RUNNING, change, commit, new_agent, of, opened, text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good file: about forty pages, three agents, one of them at its end."""
    path = tmp_path_factory.mktemp("sample") / "sample.db"
    with opened(path) as store:
        for name in ("first", "second", "third"):
            store.commit([of(name, new_agent("prompt", epoch=name), change(INITIALIZING, RUNNING))])
        for number in range(4):
            appends = [text(f"{number} {place} ".ljust(400, "x"), metadata={"n": place}) for place in range(25)]
            store.commit([of("first", *appends), of("second", text(f"short {number}"))])
        store.commit([of("first", change(RUNNING, COMPLETED, result_json='{"answer":42}'))])
    return path.read_bytes()


@pytest.fixture
def good(path: Path, sample: bytes) -> Path:
    """A good file of our own."""
    path.write_bytes(sample)
    path.chmod(0o600)
    return path


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    """A disk that fails on order."""
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """An empty store in memory."""
    with opened(MEMORY) as store:
        yield store


@pytest.fixture
def running(store: SqliteStore) -> SqliteStore:
    """A store in memory with the agents `a` and `b` at work, each of one message: six positions."""
    for agent in ("a", "b"):
        commit(store, agent, new_agent("prompt", epoch=f"epoch of {agent}"), change(INITIALIZING, RUNNING))
    return store
