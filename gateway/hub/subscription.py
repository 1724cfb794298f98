"""One connection and its subscriptions: cursors, credit, and two state machines that one can see. Pure.

A subscription is a cursor over a log: one agent's, or that of all agents. Two questions decide what it is given next,
and each has a table below; nothing else may change a state.

`ReadState`: what does the store have that this subscription lacks?

* BEHIND: perhaps something. The hub asks for a page as soon as recent entries in memory do not continue the cursor.
* READING: a page, or the end of the log, was asked for. Nothing is sent until it arrives.
* STALE: as READING, and more was committed that the page may not have: it will not be the last one.
* AT_HEAD: nothing, as far as is known. What is committed from now on comes from memory.
* DROPPED: its connection is about to be closed because it is slow. Final.

`DeliveryState`: what kept the subscription from having everything?

* CATCHING_UP: it has never had everything; that is nobody's fault.
* LIVE: it had everything, and its subscriber has taken everything since.
* HELD: since it last had everything, its window was exhausted or its socket was paused: if it lacks entries that are no
  longer in memory, its subscriber is slow, and its `slow` policy applies.

The hub alone changes subscriptions, on one thread.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from commitcast.gateway.protocol import frames

FRAME_ITEMS = 512
FRAME_BYTES = 64 * 1024
"""A `messages` frame ends with the item that passes either, so that other subscribers get their turn.

