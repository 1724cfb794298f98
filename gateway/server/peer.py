"""What a session stands between: a connection of whatever kind, and the gateway that it belongs to. Types alone."""

from collections.abc import AsyncIterator
from typing import Protocol

from commitcast.gateway.hub.prepared import PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.access.limits import Bucket, Limits
from commitcast.gateway.server.operations import Operations
from commitcast.gateway.server.pump import Pump


class Peer(Protocol):
    """A connection, of whatever kind, as sessions and the pump use it."""

    subscriber: Subscriber
    peer_address: str
    """Where it comes from, without the port; empty if that is not known."""
    token: str | None
    """That came with the handshake."""
    was_heard: bool
    """Something came from the peer since this was last set to False."""
    bucket: Bucket
    """What is drawn from by all that comes; a stranger's, until its session knows who it is."""

    def receive(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends, until the connection is gone."""
        ...

    def write(self, frame: PreparedFrame) -> int:
        """Send a frame without waiting; return its bytes."""

    def send_ping(self) -> None:
        """Ask the peer for a sign of life."""

    async def wait_until_it_takes_more(self) -> None:
        """Wait while the write buffer is full. Raises `OSError` if the connection was lost meanwhile."""

    async def finish(self, code: int, reason: str) -> None:
        """Close the connection, whether the peer helps or not."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the write buffer."""


class SessionServices(Protocol):
    """What every session of a gateway works with."""

    pump: Pump
    limits: Limits
    operations: Operations | None
    heartbeat_s: float
    server: str

    def grant_of(self, token: str | None, address: str) -> Grant | None:
        """Return what a token from an address allows; None without one where one is needed. Raises `TokenError`."""

    def count_close(self, code: int) -> None:
        """Count a connection that is closed."""
