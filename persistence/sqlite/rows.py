"""Rows of each table turned into records, and back; the columns in the order in which they are read. Pure."""

from typing import Any, Final
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from commitcast.persistence.records import AgentDeletion, AgentRecord, AgentStatus, MessageRecord, StatusChange

AGENT_COLUMNS: Final = (
    "id, epoch, head, status, type, created_at, started_at, completed_at, error_name, error_message,"
    " pid, pid_started, idempotency_key, result, configuration, prompt"
)
AGENT_OF_KEY: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE idempotency_key = ?"
SELECT_HEAD: Final = (
    "SELECT key, epoch, head, status, max(key,"
    " coalesce((SELECT position FROM agent_messages WHERE agent_key = agents.key AND sequence_number = head), 0),"
    " coalesce((SELECT max(position) FROM agent_transitions WHERE agent_key = agents.key), 0))"
    " FROM agents WHERE id = ?"
)
"""Where the log of an agent ends: its key, epoch, last sequence, status, and the position of its last entry."""
MESSAGE_COLUMNS: Final = "sequence_number, position, type, role, content, content_type, created_at, metadata, raw, key"
CHECKED_COLUMNS: Final = f"{MESSAGE_COLUMNS}, checksum"
TRANSITION_COLUMNS: Final = 't.position, t."from", t."to", t.after_sequence, t.at, t.reason'

Row = tuple[Any, ...]

_pack: Final = msgspec.msgpack.Encoder().encode


def agent_record(row: Row) -> AgentRecord:
    """Return the record of `key` and `AGENT_COLUMNS`."""
    return AgentRecord(
        position=row[0],
        id=row[1],
        epoch=row[2],
        head=row[3],
        status=AgentStatus(row[4]),
        type=row[5],
        created_at=row[6],
        started_at=row[7],
        completed_at=row[8],
        error_name=row[9],
        error_message=row[10],
        pid=row[11],
        pid_started=row[12],
        idempotency_key=row[13],
        result_json=row[14],
        configuration_json=row[15],
        prompt=row[16],
    )


def message_record(agent: str, row: Row) -> MessageRecord:
    """Return the record of `MESSAGE_COLUMNS`."""
    return MessageRecord(agent, *row)


def checked_message(agent: str, row: Row) -> MessageRecord:
    """Return the record of `CHECKED_COLUMNS`.

    Raises:
        ValueError: it is not what was stored.
    """
    fields = (agent, *row[:-1])
    if crc32(_pack(fields)) != row[-1]:
        raise ValueError(f"message {row[0]} of agent {agent!r} was changed since it was stored")
    return MessageRecord(*fields)


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


def agent_deletion(row: Row) -> AgentDeletion:
    """Return the record of `position, agent_id, at`."""
    return AgentDeletion(position=row[0], agent=row[1], at=row[2])


def agent_row(record: AgentRecord) -> Row:
    """Return `key` and `AGENT_COLUMNS` of a record."""
    return (
        record.position,
        record.id,
        record.epoch,
        record.head,
        record.status,
        record.type,
        record.created_at,
        record.started_at,
        record.completed_at,
        record.error_name,
        record.error_message,
        record.pid,
        record.pid_started,
        record.idempotency_key,
        record.result_json,
        record.configuration_json,
        record.prompt,
    )


def message_row(key: int, record: MessageRecord) -> Row:
    """Return the agent's key, `MESSAGE_COLUMNS` and the checksum of a record."""
    fields = astuple(record)
    return (key, *fields[1:], crc32(_pack(fields)))


def status_row(key: int, change: StatusChange) -> Row:
    """Return what is set in the agent's row, its key, and the status that it must have before."""
    status = change.status
    started_at = change.at if status is AgentStatus.RUNNING else None
    completed_at = change.at if status.is_terminal else None
    error = change.error_name, change.error_message, change.result_json
    return (status, started_at, completed_at, *error, key, change.previous)


def transition_row(key: int, change: StatusChange) -> Row:
    """Return the row of `agent_transitions`."""
    return (change.position, key, change.previous, change.status, change.sequence, change.at, change.reason)


def checksum(record: MessageRecord) -> int:
    """Return the CRC-32 (zlib) over every field of a message in order, each with its length and type (msgpack)."""
    return crc32(_pack(astuple(record)))
