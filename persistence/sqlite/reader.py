"""Reads in short pages: a small pool of read-only connections behind the gate.

Each page is one read transaction, bounded in rows and bytes, so that a commit never waits long for a reader. Any
thread; blocks for at most one commit and one place in the pool.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import apsw

from commitcast.persistence.errors import (
    AgentNotFoundError,
    CommitcastError,
    StoreClosedError,
    StoreReadError,
)
from commitcast.persistence.patience import left_s
from commitcast.persistence.records import AgentRecord, AgentStatus, Entry, MessageRecord
from commitcast.persistence.sqlite import epochs
from commitcast.persistence.sqlite.gate import Gate
from commitcast.persistence.sqlite.rows import (
    AGENT_COLUMNS,
    AGENT_OF_KEY,
    CHECKED_COLUMNS,
    TRANSITION_COLUMNS,
    agent_deletion,
    agent_record,
    checked_message,
    status_change,
)
from commitcast.persistence.store import MAX_PAGE_BYTES, AgentPage, FeedPage, Head, IdRange, ResolvedCursor, entry_size

_Entry = TypeVar("_Entry", bound=Entry)

READERS: Final = 4
"""Connections in the pool: more do not read faster under one interpreter lock."""

_AGENT: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE id = ?"
_AGENTS: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE (?1 IS NULL OR status = ?1)"
_OLDEST: Final = " AND key > ?2 ORDER BY key LIMIT ?3"
_NEWEST: Final = " AND (?2 = 0 OR key < ?2) ORDER BY key DESC LIMIT ?3"
_MESSAGES: Final = (
    f"SELECT {CHECKED_COLUMNS} FROM agent_messages WHERE agent_key = ? AND sequence_number > ?"
    " ORDER BY sequence_number LIMIT ?"
)
_KEYED: Final = (
    f"SELECT {CHECKED_COLUMNS} FROM agent_messages WHERE agent_key = (SELECT key FROM agents WHERE id = ?) AND key = ?"
)
_TRANSITIONS: Final = (
    f"SELECT {TRANSITION_COLUMNS} FROM agent_transitions t WHERE t.agent_key = ? AND t.position > ? ORDER BY t.position"
)
_POSITION_OF: Final = "SELECT position FROM agent_messages WHERE agent_key = ? AND sequence_number = ?"
_LAST_TRANSITION: Final = "SELECT max(position) FROM agent_transitions WHERE agent_key = ?"
_HEAD: Final = (
    "SELECT a.head, max(a.key,"
    " coalesce((SELECT position FROM agent_messages WHERE agent_key = a.key AND sequence_number = a.head), 0),"
    " coalesce((SELECT max(position) FROM agent_transitions WHERE agent_key = a.key), 0)) FROM agents a WHERE a.id = ?"
)
_FEED_MESSAGES: Final = (
    f"SELECT {CHECKED_COLUMNS}, (SELECT id FROM agents WHERE key = agent_key) FROM agent_messages"
    " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
)
_FEED_TRANSITIONS: Final = (
    f"SELECT {TRANSITION_COLUMNS}, a.id, a.error_name, a.error_message, a.result FROM agent_transitions t"
    " JOIN agents a ON a.key = t.agent_key WHERE t.position > ? AND t.position <= ? ORDER BY t.position LIMIT ?"
)
_FEED_AGENTS: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE key > ? AND key <= ? ORDER BY key LIMIT ?"
_FEED_DELETIONS: Final = (
    "SELECT position, agent_id, at FROM agent_deletions WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
)


class Pages:
    """Every read that the product makes of an SQLite store."""

    def __init__(self, connect: Callable[[], apsw.Connection], gate: Gate, readers: int = READERS) -> None:
        self._connect = connect
        self._gate = gate
        self._idle: list[apsw.Connection | None] = [None] * readers  # opened when first needed
        self._refusal: CommitcastError | None = None

    def refuse(self, error: CommitcastError) -> None:
        """Answer every later read with this error."""
        self._refusal = error

    def open(self) -> None:
        """Open every connection now: later there may be no descriptor for it."""
        with self._gate.writing():
            for place, connection in enumerate(self._idle):
                self._idle[place] = connection or self._connect()

    def close(self) -> None:
        """Wait for the pages under way, then close the connections. Idempotent."""
        with self.alone():
            self._refusal = StoreClosedError()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have no connection open while inside, once the pages under way are read."""
        with self._gate.writing():
            for place, connection in enumerate(self._idle):
                self._idle[place] = None
                if connection is not None:
                    connection.close()
            yield

    @contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        with self._gate.reading():
            if self._refusal is not None:
                raise type(self._refusal)(*self._refusal.args) from self._refusal
            connection = self._idle.pop()  # the gate admits no more readers than there are connections
            try:
                if connection is None:
                    connection = self._connect()
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
            except CommitcastError:
                raise
            except apsw.BusyError as error:
                left_s()  # raises if the caller would wait no longer
                raise StoreReadError(str(error)) from error
            except (apsw.Error, ValueError) as error:  # ValueError: a damaged row is no text, or says no known status
                raise StoreReadError(str(error)) from error
            finally:
                self._idle.append(connection)

    def agent(self, agent: str) -> AgentRecord | None:
        """Return one agent's record, or None if there is none."""
        with self._snapshot() as connection:
            return _find(connection, agent)

    def launched(self, idempotency_key: str) -> AgentRecord | None:
        """Return the agent that was created under a key, or None if there is none."""
        with self._snapshot() as connection:
            row = connection.execute(AGENT_OF_KEY, (idempotency_key,)).fetchone()
            return None if row is None else agent_record(row)

    def agents(
        self,
        status: AgentStatus | None,
        after: int,
        limit: int,
        *,
        newest: bool = False,
        within: Sequence[IdRange] | None = None,
    ) -> list[AgentRecord]:
        """Return records in order of creation, those with a position beyond `after`, or the other way round."""
        query = _AGENTS + (_NEWEST if newest else _OLDEST)
        bounds = () if within is None else tuple(bound for one in within for bound in one)
        if within is not None:
            query = query.replace(" ORDER BY", _within(len(within)) + " ORDER BY")
        with self._snapshot() as connection:
            records = map(agent_record, connection.execute(query, (status, after, limit, *bounds)))
            return list(_bounded(records, MAX_PAGE_BYTES))

    def messages(self, agent: str, after: int, limit: int, max_bytes: int) -> list[MessageRecord]:
        """Return consecutive messages after a sequence.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        with self._snapshot() as connection:
            key = _get(connection, agent).position
            rows = connection.execute(_MESSAGES, (key, after, limit))
            return list(_bounded(map(partial(checked_message, agent), rows), max_bytes))

    def keyed(self, agent: str, key: str) -> MessageRecord | None:
        """Return the message of an agent that was stored under a key, or None if there is none."""
        with self._snapshot() as connection:
            row = connection.execute(_KEYED, (agent, key)).fetchone()
            return None if row is None else checked_message(agent, row)

    def resolve_cursor(self, agent: str, after: int | None, epoch: str | None) -> ResolvedCursor:
        """Check a cursor, and return the agent's record and the position that belongs to it (`after` None: the tail).

        Raises:
            AgentNotFoundError: there is no such agent.
            StaleEpochError: the cursor is of another history.
        """
        with self._snapshot() as connection:
            record = _get(connection, agent)
            key = record.position
            sequence = record.head if after is None else min(after, record.head)
            position = key if sequence == 0 else connection.execute(_POSITION_OF, (key, sequence)).get
            now = epochs.check(connection, record.epoch, epoch, None if after is None else position)
            if after is None:
                position = max(position, connection.execute(_LAST_TRANSITION, (key,)).get or 0)
            return ResolvedCursor(record, position, now)

    def entries(self, agent: str, sequence: int, position: int, limit: int, max_bytes: int) -> AgentPage:
        """Return what follows a cursor in one agent.

        Args:
            agent: its id.
            sequence: of the last message before the page.
            position: of the last entry before the page.
            limit: messages at most.
            max_bytes: the page ends with the message that passes this.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        with self._snapshot() as connection:
            record = _get(connection, agent)
            rows = connection.execute(_MESSAGES, (record.position, sequence, limit))
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

    def feed(self, after: int, limit: int, max_bytes: int) -> FeedPage:
        """Return what follows a position, over all agents."""
        with self._snapshot() as connection:
            end = connection.execute("SELECT last FROM positions").get
            bounds = (after, end, limit)
            rows = connection.execute(_FEED_MESSAGES, bounds)
            messages: list[Entry] = list(_bounded((checked_message(row[-1], row[:-1]) for row in rows), max_bytes))
            changes = (status_change(row[6], row[:6], row[7:]) for row in connection.execute(_FEED_TRANSITIONS, bounds))
            created = map(agent_record, connection.execute(_FEED_AGENTS, bounds))
            deleted = map(agent_deletion, connection.execute(_FEED_DELETIONS, bounds))
            others: list[list[Entry]] = [list(_bounded(kind, max_bytes)) for kind in (changes, created, deleted)]
            # A list that was cut ends the page: beyond its last row others may be missing.
            cut = [kind[-1].position for kind in others if len(kind) == limit or _size(kind) >= max_bytes]
            if (
                messages
                and connection.execute(
                    "SELECT 1 FROM agent_messages WHERE position > ? LIMIT 1", (messages[-1].position,)
                ).fetchone()
            ):
                cut.append(messages[-1].position)
            last = min(cut, default=end)
            entries = [entry for kind in (messages, *others) for entry in kind if entry.position <= last]
            entries.sort(key=lambda entry: entry.position)
            return FeedPage(entries, last, at_end=last == end)

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where the log of each of these agents ends; of one that does not exist, nothing."""
        with self._snapshot() as connection:
            found = ((agent, connection.execute(_HEAD, (agent,)).fetchone()) for agent in agents)
            return {agent: Head(*row) for agent, row in found if row is not None}

    def position(self, after: int | None, epoch: str | None) -> tuple[int, str]:
        """Return the last position of all and the epoch of a cursor over all.

        Raises:
            StaleEpochError: the cursor is of another history.
        """
        with self._snapshot() as connection:
            last, log = connection.execute("SELECT last, epoch FROM positions").fetchone() or (0, "")
            return last, epochs.check(connection, log, epoch, after)

    def ask(self, sql: str) -> Any:
        """Return the single value of a query without parameters (settings, counts)."""
        with self._snapshot() as connection:
            return connection.execute(sql).get


def _find(connection: apsw.Connection, agent: str) -> AgentRecord | None:
    row = connection.execute(_AGENT, (agent,)).fetchone()
    return None if row is None else agent_record(row)


def _get(connection: apsw.Connection, agent: str) -> AgentRecord:
    record = _find(connection, agent)
    if record is None:
        raise AgentNotFoundError(agent)
    return record


def _within(ranges: int) -> str:
    """Return the condition on ids for so many ranges, whose bounds are bound from the fourth on."""
    each = [f"id >= ?{4 + 2 * number} AND id < ?{5 + 2 * number}" for number in range(ranges)]
    return f" AND ({' OR '.join(each) or 'FALSE'})"


def _size(entries: Iterable[Entry]) -> int:
    return sum(map(entry_size, entries))


def _bounded(records: Iterable[_Entry], max_bytes: int) -> Iterator[_Entry]:
    """Yield what fits a page. It ends before a damaged record; one that would begin with it is an error."""
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
