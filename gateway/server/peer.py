"""A connection as sessions and the pump see it, and whether its peer is still there and still reads.

It is one of the gateway's own port, or one that an ASGI server holds. An open connection proves nothing: its peer may
have vanished, or may be there and read nothing. So every heartbeat asks for a sign of life, and while the write buffer
is full, its size shows whether anything is read.
"""

from collections.abc import AsyncIterator
from typing import Final, Protocol

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.server.access.limits import Bucket

SILENT_BEATS: Final = 2
"""Heartbeats without a sign of life, after which a peer is taken to be gone."""


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


class LivenessMonitor:
    """Watches one connection."""

    __slots__ = ("_silent_beats", "_since", "_unsent")

    def __init__(self) -> None:
        self._silent_beats = 0
        self._unsent: int | None = None
        self._since = 0.0

    def is_silent(self, was_heard: bool) -> bool:
        """Note whether something was received since the last heartbeat; return whether nothing was for too long."""
        self._silent_beats = 0 if was_heard else self._silent_beats + 1
        return self._silent_beats >= SILENT_BEATS

    def stalled_s(self, unsent_bytes: int | None, now: float) -> float:
        """Note the size of the write buffer, None while it is not full; return for how long nothing of it was read.

        A buffer that grows is not progress.
        """
        if unsent_bytes is None or self._unsent is None or unsent_bytes < self._unsent:
            self._since = now
        self._unsent = unsent_bytes
        return now - self._since
