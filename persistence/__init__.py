"""What is kept: records, the errors of keeping them, and the SQLite store.

The ground floor: it imports nothing of the floors above.
"""

from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    CommitcastError,
    ForkedRuntimeError,
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidValueError,
    NotStoredError,
    StoreError,
    StoreOpenError,
    StoreUnknownError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, MessageRecord, StatusChange
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Reader, Store
from commitcast.persistence.verify import Report, verify

__all__ = [
    "AgentExistsError",
    "AgentNotFoundError",
    "AgentRecord",
    "AgentStatus",
    "CommitcastError",
    "Committed",
    "ForkedRuntimeError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InvalidValueError",
    "MessageRecord",
    "NotStoredError",
    "Reader",
    "Report",
    "SqliteStore",
    "StatusChange",
    "Store",
    "StoreError",
    "StoreOpenError",
    "StoreUnknownError",
    "verify",
]
