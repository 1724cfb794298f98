"""Rows of each table turned into records, and back; the rows that a transaction writes, and the statements for it.

Owns the order of the columns. Knows nothing of transactions, which `batch` and `commit` own, and of pages, which
`reader` owns.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, Final
from zlib import crc32

import apsw
import msgspec
from msgspec.structs import astuple

from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord, StatusChange
from commitcast.persistence.writes import NewAgent, NewMessage, NewStatus

AGENT_COLUMNS: Final = (
    "id, epoch, key, type, status, head, prompt, created_at, started_at, completed_at, error_name, error_message,"
    " idempotency_key, pid, pid_started, configuration, result"
)
"""In the order of the fields of `AgentRecord`, as `MESSAGE_COLUMNS` are in that of `MessageRecord`."""
MESSAGE_COLUMNS: Final = "sequence_number, position, type, role, content, content_type, created_at, metadata, raw, key"
CHECKED_COLUMNS: Final = f"{MESSAGE_COLUMNS}, checksum"
TRANSITION_COLUMNS: Final = 't.position, t."from", t."to", t.after_sequence, t.at, t.reason'

AGENT_OF_KEY: Final = f"SELECT {AGENT_COLUMNS} FROM agents WHERE idempotency_key = ?"
SET_POSITION: Final = "UPDATE positions SET last = ?"
STEP: Final = 128
"""For so many messages of an agent there is a row in `agent_steps` (`chain.py`): with more, more of the last ones are
found one by one; with fewer, more of them cause a write in another place. With 256 agents and ten million messages a
commit takes 1.5 times as long as in a small file with 32, 1.2 with 64, 1.1 with 128."""
CHUNK_ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""For how many rows there is a statement: few kinds to compile and keep. One that is too large is filled with NULLs.

For each execution the interpreter is released and taken again, for which the writer waits as long as another thread
computes: with a row at a time, a commit of 30 messages took 9 ms beside a busy host."""
_INSERT_AGENT: Final = f"INSERT INTO agents ({AGENT_COLUMNS}) VALUES ({', '.join('?' * 17)})"
_INSERT_TRANSITION: Final = (
    'INSERT INTO agent_transitions (position, agent_key, "from", "to", after_sequence, at, reason)'
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
INSERT_STEP: Final = "INSERT INTO agent_steps (agent_key, sequence_number, position, backs) VALUES (?, ?, ?, ?)"
_SET_STATUS: Final = (
    "UPDATE agents SET status = ?1, started_at = coalesce(started_at, ?2), completed_at = ?3, error_name = ?4,"
    " error_message = ?5, result = ?6 WHERE key = ?7 AND status = ?8"
)
_PATCH: Final = (
    "UPDATE agents SET configuration = coalesce(?1, configuration), pid = coalesce(?2, pid),"
    " pid_started = coalesce(?3, pid_started) WHERE key = ?4"
)
_RETURNING: Final = f" RETURNING {AGENT_COLUMNS}"

Row = tuple[Any, ...]


@cache
def insert_messages(rows: int) -> str:
    """Return the statement that inserts up to that number of `message_row`; a row of NULLs is none."""
    values = ", ".join([f"({', '.join('?' * 13)})"] * rows)
    new = f"VALUES {values}" if rows == 1 else f"SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"
    return f"INSERT INTO agent_messages (agent_key, back, {MESSAGE_COLUMNS}, checksum) {new}"


@cache
def set_heads(rows: int) -> str:
    """Return the statement for up to that number of agents: key, sequence and position of its last message."""
    new = f"(VALUES {', '.join(['(?, ?, ?)'] * rows)}) AS new"
    return f"UPDATE agents SET head = new.column2, tail = new.column3 FROM {new} WHERE key = new.column1"


_pack: Final = msgspec.msgpack.Encoder().encode


def agent_record(row: Row) -> AgentRecord:
    """Return the record of `AGENT_COLUMNS`."""
    fields = dict(zip(AgentRecord.__struct_fields__, row, strict=True))
    fields["status"] = AgentStatus(fields["status"])
    return AgentRecord(**fields)


def checked_message(agent: str, row: Row) -> MessageRecord:
    """Return the record of `CHECKED_COLUMNS`.

    Raises:
        ValueError: it is not what was stored.
    """
    fields = (agent, *row[:-1])
    if crc32(_pack(fields)) != row[-1]:
        raise ValueError(f"message {row[0]} of agent {agent!r} was changed since it was stored")
    return MessageRecord(*fields)


def message_row(key: int, back: int, record: MessageRecord) -> Row:
    """Return the agent's key, the way back to its message before, `MESSAGE_COLUMNS`, and the checksum of a record.

    The checksum is a CRC-32 (zlib) over every field in order, each with its length and type (msgpack).
    """
    fields = astuple(record)
    return (key, back, *fields[1:], crc32(_pack(fields)))


def status_change(agent: str, row: Row, ending: Row) -> StatusChange:
    """Return the record of `TRANSITION_COLUMNS` and the agent's `error_name, error_message, result`."""
    status = AgentStatus(row[2])
    name, message, result = ending if status.is_terminal else (None, None, None)
    return StatusChange(
        agent=agent,
        position=row[0],
        previous=AgentStatus(row[1]),
        status=status,
        sequence=row[3],
        at=row[4],
        reason=row[5],
        error_name=name,
        error_message=message,
        result_json=result,
    )


def _status_row(key: int, change: StatusChange) -> Row:
    """Return the parameters of `_SET_STATUS`."""
    status = change.status
    started_at = change.at if status is AgentStatus.RUNNING else None
    completed_at = change.at if status.is_terminal else None
    error = change.error_name, change.error_message, change.result_json
    return (status, started_at, completed_at, *error, key, change.previous)


def _transition_row(key: int, change: StatusChange) -> Row:
    """Return the parameters of `_INSERT_TRANSITION`."""
    return (change.position, key, change.previous, change.status, change.sequence, change.at, change.reason)


def _execute_rows(
    connection: apsw.Connection, statement: Callable[[int], str], rows: Iterable[Row], number: int, columns: int
) -> None:
    """Execute a statement for that number of rows, a chunk at a time.

    Each row is made when it is needed: thousands of waiting tuples would cost garbage collections.
    """
    waiting = iter(rows)
    for left in range(number, 0, -CHUNK_ROWS[-1]):
        chunk = CHUNK_ROWS[min(bisect_left(CHUNK_ROWS, left), len(CHUNK_ROWS) - 1)]
        values = chain.from_iterable(islice(waiting, chunk))
        connection.execute(statement(chunk), (*values, *(None,) * (columns * max(0, chunk - left))))


class StaleStatusError(Exception):
    """The compare-and-set of a status failed: the row has another status than the cached head. Never leaves `Batch`."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Plan(msgspec.Struct, gc=False):
    """The rows of one transaction before they are written, by table. The writer's thread only."""

    position: int
    """The last that was given out."""
    agents: list[Row] = []
    keys: list[int] = []
    """The agent's key of each of `messages`."""
    backs: list[int] = []
    """From each of `messages` back to its agent's one before it: how many positions; 0 if it is the first."""
    messages: list[MessageRecord] = []
    changed_keys: list[int] = []
    """The agent's key of each of `changes`."""
    changes: list[StatusChange] = []
    wants_records: bool = False
    """Whether a reply needs the record of an agent whose status changes."""
    patches: list[Row] = []
    heads: dict[int, Row] = {}
    """By the agent's key, where they change: the key, and the sequence and position of its last message."""
    steps: list[Row] = []
    changed: dict[int, AgentRecord] = {}
    """After `execute`: by key, the agents whose status or facts were changed, as they are then."""

    def add_agent(self, agent: str, new: NewAgent) -> AgentRecord:
        """Add an agent at the next position, and return it. Its messages are added separately."""
        self.position += 1
        record = new.stored(agent, self.position)
        self.agents.append(astuple(record))
        return record

    def add_messages(
        self, agent: str, key: int, after: int, tail: int, recent: "array[int]", new: Sequence[NewMessage]
    ) -> list[MessageRecord]:
        """Add messages of one agent, at the next positions, and return them.

        Args:
            agent: its id.
            key: its key.
            after: the sequence of its last message.
            tail: the position of that; 0 if it has none.
            recent: `back` of its messages since the last step; those added are appended, up to the next step.
            new: the messages.
        """
        records, sequence, position = [], after, self.position
        for message in new:
            sequence += 1
            position += 1
            back = tail and position - tail
            tail = position
            self.backs.append(back)
            recent.append(back)
            if not sequence % STEP:
                self.steps.append((key, sequence, position, ",".join(map(str, recent[:0:-1]))))
                del recent[:]
            records.append(message.stored(agent, sequence, position))
        self.position = position
        self.keys += [key] * len(records)
        self.messages += records
        return records

    def add_status(self, agent: str, key: int, sequence: int, new: NewStatus) -> StatusChange:
        """Add a change of status after a sequence at the next position, and return it."""
        self.position += 1
        self.wants_records = self.wants_records or new.wants_record
        change = new.stored(agent, sequence, self.position)
        self.changes.append(change)
        self.changed_keys.append(key)
        return change

    def execute(self, connection: apsw.Connection) -> None:
        """Write the rows, in an order that the foreign keys allow.

        Raises:
            apsw.Error: a row was refused, or the transaction failed.
            StaleStatusError: an agent's status is not what the plan was made for.
        """
        if self.agents:
            connection.executemany(_INSERT_AGENT, self.agents)
        rows = map(message_row, self.keys, self.backs, self.messages)
        _execute_rows(connection, insert_messages, rows, len(self.messages), 13)
        _execute_rows(connection, set_heads, self.heads.values(), len(self.heads), 3)
        if self.steps:
            connection.executemany(INSERT_STEP, self.steps)
        if self.changes:
            self._set_statuses(connection)
            connection.executemany(_INSERT_TRANSITION, map(_transition_row, self.changed_keys, self.changes))
        if self.patches:
            self._note_changed(connection.executemany(_PATCH + _RETURNING, self.patches))

    def _set_statuses(self, connection: apsw.Connection) -> None:
        before = connection.total_changes()
        rows = map(_status_row, self.changed_keys, self.changes)
        if self.wants_records:
            self._note_changed(connection.executemany(_SET_STATUS + _RETURNING, rows))
        else:
            connection.executemany(_SET_STATUS, rows)
        if connection.total_changes() - before != len(self.changes):
            raise StaleStatusError(self.changes[0].previous)

    def _note_changed(self, rows: apsw.Cursor) -> None:
        self.changed |= {record.position: record for record in map(agent_record, rows)}
