"""JSON web tokens as grants: `JwtVerifier`. Needs the extra `auth`. Re-exported from `server/access/jwt.py`."""

from commitcast.gateway.server.access.jwt import JwtVerifier

__all__ = ["JwtVerifier"]
