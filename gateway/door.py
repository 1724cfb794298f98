"""What comes in through a listening socket: how much of it, from where, and how long it may take to ask for something.

Owns each accepted socket's place from `accept` until that socket is closed, whatever protocol speaks over it and in
whatever state that is: before TLS, in half a request, in the middle of a close. A place is taken once and given back
once, by the socket itself, so that it does not depend on any library's callbacks. Belongs to one event loop.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from commitcast.gateway import descriptors
from commitcast.gateway.attendance import Attendance
from commitcast.gateway.limits import Limits

logger: Final = logging.getLogger(__name__)

CHECK_S: Final = 0.01
"""How often it is looked whether everybody is gone, where that is waited for."""
NOTE_S: Final = 1.0
"""How often something is logged that strangers can make happen as often as they like."""

End = tuple[Any, ...]
"""Address and port, as `getsockname` and `getpeername` have it; what follows with IPv6 is not needed to tell two."""
Key = tuple[End, End]


class Guest(socket.socket):
    """An accepted socket, which has a place until it is closed."""

    def __init__(self, accepted: socket.socket, peer: End, leave: Callable[["Guest"], None]) -> None:
        """Take over an accepted socket.

        Args:
            accepted: is detached from its descriptor.
            peer: where it comes from. The kernel has forgotten that once the peer has reset the connection.
            leave: called once, when it is closed.
        """
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self.peer = peer
        self.key: Key = (peer[:2], self.getsockname()[:2])
        self.transport: asyncio.BaseTransport | None = None
        """That it belongs to, once TLS is agreed on, where it is spoken."""
        self.requests = 0
        """That are complete and not answered yet."""
        self._leave: Callable[[Guest], None] | None = leave
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def getpeername(self) -> End:
        """Return where it comes from, also when it is gone."""
        return self.peer

    def close(self) -> None:
        """Close the socket, and give its place back."""
        super().close()
        if self._leave is not None:
            leave, self._leave = self._leave, None
            if self._timer is not None:
                self._timer.cancel()
            leave(self)

    def expect(self, within_s: float) -> None:
        """Cut it off unless `let_be` is called, or this again, within some seconds."""
        if self._leave is None:  # it is gone
            return
        loop = asyncio.get_running_loop()
        self._due = loop.time() + within_s
        if self._timer is None or self._timer.when() > self._due:  # else it looks again when it fires
            self._set_timer(loop)

    def let_be(self) -> None:
        """Let it take its time."""
        self._due = math.inf

    def part(self) -> None:
        """Close the connection once the peer has taken what was sent."""
        if self.transport is None:
            self.cut()
        else:
            self.transport.close()

    def cut(self) -> None:
        """Drop the connection without a word."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
            return
        try:
            self.shutdown(socket.SHUT_RDWR)  # TLS is not agreed on: whatever speaks it sees an end
        except OSError:  # the peer was first
            pass

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._due <= loop.time():
            self.cut()
        elif self._due < math.inf:
            self._set_timer(loop)


class Door:
    """Lets sockets in and knows those that are."""

    def __init__(self, limits: Limits, attendance: Attendance) -> None:
        """Make it; it lets in what a `ListeningLoop` accepts.

        Args:
            limits: of one address, and for a request to be there.
            attendance: that sockets are counted in.
        """
        self.guests: dict[Key, Guest] = {}
        """All that are not closed."""
        self._limits = limits
        self._attendance = attendance
        self._noted_at = -math.inf
        self._unnoted = 0

    def admit(self, accepted: socket.socket, peer: End) -> Guest | None:
        """Give an accepted socket a place and a time to ask for something; close it and return None if it has none."""
        refusal = self._refusal(accepted, peer[0])
        if refusal:
            accepted.close()
            self.note(f"a connection from {peer[0]} was refused: {refusal}")
            return None
        guest = Guest(accepted, peer, self._leave)
        self.guests[guest.key] = guest
        guest.expect(self._limits.handshake_timeout_s)
        return guest

    def _refusal(self, accepted: socket.socket, address: str) -> str:
        if not descriptors.is_for_connections(accepted.fileno()):
            limit = descriptors.soft_limit()
            return f"of {limit:,} open files none is left for connections; raise the limit (ulimit -n, LimitNOFILE)"
        if not self._attendance.enter(address):
            self._attendance.leave(address)
            return "its address has too many already"
        return ""

    def _leave(self, guest: Guest) -> None:
        del self.guests[guest.key]
        self._attendance.leave(guest.peer[0])

    def guest(self, peer: Any, own: Any) -> Guest | None:
        """Return the guest between two ends; None if it is gone, or came in through another door."""
        return self.guests.get((tuple(peer)[:2], tuple(own)[:2])) if peer and own else None

    def cut_all(self) -> None:
        """Drop everybody."""
        for guest in list(self.guests.values()):
            guest.cut()

    async def dismiss(self, timeout_s: float) -> None:
        """Part with everybody as soon as nothing is being done for them; who is left after some seconds is dropped."""
        deadline = time.monotonic() + timeout_s
        while self.guests and time.monotonic() < deadline:
            for guest in list(self.guests.values()):
                if not guest.requests:
                    guest.part()
            await asyncio.sleep(CHECK_S)
        self.cut_all()

    async def wait_empty(self, timeout_s: float = math.inf) -> None:
        """Wait until everybody is gone, but no longer than so many seconds."""
        deadline = time.monotonic() + timeout_s
        while self.guests and time.monotonic() < deadline:
            await asyncio.sleep(CHECK_S)

    def note(self, what: str) -> None:
        """Log what strangers can make happen, at most once a second."""
        self._unnoted += 1
        if time.monotonic() - self._noted_at >= NOTE_S:
            logger.warning("%s (%d since this was last logged)", what, self._unnoted)
            self._noted_at = time.monotonic()
            self._unnoted = 0
