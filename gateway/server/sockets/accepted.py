"""Accepted sockets: limits on their number, in total and per address, and a deadline for each request.

Counts each socket from `accept` until it is closed, for every protocol and in every state: before TLS, in the middle of
a request, in the middle of a close. A socket is counted once and discounted once, by its own `close`, so that the count
does not depend on a library's callbacks. Belongs to one event loop.
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
from commitcast.gateway.server.tasks import CHECK_S, wait_until

logger: Final = logging.getLogger(__name__)

ABORT_S: Final = 1.0
"""For aborted connections to be closed, which takes some turns of the loop."""
WARN_EVERY_S: Final = 1.0
"""Between two warnings that clients can cause at any rate."""

Address = tuple[Any, ...]
"""Host and port, as from `getsockname`; the further fields of IPv6 do not distinguish connections."""
Ends = tuple[Address, Address]
"""The peer's address and our own."""


class AcceptedSocket(socket.socket):
    """An accepted socket, which is counted until it is closed."""

    def __init__(self, accepted: socket.socket, peer: Address, on_close: Callable[["AcceptedSocket"], None]) -> None:
        """Take over an accepted socket.

        Its peer's address is given, because the kernel forgets it when the peer resets the connection.
        """
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self.peer = peer
        self.ends: Ends = (peer[:2], self.getsockname()[:2])
        self.transport: asyncio.BaseTransport | None = None
        """The transport that owns it; None until the TLS handshake is done, if there is one."""
        self.requests = 0
        """Complete requests that are not answered yet."""
        self._on_close: Callable[[AcceptedSocket], None] | None = on_close
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def getpeername(self) -> Address:
        """Return the peer's address, also after the peer is gone."""
        return self.peer

    def close(self) -> None:
        """Close the socket and discount it. Idempotent."""
        super().close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            if self._timer is not None:
                self._timer.cancel()
            on_close(self)

    def set_deadline(self, within_s: float) -> None:
        """Abort the connection after a number of seconds, unless the deadline is cleared or set again before."""
        if self._on_close is None:  # it is closed
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + within_s
        if self._timer is None or self._timer.when() > self._deadline:  # else the timer checks again when it fires
            self._set_timer(loop)

    def clear_deadline(self) -> None:
        """Remove the deadline."""
        self._deadline = math.inf

    def close_gracefully(self) -> None:
        """Close the connection after the peer has read what was sent."""
        if self.transport is None:
            self.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        # During the TLS handshake there is no transport, and asyncio's does nothing in `abort` after `close` was called
        # twice, which libraries do: the owner of the socket sees its end, and closes it.
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed, by us or by the peer
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
    """All accepted sockets of one event loop, within their limits. Iterates over the open ones."""

    def __init__(self, limits: Limits, counts: ConnectionCounts) -> None:
        """Make it; a `ListeningLoop` hands its accepted sockets over."""
        self._limits = limits
        self._counts = counts
        self._by_ends: dict[Ends, AcceptedSocket] = {}
        self._warned_at = -math.inf
        self._suppressed = 0

    def __len__(self) -> int:
        return len(self._by_ends)

    def __iter__(self) -> Iterator[AcceptedSocket]:
        return iter(list(self._by_ends.values()))

    def admit(self, accepted: socket.socket, peer: Address) -> AcceptedSocket | None:
        """Count a socket and set a deadline for its first request; beyond a limit, close it and return None."""
        refusal = self._refusal(accepted, peer[0])
        if refusal:
            accepted.close()
            self.warn(f"a connection from {peer[0]} was refused: {refusal}")
            return None
        admitted = AcceptedSocket(accepted, peer, self._forget)
        former = self._by_ends.get(admitted.ends)
        if former is not None:  # the peer has reset it and reuses its port, before we noticed
            former.abort()
        self._by_ends[admitted.ends] = admitted
        admitted.set_deadline(self._limits.handshake_timeout_s)
        return admitted

    def _refusal(self, accepted: socket.socket, host: str) -> str:
        if not descriptors.is_for_connections(accepted.fileno()):
            limit = descriptors.soft_limit()
            return f"all {limit:,} open files are in use or reserved: raise the limit (ulimit -n, LimitNOFILE)"
        if not self._counts.enter(host):
            self._counts.leave(host)
            return "its address has too many connections"
        return ""

    def _forget(self, closed: AcceptedSocket) -> None:
        if self._by_ends.get(closed.ends) is closed:
            del self._by_ends[closed.ends]
        self._counts.leave(closed.peer[0])

    def find(self, peer: Any, own: Any) -> AcceptedSocket | None:
        """Return the socket between two addresses; None if it is closed, or another server has accepted it."""
        return self._by_ends.get((tuple(peer)[:2], tuple(own)[:2])) if peer and own else None

    def abort_all(self) -> None:
        """Drop all connections at once."""
        for each in self:
            each.abort()

    async def close_all(self, timeout: float) -> None:
        """Close each connection when its requests are answered; abort the remaining ones after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._by_ends and time.monotonic() < deadline:
            for each in self:
                if not each.requests:
                    each.close_gracefully()
            await asyncio.sleep(CHECK_S)
        self.abort_all()
        await self.wait_closed(ABORT_S)

    async def wait_closed(self, timeout: float = math.inf) -> None:
        """Wait until all are closed, for `timeout` seconds at most."""
        await wait_until(lambda: not self._by_ends, timeout)

    def warn(self, what: str) -> None:
        """Log a warning that clients can cause, at most once in `WARN_EVERY_S`."""
        now = time.monotonic()
        if now - self._warned_at < WARN_EVERY_S:
            self._suppressed += 1
            return
        others = f" ({self._suppressed} more since the last such line)" if self._suppressed else ""
        logger.warning("%s%s", what, others)
        self._warned_at, self._suppressed = now, 0
