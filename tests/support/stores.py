"""Writes, stores and proofs in few words, for the tests of the ground floor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, Entry, MessageRecord, StatusChange
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Reader, Store
from commitcast.persistence.verification import verify
from commitcast.persistence.writes import AgentWrites, NewAgent, NewMessage, NewStatus, Outcome, Write, new_message

AT: Final = "2026-01-02T03:04:05.000006Z"
INITIALIZING, RUNNING = AgentStatus.INITIALIZING, AgentStatus.RUNNING
COMPLETED, FAILED, TERMINATED = AgentStatus.COMPLETED, AgentStatus.FAILED, AgentStatus.TERMINATED


def text(content: Any = "text", **options: Any) -> NewMessage:
    """A message that can be stored."""
    return new_message(content, created_at=AT, **options)


def bad_text(content: str = "refused") -> NewMessage:
    """A message that the schema refuses: `new_message` would not have made it."""
    return NewMessage("whisper", None, content, "text", AT, len(content))


def new_agent(*contents: str, epoch: str = "e", **facts: Any) -> NewAgent:
    """An agent to be created, with its first messages."""
    facts = {"type": "agent", **facts}
    return NewAgent(epoch=epoch, created_at=AT, messages=tuple(text(content) for content in contents), **facts)


def change(previous: AgentStatus, status: AgentStatus, **facts: Any) -> NewStatus:
    """A change of status."""
    return NewStatus(previous=previous, status=status, at=AT, **facts)


def of(agent: str, *writes: Write) -> AgentWrites:
    """One agent's part of a transaction."""
    return AgentWrites(agent, list(writes))


def commit(store: Store, agent: str, *writes: Write) -> Outcome:
    """Commit the writes of one agent."""
    return store.commit([of(agent, *writes)])[0]


def proof(outcome: Outcome) -> Committed:
    """What the outcome says was committed."""
    assert outcome.committed is not None, outcome.replies
    return outcome.committed


def errors(outcome: Outcome) -> list[type | None]:
    """The class of each refusal, None for what was stored."""
    return [type(reply) if isinstance(reply, Exception) else None for reply in outcome.replies]


def cover(committed: Committed) -> tuple[int, int, int]:
    """The sequences that it covers, and the position of the agent's entry before."""
    return committed.previous, committed.last, committed.previous_entry_position


def positions(committed: Committed) -> list[int]:
    """The positions of its entries."""
    return [entry.position for entry in committed.entries]


@contextmanager
def opened(path: str | Path, **options: Any) -> Iterator[SqliteStore]:
    """A store for as long as the block."""
    store = SqliteStore(path, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


def reader_value(store: SqliteStore, sql: str) -> Any:
    """The single value of a query on one of the store's own readers."""
    with store._pool.snapshot() as connection:
        return connection.execute(sql).get


@contextmanager
def by_hand(path: str | Path, **options: Any) -> Iterator[apsw.Connection]:
    """A connection of somebody else."""
    connection = apsw.Connection(str(path), **options)
    try:
        yield connection
    finally:
        connection.close()


def told(entries: list[Entry]) -> list[str]:
    """Entries in few words: contents, statuses, `+` the created and `-` the deleted agents."""
    return [
        entry.content
        if isinstance(entry, MessageRecord)
        else str(entry.status)
        if isinstance(entry, StatusChange)
        else f"+{entry.id}"
        if isinstance(entry, AgentRecord)
        else f"-{entry.agent}"
        for entry in entries
    ]


def contents(store: Reader, agent: str) -> list[tuple[int, str]]:
    """Every message of an agent: sequence and content."""
    found: list[tuple[int, str]] = []
    while page := store.messages(agent, after=found[-1][0] if found else 0):
        found += [(message.sequence, message.content) for message in page]
    return found


def problems(path: str | Path) -> list[str]:
    """What `verify` finds wrong."""
    return verify(path).problems
