"""Bounds on what one client may ask for. A door; the room is `server/access/limits.py`."""

from commitcast.gateway.server.access.limits import Limits

__all__ = ["Limits"]
