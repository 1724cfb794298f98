"""The event loop of the host receives the answers to batches itself, while it is quick enough.

A host with an asyncio loop computes on that loop's thread. Another thread that receives an answer has to wait for the
interpreter's lock, up to 5 ms while the loop computes; the loop receives it with its next look at its sockets. So
a loop on which batches are sent is lent the connection. The connection's own thread looks now and then whether an
answer was left lying, because the loop is blocked, stopped or closed, and takes the connection back.
"""

import asyncio
import threading
from typing import Final

from commitcast.persistence.remote.link import Link
from commitcast.persistence.remote.loop import Loop
from commitcast.persistence.remote.own_socket import OwnSocket

LOOK_S: Final = 0.05
"""Between two looks: how long an answer may lie, twice as long at most. A loop with hundreds of agents may be busy for
20 ms at a time; to take the connection from it would only make both slower."""
IDLE_LOOKS: Final = 20
"""Looks since the last batch, after which nobody looks until the next."""
RECLAIM_S: Final = 1.0
"""Between two looks whether a loop has closed without giving back what it was lent."""


class Loan:
    """What one loop was lent: a descriptor of the same connection.

    Only the loop's own thread may close what its selector knows; unless the loop is closed, and with it the selector.
    """

    def __init__(self, borrower: asyncio.AbstractEventLoop, lent: OwnSocket) -> None:
        self.borrower = borrower
        self.lent = lent

    def end(self) -> None:
        """Have the loop give it back, soon. Any thread."""
        try:
            self.borrower.call_soon_threadsafe(self._give_back)
        except RuntimeError:  # it is closed
            self.reclaim()

    def reclaim(self) -> bool:
        """Take it from a loop that is closed; return whether it is back."""
        if self.borrower.is_closed():
            self.lent.close()
        return self.lent.descriptor < 0

    def _give_back(self) -> None:
        if self.lent.is_ours():
            self.borrower.remove_reader(self.lent.descriptor)
        self.lent.close()


class Lending:
    """The lending of one connection. `offer` on any thread; the rest on the connection's own."""

    def __init__(self, link: Link, loop: Loop) -> None:
        """Make it; the connection is received by its own loop until it is lent."""
        self._link = link
        self._loop = loop
        self._lock = threading.Lock()
        self._borrower: asyncio.AbstractEventLoop | None = None
        self._loan: Loan | None = None
        """Of the borrower."""
        self._ended: list[Loan] = []
        """Those that are not given back yet."""
        self._looks_left = 0
        self._latest = self._seen = object()
        """Stand for the latest batch, and for the one that was the latest at the last look."""
        self._received = 0
        """How many times something was received, at the last look."""

    def offer(self) -> None:
        """Lend the connection to the loop that runs on this thread, unless it is lent already. With each batch."""
        borrower, present = asyncio._get_running_loop(), self._borrower
        self._latest = object()  # before it is looked whether somebody looks
        if borrower is None:
            if present is None:
                return
            if not present.is_running():  # it has ended: the answer is not to wait for a look
                self.end()
                return
        if self._looks_left and (borrower is None or borrower is present):
            return
        with self._lock:
            is_new = borrower is not None and self._borrower is None and self._lend(borrower)
            is_asleep = self._borrower is not None and not self._looks_left
            self._looks_left = IDLE_LOOKS
        if is_new or is_asleep:
            self._loop.call(self._look_later)

    def _lend(self, borrower: asyncio.AbstractEventLoop) -> bool:
        lent = self._link.lend()
        if lent is None:
            return False
        try:
            borrower.add_reader(lent.descriptor, self._receive)
        except (NotImplementedError, RuntimeError, OSError):  # a loop that has no readers
            lent.close()
            self._link.take_back()
            return False
        self._borrower, self._loan = borrower, Loan(borrower, lent)
        return True

    def _receive(self) -> None:
        self._link.receive()

    def _look_later(self) -> None:
        self._received = self._link.received
        self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Take the connection back if the borrower has left something lying since the last look."""
        with self._lock:
            if self._borrower is None:
                return
            is_left_lying = self._received == self._link.received and self._link.has_input()
            if is_left_lying or not self._borrower.is_running():
                self._end()
                return
            before, self._seen = self._seen, self._latest
            self._looks_left = self._looks_left - 1 if before is self._seen else IDLE_LOOKS
            if self._looks_left <= 0 and self._latest is self._seen:
                return
        self._look_later()

    def end(self) -> None:
        """Take the connection back. Any thread; idempotent."""
        with self._lock:
            if self._borrower is not None:
                self._end()

    def _end(self) -> None:
        loan, self._loan = self._loan, None
        self._borrower = None
        assert loan is not None
        loan.end()
        self._link.take_back()
        self._ended.append(loan)
        if len(self._ended) == 1:
            self._loop.call(self._reclaim_later)

    def _reclaim_later(self) -> None:
        if not self.reclaim():
            self._loop.call_later(RECLAIM_S, self._reclaim_later)

    def reclaim(self) -> bool:
        """Take back what closed loops have not given back; return whether all is back. Any thread."""
        with self._lock:
            self._ended = [loan for loan in self._ended if not loan.reclaim()]
            return not self._ended

    def drop_in_child(self) -> list[int]:
        """Forget the borrowers in a forked child; return what they have open."""
        self._lock = threading.Lock()
        loans, self._ended = [*self._ended, *([] if self._loan is None else [self._loan])], []
        self._borrower = self._loan = None
        return [descriptor for loan in loans if (descriptor := loan.lent.drop()) >= 0]
