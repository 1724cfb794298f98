"""Storage: records, the interface of a store, its errors, and the SQLite store.

The lowest package: it imports nothing of `gateway` and `actors`.
"""

from typing import TYPE_CHECKING

from commitcast.persistence.lazy import lazy_names

if TYPE_CHECKING:
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
    from commitcast.persistence.store import Reader, Report, Store
    from commitcast.persistence.verify import verify

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

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    __getattr__, __dir__ = lazy_names(__name__, "errors", "records", "store", "verify", "sqlite.store")
