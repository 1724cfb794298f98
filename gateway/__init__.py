"""Who hears of it: the wire protocol, the hub, the WebSocket server and the client.

The middle floor: it imports records and errors of persistence, and nothing of actors.
"""

from commitcast.gateway.client.asyncio import Client, Subscription, subscribe
from commitcast.gateway.client.blocking import BlockingClient, BlockingSubscription, subscribe_blocking
from commitcast.gateway.client.requests import RequestError
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, ListenError, SubscriptionError
from commitcast.gateway.server.access.auth import (
    Capability,
    Grant,
    MissingExtraError,
    Operation,
    StaticTokens,
    TokenError,
    Verifier,
)
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.server import GatewayServer

__all__ = [
    "BlockingClient",
    "BlockingSubscription",
    "Capability",
    "Client",
    "CloseCode",
    "ErrorCode",
    "GatewayServer",
    "Grant",
    "Limits",
    "ListenError",
    "MissingExtraError",
    "Operation",
    "RequestError",
    "StaticTokens",
    "Subscription",
    "SubscriptionError",
    "TokenError",
    "Verifier",
    "subscribe",
    "subscribe_blocking",
]
