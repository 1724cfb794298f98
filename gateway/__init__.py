"""Who hears of it: the wire protocol, the hub, the WebSocket server and the client.

The middle floor: it imports records and errors of persistence, and nothing of actors.
"""

from commitcast.gateway.auth import Capability, Grant, Operation, StaticTokens, TokenError, Verifier
from commitcast.gateway.client import Subscription, subscribe
from commitcast.gateway.errors import CloseCode, ErrorCode, ListenError, SubscriptionError
from commitcast.gateway.limits import Limits
from commitcast.gateway.server import GatewayServer

__all__ = [
    "Capability",
    "CloseCode",
    "ErrorCode",
    "GatewayServer",
    "Grant",
    "Limits",
    "ListenError",
    "Operation",
    "StaticTokens",
    "Subscription",
    "SubscriptionError",
    "TokenError",
    "Verifier",
    "subscribe",
]
