"""Where the contract tests keep what a store stores, for each kind of store: a second store is one more class here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final, Protocol, Self

from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.sqlite.journal import DELETE, WAL
from commitcast.persistence.sqlite.lock import holder_of
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.store import Store
from stores import (
    AT,
    COMPLETED,
    FAILED,
    INITIALIZING,
    RUNNING,
    by_hand,
    change,
    new_agent,
    of,
    opened,
    problems,
    text,
)
from waiting import wait_until


class Database(Protocol):
    """An empty database of one test."""

    is_durable: ClassVar[bool]
    """Whether it outlives the store that is opened on it, and is then as it was."""

    def __init__(self, folder: Path) -> None:
        """Make a database that lies in a folder, or beside it."""

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """A store on it, for as long as the block. One at a time."""
        raise NotImplementedError

    def delete(self, agent: str) -> None:
        """Delete an agent with all that it has, while no store is open: a store cannot yet."""

    def copy(self, folder: Path) -> Self:
        """Make another database with the same in it, while no store is open."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """What a verification finds wrong."""
        raise NotImplementedError


class SqliteFile:
    """A file."""

    is_durable: ClassVar[bool] = True
    journal_mode: ClassVar[str] = DELETE

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agents.db"

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """A store on it, for as long as the block. One at a time."""
        with opened(self.path, journal_mode=self.journal_mode) as store:
            yield store

    def delete(self, agent: str) -> None:
        """Delete an agent with all that it has, while no store is open."""
        with by_hand(self.path) as connection:
            connection.pragma("foreign_keys", "on")
            connection.execute("DELETE FROM agents WHERE id = ?", (agent,))
            connection.execute("UPDATE positions SET last = last + 1")
            connection.execute("INSERT INTO agent_deletions SELECT last, ?, ? FROM positions", (agent, AT))

    def copy(self, folder: Path) -> Self:
        """Make another file with the same in it, while no store is open."""
        copy = type(self)(folder)
        shutil.copy(self.path, copy.path)
        return copy

    def problems(self) -> list[str]:
        """What a verification finds wrong."""
        return problems(self.path)


class SqliteFileInWal(SqliteFile):
    """A file with a write-ahead log."""

    journal_mode: ClassVar[str] = WAL


class SqliteInServer(SqliteFile):
    """A file in a server process. When its store is closed, agents that are at work are ended: it has lost its host."""

    is_durable: ClassVar[bool] = False

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """A store on it, for as long as the block, and the server."""
        store = RemoteStore(self.path, journal_mode=self.journal_mode)
        store.open()
        try:
            yield store
        finally:
            store.close()
            wait_until(lambda: holder_of(self.path) is None, "the server to end")


class SqliteInMemory:
    """SQLite without a file."""

    is_durable: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        """Nothing is made in the folder."""

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """A store, for as long as the block."""
        with opened(MEMORY) as store:
            yield store

    def delete(self, agent: str) -> None:
        """Not possible: nothing is left when no store is open."""
        raise AssertionError(agent)

    def copy(self, folder: Path) -> Self:
        """Not possible: nothing is left when no store is open."""
        raise AssertionError(folder)

    def problems(self) -> list[str]:
        """None: it cannot be verified."""
        return []


WITH_LOG: Final = "sqlite with a log"
IN_SERVER: Final = "sqlite in a server"
DATABASES: Final[dict[str, type[Database]]] = {
    "sqlite": SqliteFile,
    WITH_LOG: SqliteFileInWal,
    "sqlite in memory": SqliteInMemory,
    IN_SERVER: SqliteInServer,
}
DURABLE: Final = {name: kind for name, kind in DATABASES.items() if kind.is_durable}


def fill(database: Database) -> None:
    """Store three agents whose entries are interleaved: 27 positions, one a deletion that took two with it."""
    with database.opened() as store:
        store.commit([of("a", new_agent("a1")), of("gone", new_agent("g1"))])
        store.commit([of("b", new_agent(), change(INITIALIZING, RUNNING)), of("a", text("a2"))])
        store.commit([of("a", change(INITIALIZING, RUNNING), text("a3"), text("a4"))])
        store.commit([of("c", new_agent(), change(INITIALIZING, FAILED, error_name="E", error_message="m"))])
        store.commit([of("b", *(text(f"b{number}") for number in range(1, 8)))])
        store.commit([of("a", text("a5"), change(RUNNING, COMPLETED, result_json="42"), text("a6"), text("a7"))])
        store.commit([of("b", change(RUNNING, FAILED), text("b8")), of("c", text("c1"))])
    database.delete("gone")
