"""Reads in short pages.

Each page is one read transaction, bounded in rows and bytes, so that a commit never waits long for a reader. Any
thread; blocks for at most one commit and one free connection of the pool.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import apsw

from commitcast.persistence.errors import AgentNotFoundError
from commitcast.persistence.records import AgentDeletion, AgentRecord, AgentStatus, Entry, MessageRecord
from commitcast.persistence.sqlite import epochs
from commitcast.persistence.sqlite.chain import Layout, find_messages, find_position, layout_of
from commitcast.persistence.sqlite.pool import ReaderPool
from commitcast.persistence.sqlite.rows import (
    AGENT_COLUMNS,
    AGENT_OF_KEY,
    CHECKED_COLUMNS,
    TRANSITION_COLUMNS,
    agent_record,
    checked_message,
    status_change,
)
from commitcast.persistence.store import (
    MAX_PAGE_BYTES,
    PAGE_BYTES,
    PAGE_ROWS,
    AgentPage,
    FeedPage,
    Head,
    IdRange,
    ResolvedCursor,
    entry_size,
)

_Entry = TypeVar("_Entry", bound=Entry)

_AGENT: Final = f"SELECT {AGENT_COLUMNS} FROM agents WHERE id = ?"
_AGENTS: Final = f"SELECT {AGENT_COLUMNS} FROM agents WHERE (?1 IS NULL OR status = ?1)"
_OLDEST: Final = " AND key > ?2 ORDER BY key LIMIT ?3"
_NEWEST: Final = " AND (?2 = 0 OR key < ?2) ORDER BY key DESC LIMIT ?3"
_KEYED: Final = (
    f"SELECT {CHECKED_COLUMNS} FROM agent_messages WHERE agent_key = (SELECT key FROM agents WHERE id = ?) AND key = ?"
)
_TRANSITIONS: Final = (
    f"SELECT {TRANSITION_COLUMNS} FROM agent_transitions t WHERE t.agent_key = ? AND t.position > ? ORDER BY t.position"
)
_LAST_TRANSITION: Final = "SELECT max(position) FROM agent_transitions WHERE agent_key = ?"
_FEED_MESSAGES: Final = (
    f"SELECT {CHECKED_COLUMNS}, (SELECT id FROM agents WHERE key = agent_key) FROM agent_messages"
    " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
)
_HAS_MESSAGE_AFTER: Final = "SELECT 1 FROM agent_messages WHERE position > ? LIMIT 1"
_FEED_TRANSITIONS: Final = (
    f"SELECT {TRANSITION_COLUMNS}, a.id, a.error_name, a.error_message, a.result FROM agent_transitions t"
    " JOIN agents a ON a.key = t.agent_key WHERE t.position > ? AND t.position <= ? ORDER BY t.position LIMIT ?"
)
_FEED_AGENTS: Final = f"SELECT {AGENT_COLUMNS} FROM agents WHERE key > ? AND key <= ? ORDER BY key LIMIT ?"
_FEED_DELETIONS: Final = (
    "SELECT position, agent_id, at FROM agent_deletions WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
)


class SqliteReader:
    """Reads agents and messages, each page in one transaction. See `Reader` for what each method promises."""

    def __init__(self, pool: ReaderPool) -> None:
        self._pool = pool
        self._known_layout: Layout | None = None

    def _layout(self, connection: apsw.Connection) -> Layout:
        if self._known_layout is None:
            self._known_layout = layout_of(connection)
        return self._known_layout

    def agent(self, agent: str) -> AgentRecord | None:
        """Return one agent's record, or None if there is none."""
        with self._pool.snapshot() as connection:
            return _find(connection, agent)

    def launched(self, idempotency_key: str) -> AgentRecord | None:
        """Return the agent that was created under a key, or None if there is none."""
        with self._pool.snapshot() as connection:
            row = connection.execute(AGENT_OF_KEY, (idempotency_key,)).fetchone()
            return None if row is None else agent_record(row)

    def agents(
        self,
        status: AgentStatus | None = None,
        after: int = 0,
        limit: int = PAGE_ROWS,
        *,
        newest: bool = False,
        within: Sequence[IdRange] | None = None,
    ) -> list[AgentRecord]:
        """Return records in order of creation, or the other way round. See `Reader.agents`."""
        query = _AGENTS + (_NEWEST if newest else _OLDEST)
        bounds = () if within is None else tuple(bound for id_range in within for bound in id_range)
        if within is not None:
            query = query.replace(" ORDER BY", _within(len(within)) + " ORDER BY")
        with self._pool.snapshot() as connection:
            records = map(agent_record, connection.execute(query, (status, after, limit, *bounds)))
            return list(_bounded(records, MAX_PAGE_BYTES))

    def messages(
        self, agent: str, after: int = 0, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> list[MessageRecord]:
        """Return a page of messages after a sequence; empty at the end. Raises `AgentNotFoundError`."""
        with self._pool.snapshot() as connection:
            key = _get(connection, agent).position
            rows = find_messages(connection, self._layout(connection), key, after, limit)
            return list(_bounded(map(partial(checked_message, agent), rows), max_bytes))

    def keyed(self, agent: str, key: str) -> MessageRecord | None:
        """Return the message of an agent that was stored under a key, or None if there is none."""
        with self._pool.snapshot() as connection:
            row = connection.execute(_KEYED, (agent, key)).fetchone()
            return None if row is None else checked_message(agent, row)

    def resolve_cursor(self, agent: str, after: int | None, epoch: str | None = None) -> ResolvedCursor:
        """Return where an agent stands and where a subscriber begins. See `Reader.resolve_cursor`."""
        with self._pool.snapshot() as connection:
            record = _get(connection, agent)
            key = record.position
            sequence = record.head if after is None else min(after, record.head)
            found = find_position(connection, self._layout(connection), key, sequence)
            position = key if found is None else found
            now = epochs.check(connection, record.epoch, epoch, None if after is None else position)
            if after is None:
                position = max(position, connection.execute(_LAST_TRANSITION, (key,)).get or 0)
            return ResolvedCursor(record, position, now)

    def entries(
        self, agent: str, sequence: int, position: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> AgentPage:
        """Return a page of messages and changes of status after a cursor. See `Reader.entries`."""
        with self._pool.snapshot() as connection:
            record = _get(connection, agent)
            rows = find_messages(connection, self._layout(connection), record.position, sequence, limit)
            messages = list(_bounded(map(partial(checked_message, agent), rows), max_bytes))
            last = messages[-1].sequence if messages else sequence
            ending = (record.error_name, record.error_message, record.result_json)
            changes = [
                status_change(agent, row, ending)
                for row in connection.execute(_TRANSITIONS, (record.position, position))
            ]
            entries: list[Entry] = [*messages, *(change for change in changes if change.sequence <= last)]
            entries.sort(key=lambda entry: entry.position)
            return AgentPage(entries, at_end=last >= record.head, epoch=record.epoch)

    def feed(self, after: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES) -> FeedPage:
        """Return a page of everything after a position, over all agents."""
        with self._pool.snapshot() as connection:
            end = connection.execute("SELECT last FROM positions").get
            bounds = (after, end, limit)
            rows = connection.execute(_FEED_MESSAGES, bounds)
            messages: list[Entry] = list(_bounded((checked_message(row[-1], row[:-1]) for row in rows), max_bytes))
            changes = (status_change(row[6], row[:6], row[7:]) for row in connection.execute(_FEED_TRANSITIONS, bounds))
            created = map(agent_record, connection.execute(_FEED_AGENTS, bounds))
            rows = connection.execute(_FEED_DELETIONS, bounds)
            deleted = (AgentDeletion(position=position, agent=name, at=at) for position, name, at in rows)
            others: list[list[Entry]] = [list(_bounded(kind, max_bytes)) for kind in (changes, created, deleted)]
            # A list that was cut ends the page: beyond its last row others may be missing.
            cut = [
                kind[-1].position for kind in others if len(kind) == limit or sum(map(entry_size, kind)) >= max_bytes
            ]
            if messages and connection.execute(_HAS_MESSAGE_AFTER, (messages[-1].position,)).fetchone():
                cut.append(messages[-1].position)
            last = min(cut, default=end)
            entries = [entry for kind in (messages, *others) for entry in kind if entry.position <= last]
            entries.sort(key=lambda entry: entry.position)
            return FeedPage(entries, last, at_end=last == end)

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where the log of each of these agents ends; agents that do not exist are left out."""
        with self._pool.snapshot() as connection:
            find = self._layout(connection).head
            rows = ((agent, connection.execute(find, (agent,)).fetchone()) for agent in agents)
            return {agent: Head(sequence=row[2], position=row[4]) for agent, row in rows if row is not None}

    def position(self, after: int | None = None, epoch: str | None = None) -> tuple[int, str]:
        """Return the last position of all, and the epoch of a cursor over all. See `Reader.position`."""
        with self._pool.snapshot() as connection:
            last, log = connection.execute("SELECT last, epoch FROM positions").fetchone() or (0, "")
            return last, epochs.check(connection, log, epoch, after)


def _find(connection: apsw.Connection, agent: str) -> AgentRecord | None:
    row = connection.execute(_AGENT, (agent,)).fetchone()
    return None if row is None else agent_record(row)


def _get(connection: apsw.Connection, agent: str) -> AgentRecord:
    record = _find(connection, agent)
    if record is None:
        raise AgentNotFoundError(agent)
    return record


def _within(ranges: int) -> str:
    """Return the condition on ids for that many ranges, whose bounds are parameters from the fourth on."""
    conditions = [f"id >= ?{4 + 2 * number} AND id < ?{5 + 2 * number}" for number in range(ranges)]
    return f" AND ({' OR '.join(conditions) or 'FALSE'})"


def _bounded(records: Iterable[_Entry], max_bytes: int) -> Iterator[_Entry]:
    """Yield the records that fit a page. A page ends before a damaged record, unless it would begin with it.

    Raises:
        ValueError: the first record is damaged.
    """
    size = count = 0
    try:
        for record in records:
            yield record
            size += entry_size(record)
            if size >= max_bytes:
                return
            count += 1
    except ValueError:
        if not count:
            raise
