"""Rights and tokens. Re-exported from `server/access/auth.py`."""

from commitcast.gateway.server.access.auth import (
    Capability,
    Grant,
    MissingExtraError,
    Operation,
    StaticTokens,
    TokenError,
    Verifier,
)

__all__ = ["Capability", "Grant", "MissingExtraError", "Operation", "StaticTokens", "TokenError", "Verifier"]
