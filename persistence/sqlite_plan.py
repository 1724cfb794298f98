"""The rows of one transaction before they are written, table by table. The writer's thread only."""

from typing import Any, Final

import apsw

from commitcast.persistence.errors import NotStoredError
from commitcast.persistence.sqlite_rows import AGENT_COLUMNS, MESSAGE_COLUMNS

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
