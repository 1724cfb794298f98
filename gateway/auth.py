"""Rights and tokens. Re-exported from `server/access/auth.py`."""

from commitcast.gateway.server.access.auth import Capability, Grant, Operation, Permission, StaticTokens, Verifier
from commitcast.gateway.server.errors import MissingExtraError, TokenError, VerifierUnavailableError

__all__ = [
    "Capability",
    "Grant",
    "MissingExtraError",
    "Operation",
    "Permission",
    "StaticTokens",
    "TokenError",
    "Verifier",
    "VerifierUnavailableError",
]
