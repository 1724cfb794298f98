"""An actor's mailbox: first in, first out, any number of senders, a bound, and nothing lost at the end.

**Wake-up is edge-triggered.** One turn at a time handles the messages, and a turn is scheduled only when the first
message comes to an idle actor: whichever thread takes the mailbox's *token* wakes the owner, every later sender only
appends. At its end a turn gives the token back, looks once more, and takes it again for a message that came in between;
so no message is left behind, and no sender ever waits for a lock: the queue is the interpreter's own.

**An owner may sleep on.** An actor that has its hands full, and will get a message when they are free, would only put
what comes now aside. So a sender may leave it asleep (`can_wait`), and that message finds all of it in the mailbox. Any
other message wakes it.

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

    __slots__ = ("_drained_by", "_state", "_token", "is_stopped", "is_wanted", "limit_messages", "owner")

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
        self.is_wanted = False
        """Whether a message has come since the last turn that must not wait. See `put`."""
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
        self, envelope: Envelope, *, bounded: bool = False, inline: bool = False, can_wait: bool = False
    ) -> bool:
        """Add a message. Never blocks.

        Args:
            envelope: the message.
            bounded: it is an ordinary message, which is refused at the limit.
            inline: let an idle owner handle it on this thread, if that can be done.
            can_wait: leave an idle owner asleep if it says that it would do nothing with it yet (`Actor.sleeps_on`).

        Returns:
            False if it was refused.
        """
        if bounded and self.limit_messages is not None and self.qsize() >= self.limit_messages:
            return False
        _append(self, envelope)
        if self._state is CLOSED:
            assert self._drained_by is not None
            self._drained_by.drain_closed_mailbox()
            return True
        if not can_wait:
            self.is_wanted = True  # before the token is tried: who has it looks here after it has given it back
        if self._token.acquire(False):
            owner = self.owner
            assert owner is not None
            if can_wait and owner.sleeps_on and self._leave_asleep(owner):
                return True
            if inline:
                owner.dispatcher.try_run_inline(owner)
            else:
                owner.dispatcher.schedule(owner)
        return True

    def _leave_asleep(self, owner: "Actor") -> bool:
        """Give the token back if nothing that has come wants a turn; return False if the caller still has it."""
        if self.is_wanted or not owner.may_wait(self.qsize()):
            return False
        self._token.release()
        return not self.is_wanted or not self._token.acquire(False)

    # The owner, on the thread of its start or of its turn.

    def attach(self, owner: "Actor") -> None:
        """Begin to wake an owner, at once if messages wait."""
        self.owner = owner
        self._change("attach")
        self.turn_ended()

    def turn_ended(self) -> None:
        """Become idle; wake the owner again for a message that came during the last moment of its turn."""
        owner = self.owner
        assert owner is not None
        self._token.release()
        if not self.empty():
            is_wanted = self.is_wanted or not owner.sleeps_on or not owner.may_wait(self.qsize())
            if is_wanted and self._token.acquire(False):
                owner.dispatcher.schedule(owner)

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
