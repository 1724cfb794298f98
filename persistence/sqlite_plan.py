"""The rows of one transaction before they are written, table by table. The writer's thread only."""

from typing import Any, Final

import apsw

from commitcast.persistence.errors import NotStoredError
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord, StatusChange
from commitcast.persistence.sqlite_rows import AGENT_COLUMNS, MESSAGE_COLUMNS, agent_row, checksum_of_fields
from commitcast.persistence.writes import NewAgent, NewMessage, NewStatus

_INSERT_AGENT: Final = f"INSERT INTO agents (key, {AGENT_COLUMNS}) VALUES ({', '.join('?' * 17)})"
_INSERT_MESSAGE: Final = (
    f"INSERT INTO agent_messages (agent_key, {MESSAGE_COLUMNS}, checksum) VALUES ({', '.join('?' * 12)})"
)
_INSERT_TRANSITION: Final = (
    'INSERT INTO agent_transitions (position, agent_key, "from", "to", after_sequence, at, reason)'
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_SET_HEAD: Final = "UPDATE agents SET head = ? WHERE key = ?"
_SET_STATUS: Final = (
    "UPDATE agents SET status = ?1, started_at = coalesce(started_at, ?2), completed_at = ?3, error_name = ?4,"
    " error_message = ?5, result = ?6 WHERE key = ?7 AND status = ?8"
)
_PATCH: Final = (
    "UPDATE agents SET configuration = coalesce(?1, configuration), pid = coalesce(?2, pid),"
    " pid_started = coalesce(?3, pid_started) WHERE key = ?4"
)


class StaleHeadError(NotStoredError):
    """The compare-and-set of a status found another status than the one in memory."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Plan:
    """Rows to be written, by table, and the last position given to them."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.agents: list[tuple[Any, ...]] = []
        self.messages: list[tuple[Any, ...]] = []
        self.transitions: list[tuple[Any, ...]] = []
        self.statuses: list[tuple[Any, ...]] = []
        self.patches: list[tuple[Any, ...]] = []
        self.heads: dict[int, int] = {}

    def add_agent(self, agent: str, new: NewAgent) -> AgentRecord:
        """Add an agent at the next position, and return it. Its messages are added by themselves."""
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

    def add_message(self, agent: str, key: int, sequence: int, new: NewMessage) -> MessageRecord:
        """Add a message at the next position, and return it."""
        self.position = position = self.position + 1
        fields = (
            agent,
            sequence,
            position,
            new.type,
            new.role,
            new.content,
            new.content_type,
            new.created_at,
            new.metadata_json,
            new.raw,
            new.key,
        )
        self.messages.append((key, *fields[1:], checksum_of_fields(fields)))
        return MessageRecord(*fields)

    def add_status(self, agent: str, key: int, sequence: int, new: NewStatus) -> StatusChange:
        """Add a change of status after a sequence at the next position, and return it."""
        self.position += 1
        started_at = new.at if new.status is AgentStatus.RUNNING else None
        completed_at = new.at if new.status.is_terminal else None
        self.statuses.append(
            (
                new.status,
                started_at,
                completed_at,
                new.error_name,
                new.error_message,
                new.result_json,
                key,
                new.previous,
            )
        )
        self.transitions.append((self.position, key, new.previous, new.status, sequence, new.at, new.reason))
        return StatusChange(
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

    def execute(self, connection: apsw.Connection) -> None:
        """Write the rows, in an order that the foreign keys allow.

        Raises:
            apsw.Error: a row was refused, or the transaction failed.
            StaleHeadError: an agent's status is not what the plan was made for.
        """
        if self.agents:
            connection.executemany(_INSERT_AGENT, self.agents)
        if self.messages:
            connection.executemany(_INSERT_MESSAGE, self.messages)
        if self.heads:
            connection.executemany(_SET_HEAD, [(head, key) for key, head in self.heads.items()])
        for status in self.statuses:
            connection.execute(_SET_STATUS, status)
            if connection.changes() != 1:
                raise StaleHeadError(status[-1])
        if self.transitions:
            connection.executemany(_INSERT_TRANSITION, self.transitions)
        if self.patches:
            connection.executemany(_PATCH, self.patches)
