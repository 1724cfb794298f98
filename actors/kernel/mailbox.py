"""An actor's mailbox: first in, first out, any number of senders, a bound, and nothing lost at the end.

**Wake-up is edge-triggered.** One turn at a time handles the messages, and a turn is scheduled only when the first
message comes to an idle actor: whichever thread takes the mailbox's *token* wakes the owner, every later sender only
appends. At its end a turn gives the token back, looks once more, and takes it again for a message that came in between;
so no message is left behind, and no sender ever waits for a lock: the queue is the interpreter's own.

The states, and the call that leads from one to the next:

    state      token  put() by any thread              the next state
    DETACHED   taken  appends                          SCHEDULED by attach(): an actor starts, or replaces a failed one
                                                       STOPPING by stop(): nothing will replace the failed one
    IDLE       free   appends, takes the token, wakes  SCHEDULED by put(): of the sender that took the token
    SCHEDULED  taken  appends                          IDLE by turn_ended(): no message waits
                                                       DETACHED by detach(): the actor failed in its turn
                                                       STOPPING by stop(): the actor stops
    STOPPING   taken  appends                          CLOSED by close(): the same turn, after `on_stop`
    CLOSED     taken  appends, has the owner drain it  none

IDLE and SCHEDULED are told apart by the token alone, because every message passes there; the rare changes are looked
up in `TRANSITIONS`, and one that is not in it is a defect.

**Overflow.** A mailbox with a limit refuses ordinary messages at the limit, with an error for the sender. Control
messages (stop, watch, acknowledgements) are never refused; they keep their place in the line, so that a stop comes
after every message that was sent before it.

Prior art: Akka's `Mailbox` (one status word, scheduled by the sender that sets its bit) and Pykka's queue per actor.
Refused: a condition variable, which costs a lock for each message and a waiting thread for each actor.
"""

import enum
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from commitcast.actors.kernel.future import Future

if TYPE_CHECKING:
    from commitcast.actors.kernel.actor import Actor

Empty: Final = queue.Empty
_append: Final = queue.SimpleQueue.put


class State(enum.Enum):
    """What a mailbox does with a message. See the table above."""

    DETACHED = "detached"
    IDLE = "idle"
    SCHEDULED = "scheduled"
    STOPPING = "stopping"
    CLOSED = "closed"


DETACHED, IDLE, SCHEDULED, STOPPING, CLOSED = State

TRANSITIONS: Final = {
    ("attach", DETACHED): SCHEDULED,
    ("detach", SCHEDULED): DETACHED,
    ("stop", SCHEDULED): STOPPING,
    ("stop", DETACHED): STOPPING,
    ("close", STOPPING): CLOSED,
}
"""The changes that an actor makes. Those between IDLE and SCHEDULED are the token's."""


class Envelope(msgspec.Struct, gc=False):
    """A message on its way to an actor, and the future of its answer."""

    message: Any
    reply_to: Future[Any] | None = None


class Mailbox(queue.SimpleQueue[Envelope]):
    """The messages that wait for one actor. `get(False)` takes the oldest or raises `Empty`."""

    __slots__ = ("_drained_by", "_state", "_token", "is_stopped", "limit_messages", "owner")

    def __init__(self, limit_messages: int | None = None) -> None:
        """Make a mailbox without an owner.

        Args:
            limit_messages: how many ordinary messages may wait; exceeded by at most the number of threads that send at
                the same instant. None: the senders keep the bound.
        """
        self._token = threading.Lock()  # free in IDLE only; never waited for
        self._token.acquire()
        self._state = DETACHED
        self.is_stopped = False
        """Whether its actor takes no further turn."""
        self.limit_messages = limit_messages
        self.owner: Actor | None = None
        """The actor that takes the turns; None in DETACHED, STOPPING and CLOSED."""
        self._drained_by: Actor | None = None  # in CLOSED

    @property
    def state(self) -> State:
        """What it does with the next message."""
        return IDLE if self._state is SCHEDULED and not self._token.locked() else self._state

    # Senders, on any thread.

    def put(  # type: ignore[override]  # it never blocks
        self, envelope: Envelope, *, bounded: bool = False, inline: bool = False
    ) -> bool:
        """Add a message. Never blocks.

        Args:
            envelope: the message.
            bounded: it is an ordinary message, which is refused at the limit.
            inline: let an idle owner handle it on this thread, if that can be done.

        Returns:
            False if it was refused.
        """
        if bounded and self.limit_messages is not None and self.qsize() >= self.limit_messages:
            return False
        _append(self, envelope)
        if self._state is CLOSED:
            assert self._drained_by is not None
            self._drained_by.drain_closed_mailbox()
        elif self._token.acquire(False):
            owner = self.owner
            assert owner is not None
            if inline:
                owner.dispatcher.try_run_inline(owner)
            else:
                owner.dispatcher.schedule(owner)
        return True

    # The owner, on the thread of its start or of its turn.

    def attach(self, owner: "Actor") -> None:
        """Begin to wake an owner, at once if messages wait."""
        self.owner = owner
        self._change("attach")
        self.turn_ended()

    def turn_ended(self) -> None:
        """Become idle; wake the owner again for a message that came during the last moment of its turn."""
        self._token.release()
        if not self.empty() and self._token.acquire(False):
            assert self.owner is not None
            self.owner.dispatcher.schedule(self.owner)

    def detach(self) -> None:
        """Keep what waits and what comes for the actor that replaces the owner."""
        self.owner = None
        self._change("detach")

    def stop(self) -> None:
        """Give its owner, or the failed one that nothing will replace, no further turn."""
        self.owner = None
        self._change("stop")

    def close(self, owner: "Actor") -> None:
        """Have the last owner drain what comes from now on; it drains what waits already by itself."""
        self._drained_by = owner
        self._change("close")

    def _change(self, event: str) -> None:
        self._state = TRANSITIONS[event, self._state]
        self.is_stopped = self._state in (STOPPING, CLOSED)
