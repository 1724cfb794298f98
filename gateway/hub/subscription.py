"""One connection and its cursors, as the hub knows them. Pure: plain state, changed by the hub alone."""

from typing import Any

from commitcast.gateway.protocol import frames

FRAME_ITEMS = 512
FRAME_BYTES = 64 * 1024
"""A `messages` frame ends with the item that passes either, so that other subscribers get their turn."""


class Subscriber:
    """One connection."""

    __slots__ = ("is_paused", "pauses", "peer", "subscriptions")

    def __init__(self, peer: Any) -> None:
        """Make a subscriber; `peer` is whatever the server needs to write to it."""
        self.peer = peer
        self.is_paused = False
        self.pauses = 0
        """How often its socket took no more."""
        self.subscriptions: dict[str, Subscription] = {}


class Subscription:
    """A cursor over one agent's log, or over all."""

    __slots__ = (
        "acked",
        "agent",
        "checked",
        "cursor",
        "epoch",
        "is_held",
        "is_live",
        "pauses",
        "position",
        "raw",
        "reading",
        "slow",
        "subscriber",
        "window",
    )

    def __init__(
        self,
        subscriber: Subscriber,
        agent: str,
        cursor: int,
        position: int,
        epoch: str,
        *,
        raw: bool = False,
        window: int | None = None,
        slow: frames.SlowPolicy = "catch_up",
    ) -> None:
        self.subscriber = subscriber
        self.agent = agent
        self.cursor = cursor
        """What the client's cursor is: a sequence, or for all agents a position."""
        self.position = position
        self.epoch = epoch
        """Of the agent, or of the store: an id may be given to another agent once the first is deleted."""
        self.raw = raw
        self.window = window
        self.slow = slow
        self.acked = cursor
        self.is_live = False
        self.reading = False
        self.checked = False
        """Nothing is known to be in the store beyond what was read, or is being read."""
        self.is_held = False
        """Its window was closed since it last had everything."""
        self.pauses = subscriber.pauses
        """Of its subscriber, when it last had everything."""

    @property
    def is_to_all(self) -> bool:
        """Whether it is to all agents."""
        return self.agent == frames.ALL

    @property
    def is_current(self) -> bool:
        """Whether it was neither ended nor replaced."""
        return self.subscriber.subscriptions.get(self.agent) is self

    @property
    def room(self) -> int:
        """How many messages the next frame may have: no more than the window takes."""
        return FRAME_ITEMS if self.window is None else min(FRAME_ITEMS, self.window - self.cursor + self.acked)

    @property
    def frame_key(self) -> tuple[int, int, bool, int]:
        """What makes two subscriptions' next frames of one log equal (a `ring.FrameKey`)."""
        return self.position, self.cursor, self.raw, self.room

    @property
    def may_advance(self) -> bool:
        """Whether the socket takes more and the window is open."""
        return self.room > 0 and not self.reading and not self.subscriber.is_paused

    @property
    def is_slow(self) -> bool:
        """Whether it was the subscriber, not the server, that kept it from having everything since it last had."""
        return self.is_live and (self.is_held or self.pauses != self.subscriber.pauses)

    def caught_up(self) -> None:
        """Note that it has everything."""
        self.is_live = True
        self.is_held = False
        self.pauses = self.subscriber.pauses