Bytes as they are encoded; see `encoding.ESCAPE_BYTES` for what may come on top."""


class ReadState(StrEnum):
    """What the store may have that a subscription lacks."""

    BEHIND = "behind"
    READING = "reading"
    STALE = "stale"
    AT_HEAD = "at head"
    DROPPED = "dropped"


class ReadEvent(StrEnum):
    """What changes a `ReadState`."""

    ASK = "ask"
    """A page or the end of the log is asked for."""
    MISS = "miss"
    """Something was committed that is not in memory, or a frame could not be made."""
    READ_ALL = "read all"
    """A page arrived and was sent whole; nothing followed it in the store."""
    READ_SOME = "read some"
    """A page arrived that was not the last one or was not sent whole, or it could not be read."""
    DROP = "drop"
    """The connection is to be closed."""


_READ_TRANSITIONS: Final[dict[ReadState, dict[ReadEvent, ReadState]]] = {
    ReadState.BEHIND: {
        ReadEvent.ASK: ReadState.READING,
        ReadEvent.MISS: ReadState.BEHIND,
        ReadEvent.DROP: ReadState.DROPPED,
    },
    ReadState.READING: {
        ReadEvent.MISS: ReadState.STALE,
        ReadEvent.READ_ALL: ReadState.AT_HEAD,
        ReadEvent.READ_SOME: ReadState.BEHIND,
    },
    ReadState.STALE: {
        ReadEvent.MISS: ReadState.STALE,
        ReadEvent.READ_ALL: ReadState.BEHIND,
        ReadEvent.READ_SOME: ReadState.BEHIND,
    },
    ReadState.AT_HEAD: {  # memory may have lost what follows the cursor: then it is asked for
        ReadEvent.ASK: ReadState.READING,
        ReadEvent.MISS: ReadState.BEHIND,
        ReadEvent.DROP: ReadState.DROPPED,
    },
    ReadState.DROPPED: {ReadEvent.MISS: ReadState.DROPPED},
}


class DeliveryState(StrEnum):
    """What kept a subscription from having everything."""

    CATCHING_UP = "catching up"
    LIVE = "live"
    HELD = "held"


class DeliveryEvent(StrEnum):
    """What changes a `DeliveryState`."""

    HAS_EVERYTHING = "has everything"
    HOLD = "hold"
    """Its window is exhausted, or its socket is paused."""


_DELIVERY_TRANSITIONS: Final[dict[DeliveryState, dict[DeliveryEvent, DeliveryState]]] = {
    DeliveryState.CATCHING_UP: {
        DeliveryEvent.HAS_EVERYTHING: DeliveryState.LIVE,
        DeliveryEvent.HOLD: DeliveryState.CATCHING_UP,
    },
    DeliveryState.LIVE: {
        DeliveryEvent.HAS_EVERYTHING: DeliveryState.LIVE,
        DeliveryEvent.HOLD: DeliveryState.HELD,
    },
    DeliveryState.HELD: {
        DeliveryEvent.HAS_EVERYTHING: DeliveryState.LIVE,
        DeliveryEvent.HOLD: DeliveryState.HELD,
    },
}


_BEHIND: Final = ReadState.BEHIND
_AT_HEAD: Final = ReadState.AT_HEAD
_CATCHING_UP: Final = DeliveryState.CATCHING_UP
_LIVE: Final = DeliveryState.LIVE
"""Names of the module: in Python 3.11 fetching a member from its enumeration takes 0.12 µs, a quarter of a fan-out's
work for one subscriber."""


class Subscriber:
    """One connection."""

    __slots__ = ("is_paused", "peer", "subscriptions")

    def __init__(self, peer: Any) -> None:
        """Make a subscriber; `peer` is the connection that the server writes to."""
        self.peer = peer
        self.is_paused = False
        """Its write buffer is full."""
        self.subscriptions: dict[str, Subscription] = {}

    def pause(self) -> None:
        """Note that the write buffer is full: nothing is sent until `Hub.resume`."""
        self.is_paused = True
        for subscription in self.subscriptions.values():
            subscription.hold()


class Subscription(msgspec.Struct, eq=False):
    """A cursor over the log of one agent, or of all."""

    subscriber: Subscriber
    agent: str
    cursor: int
    """The client's cursor: a sequence, or for all agents a position."""
    position: int
    """Of the last entry that the client has."""
    epoch: str
    """Of the agent, or of the store: an id may be given to another agent once the first is deleted."""
    raw: bool = False
    window: int | None = None
    slow: frames.SlowPolicy = "catch_up"
    acked: int = 0
    is_to_all: bool = False
    read_state: ReadState = ReadState.BEHIND
    delivery: DeliveryState = DeliveryState.CATCHING_UP

    def __post_init__(self) -> None:
        self.acked = self.cursor
        self.is_to_all = self.agent == frames.ALL

    # Transitions.

    def note(self, event: ReadEvent) -> None:
        """Change the state of reading.

        Raises:
            KeyError: it cannot happen in this state.
        """
        self.read_state = _READ_TRANSITIONS[self.read_state][event]

    def hold(self) -> None:
        """Note that its subscriber keeps it from being given more."""
        self.delivery = _DELIVERY_TRANSITIONS[self.delivery][DeliveryEvent.HOLD]

    def catch_up(self) -> bool:
        """Note that it has everything; return whether it does for the first time."""
        before = self.delivery
        self.delivery = _DELIVERY_TRANSITIONS[before][DeliveryEvent.HAS_EVERYTHING]
        return before is _CATCHING_UP

    def keep_up(self) -> bool:
        """Note that it has everything in memory; return whether that is everything, as it was before."""
        if self.read_state is not _AT_HEAD or self.delivery is _CATCHING_UP:
            return False
        if self.delivery is not _LIVE:  # most calls: as the table has it
            self.catch_up()
        return True

    # What the states mean.

    @property
    def at_store_head(self) -> bool:
        """Whether nothing is known to be in the store beyond what was read."""
        return self.read_state is _AT_HEAD

    @property
    def is_live(self) -> bool:
        """Whether it has had everything at some time."""
        return self.delivery is not _CATCHING_UP

    @property
    def is_slow(self) -> bool:
        """Whether its subscriber, not the server, kept it from having everything since it last had."""
        return self.delivery is DeliveryState.HELD

    @property
    def is_ready(self) -> bool:
        """Whether it can be given more: it is current, has credit, waits for no page, and its socket is not paused."""
        state, subscriber = self.read_state, self.subscriber
        return (
            (state is _AT_HEAD or state is _BEHIND)
            and not subscriber.is_paused
            and (self.window is None or not self.window_exhausted)
            and subscriber.subscriptions.get(self.agent) is self  # as `is_current`
        )

    # Its cursor and its window.

    @property
    def is_current(self) -> bool:
        """Whether it was neither ended nor replaced."""
        return self.subscriber.subscriptions.get(self.agent) is self

    @property
    def credit(self) -> int:
        """How many messages the next frame may have: at most what is left of the window."""
        return FRAME_ITEMS if self.window is None else min(FRAME_ITEMS, self.window - self.cursor + self.acked)

    @property
    def window_exhausted(self) -> bool:
        """Whether the client must acknowledge before it is given more."""
        return self.window is not None and self.cursor - self.acked >= self.window

    @property
    def frame_key(self) -> tuple[int, int, bool, int]:
        """What two subscriptions have in common whose next frames of one log are equal (a `log.FrameKey`)."""
        return self.position, self.cursor, self.raw, FRAME_ITEMS if self.window is None else self.credit
