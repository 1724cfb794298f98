"""Rights and tokens. A door; the room is `server/access/auth.py`."""

from commitcast.gateway.server.access.auth import (
    Capability,
    Grant,
    MissingExtraError,
    Operation,
    Permission,
    StaticTokens,
    TokenError,
    Verifier,
)

__all__ = [
    "Capability",
    "Grant",
    "MissingExtraError",
    "Operation",
    "Permission",
    "StaticTokens",
    "TokenError",
    "Verifier",
]
