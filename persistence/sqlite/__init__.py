"""The store in an SQLite file: one writer connection, a few readers, and the gate between them."""

from commitcast.persistence.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
