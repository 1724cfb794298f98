"""The store in an SQLite file: one writer connection, a few readers, and a fair lock between them."""

from commitcast.persistence.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
