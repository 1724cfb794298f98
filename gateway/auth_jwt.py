"""JSON web tokens as grants: `JwtVerifier`. Needs the extra `auth`. A door; the room is `server/access/jwt.py`."""

from commitcast.gateway.server.access.jwt import JwtVerifier

__all__ = ["JwtVerifier"]
