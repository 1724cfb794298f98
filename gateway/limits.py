"""Limits on what one client may use. Re-exported from `server/access/limits.py`."""

from commitcast.gateway.server.access.limits import Limits

__all__ = ["Limits"]
