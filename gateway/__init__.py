"""Who hears of it: the wire protocol, the hub, the WebSocket server and the client.

The middle floor: it imports records and errors of persistence, and nothing of actors.
"""

from commitcast.gateway.client import Subscription, subscribe
from commitcast.gateway.errors import CloseCode, ErrorCode, ListenError, SubscriptionError
from commitcast.gateway.server import GatewayServer

__all__ = [
    "CloseCode",
    "ErrorCode",
    "GatewayServer",
    "ListenError",
    "Subscription",
    "SubscriptionError",
    "subscribe",
]
