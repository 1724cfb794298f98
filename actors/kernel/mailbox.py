"""An actor's mailbox: first in, first out, any number of senders, a bound, and nothing lost at the end.

Lock-free on the way in: the queue is the interpreter's own, and one lock is only ever tried, as the token that says
whether the actor is waiting for work. Closing leaves no gap: who puts into a closed mailbox sees to it that what it
holds is answered.

Overflow rule: a mailbox with a limit refuses ordinary messages at the limit, and the sender is told. Control messages
(stop, watch, acknowledgements) are never refused; they keep their place in the line, so that what was said before a
stop is handled before it.
"""

import queue
import threading
from typing import Any, Final, Protocol

import msgspec

from commitcast.actors.kernel.future import Future

Empty: Final = queue.Empty
_append: Final = queue.SimpleQueue.put


class Envelope(msgspec.Struct, gc=False):
    """A message on its way to an actor, and whom to answer."""

    message: Any
    reply_to: Future[Any] | None = None


class Owner(Protocol):
    """The actor whose mailbox it is."""

    def wake(self) -> None:
        """There is work, and no turn is scheduled or under way. Must not block."""

    def wake_here(self) -> None:
        """Like `wake`; the turn may be taken on the calling thread."""

    def answer_late(self) -> None:
        """Something was put into the mailbox after it was closed."""


class Mailbox(queue.SimpleQueue[Envelope]):
    """The messages that wait for one actor. `get(block)` takes the oldest or raises `Empty`; `empty()` tells."""

    __slots__ = ("_idle", "is_closed", "is_stopped", "limit_messages", "owner")

    def __init__(self, limit_messages: int | None = None) -> None:
        """Make a mailbox; nobody is woken before `open`.

        Args:
            limit_messages: how many ordinary messages may wait; passed by no more than the number of threads that
                send at the same instant. None: the senders keep the bound (`flow.py`).
        """
        self._idle = threading.Lock()  # free: the actor waits for work, and whoever takes it schedules a turn
        self._idle.acquire()
        self.limit_messages = limit_messages
        self.owner: Owner | None = None
        self.is_stopped = False
        """The actor takes no more turns."""
        self.is_closed = False
        """What is put here is answered by `Owner.answer_late`."""

    def open(self, owner: Owner) -> None:
        """Begin to wake the owner."""
        self.owner = owner
        self.turn_ended()

    def offer(self, envelope: Envelope) -> bool:
        """Add an ordinary message; return False, and add nothing, at the limit. Any thread; never blocks."""
        if self.limit_messages is not None and self.qsize() >= self.limit_messages:
            return False
        self.put(envelope)
        return True

    def put(self, envelope: Envelope, *, here: bool = False) -> None:  # type: ignore[override]  # it never blocks
        """Add a message whatever the limit. Any thread; never blocks.

        Args:
            envelope: the message.
            here: let the owner handle it on this thread, if it has nothing else to do.
        """
        _append(self, envelope)
        if self.is_closed:
            assert self.owner is not None
            self.owner.answer_late()
        elif self._idle.acquire(False):
            assert self.owner is not None
            if here:
                self.owner.wake_here()
            else:
                self.owner.wake()

    def turn_ended(self) -> None:
        """Wait for work again; wake the owner at once if there is some already."""
        self._idle.release()
        if not self.empty() and self._idle.acquire(False):
            assert self.owner is not None
            self.owner.wake()
