"""A connection as sessions and the pump see it: one of the gateway's own port, or one that an ASGI server holds."""

from collections.abc import AsyncIterator
from typing import Protocol

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.server.access.limits import Bucket


class Peer(Protocol):
    """A connection of any kind."""

    subscriber: Subscriber
    peer_address: str
    """Without the port; empty if it is not known."""
    token: str | None
    """That came with the handshake."""
    was_heard: bool
    """Something was received from the peer since this was last set to False."""
    bucket: Bucket
    """Limits the rate of everything that is received; a stranger's, until its session knows who it is."""

    def receive(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends, until the connection is lost."""
        ...

    def write(self, frame: PreparedFrame) -> int:
        """Send a frame without waiting; return its bytes."""

    def send_ping(self) -> None:
        """Ask the peer for a sign of life."""

    async def wait_until_writable(self) -> None:
        """Wait while the write buffer is full. Raises `OSError` if the connection is lost meanwhile."""

    async def finish(self, code: int, reason: str) -> None:
        """Close the connection, even if the peer does not answer."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the write buffer."""
