"""The server's certificate. A door; the room is `server/sockets/tls.py`."""

from commitcast.gateway.server.sockets.tls import server_context

__all__ = ["server_context"]
