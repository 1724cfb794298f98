"""Delivery to subscribers: the wire protocol, the hub, the WebSocket server and the client.

The middle floor: it imports records and errors of persistence, and nothing of actors.
"""

from typing import TYPE_CHECKING

from commitcast.persistence.lazy import lazy_names

if TYPE_CHECKING:
    from commitcast.gateway.client.asyncio import Client, Subscription, subscribe
    from commitcast.gateway.client.blocking import BlockingClient, BlockingSubscription, subscribe_blocking
    from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, ListenError, RequestError, SubscriptionError
    from commitcast.gateway.server.access.auth import Capability, Grant, Operation, Permission, StaticTokens, Verifier
    from commitcast.gateway.server.access.limits import Limits
    from commitcast.gateway.server.errors import (
        MissingExtraError,
        TemplateUnavailableError,
        TokenError,
        VerifierUnavailableError,
    )
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
    "Permission",
    "RequestError",
    "StaticTokens",
    "Subscription",
    "SubscriptionError",
    "TemplateUnavailableError",
    "TokenError",
    "Verifier",
    "VerifierUnavailableError",
    "subscribe",
    "subscribe_blocking",
]

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    __getattr__, __dir__ = lazy_names(
        __name__,
        "protocol.errors",
        "client.asyncio",
        "client.blocking",
        "server.errors",
        "server.access.limits",
        "server.access.auth",
        "server.server",
    )
