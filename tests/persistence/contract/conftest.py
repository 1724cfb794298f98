"""The contract of `Store`, which every store must keep: these tests see its public interface only.

They run on each kind of database in `databases.DATABASES`. What is of one store alone is tested in that store's folder.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.persistence.store import Store
from databases import DATABASES, DURABLE, IN_SERVER, WITH_LOG, Database, SqliteFile, fill
from modes import DRAWN
from stores import INITIALIZING, RUNNING, change, commit, new_agent


def shapes(kinds: Iterable[str]) -> list[Any]:
    """The parameters of a fixture."""
    return [pytest.param(kind, marks=DRAWN if kind in (WITH_LOG, IN_SERVER) else []) for kind in kinds]


@pytest.fixture(params=shapes(DURABLE))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database that outlives its stores."""
    return DURABLE[request.param](tmp_path)


@pytest.fixture(params=shapes(DATABASES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with DATABASES[request.param](tmp_path).opened() as store:
        yield store


@pytest.fixture
def running(store: Store) -> Store:
    """A store with the agents `a` and `b` at work, each of one message: six positions."""
    for agent in ("a", "b"):
        commit(store, agent, new_agent("prompt", epoch=f"epoch of {agent}"), change(INITIALIZING, RUNNING))
    return store


@pytest.fixture(scope="session", params=shapes((*DURABLE, IN_SERVER)))
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database that `fill` has filled, to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    database = DATABASES[request.param](folder)
    fill(database if database.is_durable else SqliteFile(folder))
    return database


@pytest.fixture
def busy(filled: Database, tmp_path: Path) -> Iterator[Store]:
    """A store that `fill` has filled."""
    with filled.copy(tmp_path).opened() as store:
        yield store
