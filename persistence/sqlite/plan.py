"""The rows of one transaction before they are written, by table, and the statements. The writer's thread only."""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import apsw

from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord, StatusChange
from commitcast.persistence.sqlite.rows import (
    AGENT_COLUMNS,
    MESSAGE_COLUMNS,
    agent_record,
    agent_row,
    message_row,
    status_row,
    transition_row,
)
from commitcast.persistence.writes import NewAgent, NewMessage, NewStatus

_INSERT_AGENT: Final = f"INSERT INTO agents (key, {AGENT_COLUMNS}) VALUES ({', '.join('?' * 17)})"
INSERT_MESSAGE: Final = (
    f"INSERT INTO agent_messages (agent_key, {MESSAGE_COLUMNS}, checksum) VALUES ({', '.join('?' * 12)})"
)
_INSERT_TRANSITION: Final = (
    'INSERT INTO agent_transitions (position, agent_key, "from", "to", after_sequence, at, reason)'
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
SET_POSITION: Final = "UPDATE positions SET last = ?"
SET_HEAD: Final = "UPDATE agents SET head = ? WHERE key = ?"
_SET_STATUS: Final = (
    "UPDATE agents SET status = ?1, started_at = coalesce(started_at, ?2), completed_at = ?3, error_name = ?4,"
    " error_message = ?5, result = ?6 WHERE key = ?7 AND status = ?8"
)
_PATCH: Final = (
    "UPDATE agents SET configuration = coalesce(?1, configuration), pid = coalesce(?2, pid),"
    " pid_started = coalesce(?3, pid_started) WHERE key = ?4"
)
_RETURNING: Final = f" RETURNING key, {AGENT_COLUMNS}"


class StaleStatusError(Exception):
    """The compare-and-set of a status failed: the row has another status than the cached head. Never leaves `Batch`."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Plan:
    """Rows to be written, by table, and the last position given out."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.agents: list[tuple[Any, ...]] = []
        self.keys: list[int] = []
        """The agent's key of each of `messages`."""
        self.messages: list[MessageRecord] = []
        self.changed_keys: list[int] = []
        """The agent's key of each of `changes`."""
        self.changes: list[StatusChange] = []
        self.wants_records = False
        """Whether a reply needs the record of an agent whose status changes."""
        self.patches: list[tuple[Any, ...]] = []
        self.heads: dict[int, int] = {}
        self.changed: dict[int, AgentRecord] = {}
        """After `execute`: by key, the agents whose status or facts were changed, as they are then."""

    def add_agent(self, agent: str, new: NewAgent) -> AgentRecord:
        """Add an agent at the next position, and return it. Its messages are added separately."""
        self.position += 1
        record = AgentRecord(
            id=agent,
            epoch=new.epoch,
            position=self.position,
            type=new.type,
            status=AgentStatus.INITIALIZING,
            head=len(new.messages),
            prompt=new.prompt,
            created_at=new.created_at,
            idempotency_key=new.idempotency_key,
            configuration_json=new.configuration_json,
        )
        self.agents.append(agent_row(record))
        return record

    def add_messages(self, agent: str, key: int, after: int, new: Sequence[NewMessage]) -> list[MessageRecord]:
        """Add messages of one agent after a sequence, at the next positions, and return them."""
        records = [
            MessageRecord(
                agent,
                sequence,
                position,
                message.type,
                message.role,
                message.content,
                message.content_type,
                message.created_at,
                message.metadata_json,
                message.raw,
                message.key,
            )
            for sequence, position, message in zip(count(after + 1), count(self.position + 1), new, strict=False)
        ]
        self.position += len(records)
        self.keys += [key] * len(records)
        self.messages += records
        return records

    def add_status(self, agent: str, key: int, sequence: int, new: NewStatus) -> StatusChange:
        """Add a change of status after a sequence at the next position, and return it."""
        self.position += 1
        self.wants_records = self.wants_records or new.wants_record
        change = StatusChange(
            agent=agent,
            position=self.position,
            previous=new.previous,
            status=new.status,
            sequence=sequence,
            at=new.at,
            reason=new.reason,
            error_name=new.error_name,
            error_message=new.error_message,
            result_json=new.result_json,
        )
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
        if self.messages:
            # Each row is made when SQLite takes it: thousands of waiting tuples would cost garbage collections.
            connection.executemany(INSERT_MESSAGE, map(message_row, self.keys, self.messages))
        if self.heads:
            connection.executemany(SET_HEAD, ((head, key) for key, head in self.heads.items()))
        if self.changes:
            self._set_statuses(connection)
            connection.executemany(_INSERT_TRANSITION, map(transition_row, self.changed_keys, self.changes))
        if self.patches:
            patched = connection.executemany(_PATCH + _RETURNING, self.patches).fetchall()
            self._note_changed(patched)

    def _set_statuses(self, connection: apsw.Connection) -> None:
        before = connection.total_changes()
        rows = map(status_row, self.changed_keys, self.changes)
        if self.wants_records:
            self._note_changed(connection.executemany(_SET_STATUS + _RETURNING, rows).fetchall())
        else:
            connection.executemany(_SET_STATUS, rows)
        if connection.total_changes() - before != len(self.changes):
            raise StaleStatusError(self.changes[0].previous)

    def _note_changed(self, rows: list[tuple[Any, ...]]) -> None:
        for row in rows:
            self.changed[row[0]] = agent_record(row)
