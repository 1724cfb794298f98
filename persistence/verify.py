"""Verifying a file without a runtime: `verify(path)`. A door; the room is `persistence/sqlite/verify.py`."""

from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.store import Report

__all__ = ["Report", "verify"]
