"""Accepted sockets: how many there may be, from where, and how long each may take to ask for something.

Owns the place of each socket from `accept` until it is closed, whatever protocol speaks over it and in whatever state
that is: before TLS, in half a request, in the middle of a close. A place is taken once and given back once, by the
socket's own `close`, so that it does not depend on any library's callbacks. Belongs to one event loop.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from commitcast.gateway.server.access.limits import ConnectionCounts, Limits
from commitcast.gateway.server.sockets import descriptors

logger: Final = logging.getLogger(__name__)

CHECK_S: Final = 0.01
"""Between two looks whether all sockets are closed, while that is waited for."""
ABORT_S: Final = 1.0
"""For what was aborted to be closed, which takes some turns of the loop."""
WARN_EVERY_S: Final = 1.0
"""Between two warnings about what strangers can cause at any rate."""

Address = tuple[Any, ...]
"""Host and port, as `getsockname` has it; what follows with IPv6 is not needed to tell two connections apart."""
Ends = tuple[Address, Address]
"""The peer's address and our own."""


class AcceptedSocket(socket.socket):
    """An accepted socket, which has a place until it is closed."""

    def __init__(self, accepted: socket.socket, peer: Address, on_close: Callable[["AcceptedSocket"], None]) -> None:
        """Take over an accepted socket.

        Args:
            accepted: is detached from its descriptor.
            peer: where it comes from. The kernel has forgotten that once the peer has reset the connection.
            on_close: called once.
        """
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self.peer = peer
        self.ends: Ends = (peer[:2], self.getsockname()[:2])
        self.transport: asyncio.BaseTransport | None = None
        """That owns it; None until TLS is agreed on, where that is spoken."""
        self.requests = 0
        """That are complete and not answered yet."""
        self._on_close: Callable[[AcceptedSocket], None] | None = on_close
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def getpeername(self) -> Address:
        """Return where it comes from, also when the peer is gone."""
        return self.peer

    def close(self) -> None:
        """Close the socket, and give its place back. Idempotent."""
        super().close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            if self._timer is not None:
                self._timer.cancel()
            on_close(self)

    def set_deadline(self, within_s: float) -> None:
        """Abort the connection in some seconds, unless the deadline is cleared or set again before."""
        if self._on_close is None:  # it is closed
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + within_s
        if self._timer is None or self._timer.when() > self._deadline:  # else it looks again when it fires
            self._set_timer(loop)

    def clear_deadline(self) -> None:
        """Let the connection take its time."""
        self._deadline = math.inf

    def close_gracefully(self) -> None:
        """Close the connection once the peer has taken what was sent."""
        if self.transport is None:
            self.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        # With TLS there is no transport before it is agreed on, and asyncio's does nothing in `abort` once `close` was
        # called twice, which libraries do: what has the socket sees an end, and closes it.
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed, or the peer was first
            pass

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._deadline <= loop.time():
            self.abort()
        elif self._deadline < math.inf:
            self._set_timer(loop)


class AcceptedSockets:
    """All accepted sockets of one event loop, within their bounds. Iterates over those that are not closed."""

    def __init__(self, limits: Limits, counts: ConnectionCounts) -> None:
        """Make it; a `ListeningLoop` brings what it accepts.

        Args:
            limits: for the time until a request is complete.
            counts: that sockets are counted in, by where they come from.
        """
        self._limits = limits
        self._counts = counts
        self._by_ends: dict[Ends, AcceptedSocket] = {}
        self._warned_at = -math.inf
        self._untold = 0

    def __len__(self) -> int:
        return len(self._by_ends)

    def __iter__(self) -> Iterator[AcceptedSocket]:
        return iter(list(self._by_ends.values()))

    def admit(self, accepted: socket.socket, peer: Address) -> AcceptedSocket | None:
        """Give a socket a place, and a deadline for its first request; if there is none, close it and return None."""
        refusal = self._refusal(accepted, peer[0])
        if refusal:
            accepted.close()
            self.warn(f"a connection from {peer[0]} was refused: {refusal}")
            return None
        admitted = AcceptedSocket(accepted, peer, self._forget)
        former = self._by_ends.get(admitted.ends)
        if former is not None:  # its peer has reset it and connects from the same port again; nobody has noticed yet
            former.abort()
        self._by_ends[admitted.ends] = admitted
        admitted.set_deadline(self._limits.handshake_timeout_s)
        return admitted

    def _refusal(self, accepted: socket.socket, host: str) -> str:
        if not descriptors.is_for_connections(accepted.fileno()):
            limit = descriptors.soft_limit()
            return f"of {limit:,} open files none is left for connections; raise the limit (ulimit -n, LimitNOFILE)"
        if not self._counts.enter(host):
            self._counts.leave(host)
            return "its address has too many already"
        return ""

    def _forget(self, closed: AcceptedSocket) -> None:
        if self._by_ends.get(closed.ends) is closed:
            del self._by_ends[closed.ends]
        self._counts.leave(closed.peer[0])

    def find(self, peer: Any, own: Any) -> AcceptedSocket | None:
        """Return the socket between two addresses; None if it is closed, or another server has accepted it."""
        return self._by_ends.get((tuple(peer)[:2], tuple(own)[:2])) if peer and own else None

    def abort_all(self) -> None:
        """Drop all connections."""
        for each in self:
            each.abort()

    async def close_all(self, timeout_s: float) -> None:
        """Close each connection as soon as all its requests are answered; abort what is left after some seconds.

        Returns once all are closed, `ABORT_S` after that time at the latest.
        """
        deadline = time.monotonic() + timeout_s
        while self._by_ends and time.monotonic() < deadline:
            for each in self:
                if not each.requests:
                    each.close_gracefully()
            await asyncio.sleep(CHECK_S)
        self.abort_all()
        await self.wait_closed(ABORT_S)

    async def wait_closed(self, timeout_s: float = math.inf) -> None:
        """Wait until all are closed, but no longer than some seconds."""
        deadline = time.monotonic() + timeout_s
        while self._by_ends and time.monotonic() < deadline:
            await asyncio.sleep(CHECK_S)

    def warn(self, what: str) -> None:
        """Log what strangers can cause, at most once in `WARN_EVERY_S`."""
        now = time.monotonic()
        if now - self._warned_at < WARN_EVERY_S:
            self._untold += 1
            return
        others = f" ({self._untold} more since the last such line)" if self._untold else ""
        logger.warning("%s%s", what, others)
        self._warned_at, self._untold = now, 0
