"""Who hears what: subscriptions, each a cursor over a log; replay and live are one path.

Pure: no sockets, no threads, no clock. The server feeds it commits, pages and the state of its sockets, and performs
what `pump` yields: `Write` a frame, or `Read` a page from the store. Only the pump moves a cursor, from the ring of
recent entries if they are there, else from a page. So a subscriber that stalls costs a cursor and nothing else, and
there is no hand-over between history and live that could lose or repeat anything. Used from one thread.

Positions order everything: a subscription holds the position of the last entry that it was given, and a ring holds
every entry of its log after the position `start`. An entry is taken from the ring if the cursor is not before `start`.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from commitcast.gateway import frames
from commitcast.gateway.ring import Feed, Ring, Rings
from commitcast.persistence.records import AgentDeletion, AgentRecord, Committed, Entry, MessageRecord, StatusChange
from commitcast.persistence.store import AgentPage, FeedPage

FRAME_ITEMS: Final = 512
FRAME_BYTES: Final = 64 * 1024
"""A `messages` frame ends with the item that passes either, so that other subscribers get their turn."""


class Subscriber:
    """One connection as the hub knows it."""

    def __init__(self, peer: Any) -> None:
        """Make a subscriber; `peer` is whatever the server needs to write to it."""
        self.peer = peer
        self.is_paused = False
        self.subscriptions: dict[str, Subscription] = {}


class Subscription:
    """A cursor over one agent's log, or over all."""

    __slots__ = ("acked", "agent", "checked", "cursor", "is_live", "position", "raw", "reading", "subscriber", "window")

    def __init__(
        self, subscriber: Subscriber, agent: str, cursor: int, position: int, raw: bool, window: int | None
    ) -> None:
        self.subscriber = subscriber
        self.agent = agent
        self.cursor = cursor
        """What the client's cursor is: a sequence, or for all agents a position."""
        self.position = position
        self.raw = raw
        self.window = window
        self.acked = cursor
        self.is_live = False
        self.reading = False
        self.checked = False
        """A page read at this position was the last one there."""

    @property
    def is_to_all(self) -> bool:
        """Whether it is to all agents."""
        return self.agent == frames.ALL

    @property
    def may_advance(self) -> bool:
        """Whether the socket takes more and the window is open."""
        open_window = self.window is None or self.cursor - self.acked < self.window
        return open_window and not self.reading and not self.subscriber.is_paused


class Write(msgspec.Struct, frozen=True):
    """Send a frame."""

    subscriber: Subscriber
    data: bytes


class Read(msgspec.Struct, frozen=True):
    """Read the page that follows the subscription's cursor, and give it to `Hub.page`."""

    subscription: Subscription


Effect = Write | Read


class Hub:
    """The subscriptions of one gateway."""

    def __init__(self, rings: Rings | None = None) -> None:
        self._rings = rings or Rings()
        self._feed = Feed()
        self._by_agent: dict[str, dict[Subscription, None]] = {}
        self._ready: dict[Subscription, None] = {}
        self._notes: list[Write] = []

    # What happens outside.

    def publish(self, committed: Committed) -> None:
        """Take what was committed. In any order over agents; in order for each agent, or with gaps."""
        subscriptions = self._by_agent.get(committed.agent)
        if subscriptions:
            self._rings.extend(committed)
            self._ready.update(subscriptions)
        to_all = self._by_agent.get(frames.ALL)
        if to_all and self._feed.add(committed):
            self._ready.update(to_all)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Tell an agent's subscribers that something was refused."""
        hearing = [*self._by_agent.get(agent, ()), *self._by_agent.get(frames.ALL, ())]
        if hearing:
            data = frames.encode(frames.Error(agent=agent, code=code, message=message, retry=retry))
            self._notes += [Write(subscription.subscriber, data) for subscription in hearing]

    def subscribe(
        self, subscriber: Subscriber, agent: str, *, cursor: int, position: int, raw: bool, window: int | None = None
    ) -> Subscription:
        """Begin a subscription, in place of one that the subscriber has to the same agent.

        Args:
            subscriber: whose it is.
            agent: an id, or `frames.ALL`.
            cursor: the client's: a sequence, or for all agents a position.
            position: of the last entry that the client has, as read from the store before this call.
            raw: whether it wants the producers' lines.
            window: how far it may be ahead of what the client has acknowledged.
        """
        self.unsubscribe(subscriber, agent)
        subscription = Subscription(subscriber, agent, cursor, position, raw, window)
        subscriber.subscriptions[agent] = subscription
        self._by_agent.setdefault(agent, {})[subscription] = None
        if subscription.is_to_all:
            self._feed.begin(position)
        self._ready[subscription] = None
        return subscription

    def unsubscribe(self, subscriber: Subscriber, agent: str) -> bool:
        """End a subscription; return whether there was one."""
        subscription = subscriber.subscriptions.pop(agent, None)
        if subscription is None:
            return False
        others = self._by_agent[agent]
        del others[subscription]
        self._ready.pop(subscription, None)
        if not others:
            del self._by_agent[agent]
            if agent == frames.ALL:
                self._feed = Feed()
            else:
                self._rings.drop(agent)
        return True

    def disconnect(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a connection that is gone."""
        for agent in list(subscriber.subscriptions):
            self.unsubscribe(subscriber, agent)

    def pause(self, subscriber: Subscriber) -> None:
        """The socket takes no more for now."""
        subscriber.is_paused = True

    def resume(self, subscriber: Subscriber) -> None:
        """The socket takes more again."""
        subscriber.is_paused = False
        self._ready.update(dict.fromkeys(subscriber.subscriptions.values()))

    def ack(self, subscriber: Subscriber, agent: str, cursor: int) -> None:
        """The client has processed everything up to a cursor."""
        subscription = subscriber.subscriptions.get(agent)
        if subscription is not None:
            subscription.acked = max(subscription.acked, min(cursor, subscription.cursor))
            self._ready[subscription] = None

    def page(self, subscription: Subscription, page: AgentPage | FeedPage) -> Iterator[Effect]:
        """Take a page that was read; yields its frames."""
        if subscription.subscriber.subscriptions.get(subscription.agent) is not subscription:
            return  # it was ended while the page was read
        subscription.reading = False
        subscription.checked = page.at_end
        start = 0
        while start < len(page.entries):
            data, used = _frame(subscription, page.entries, start)
            self._advance_to(subscription, page.entries[start : start + used])
            start += used
            if data is not None:
                yield Write(subscription.subscriber, data)
        if isinstance(page, FeedPage) and page.last > subscription.cursor:
            # The rest of the page was deleted: the cursor passes it, and the client's must too.
            empty = frames.Messages(agent=frames.ALL, prev=subscription.cursor, last=page.last, items=[])
            yield Write(subscription.subscriber, frames.encode(empty))
            subscription.cursor = subscription.position = page.last
        self._ready[subscription] = None

    def page_failed(self, subscription: Subscription) -> None:
        """The page could not be read now; it will be tried again with the next commit or `recheck`."""
        subscription.reading = False

    def recheck(self, heads: dict[str, int]) -> None:
        """Compare with the heads in the store: whoever is behind without knowing reads again."""
        for agent, head in heads.items():
            for subscription in self._by_agent.get(agent, ()):
                if subscription.cursor < head and not subscription.reading:
                    subscription.checked = False
                    self._ready[subscription] = None

    def repair(self) -> None:
        """Give up waiting for commits that never came: subscribers to all agents read them from the store."""
        if self._feed.skip_gap():
            self._ready.update(self._by_agent.get(frames.ALL, {}))

    @property
    def agents(self) -> list[str]:
        """The agents that somebody subscribes to."""
        return [agent for agent in self._by_agent if agent != frames.ALL]

    @property
    def has_caught_up(self) -> bool:
        """Whether every subscription has been given everything that the hub knows of."""
        return not self._notes and all(
            subscription.is_live
            and not subscription.reading
            and ((ring := self._ring_of(subscription)) is None or subscription.position >= ring.end)
            for subscriptions in self._by_agent.values()
            for subscription in subscriptions
        )

    # What follows from it.

    def pump(self) -> Iterator[Effect]:
        """Yield what is to be done now, in turns over the subscriptions. Perform each before taking the next."""
        while self._notes or self._ready:
            notes, self._notes = self._notes, []
            yield from notes
            ready, self._ready = self._ready, {}
            for subscription in ready:
                if subscription.may_advance and self._is_current(subscription):
                    yield from self._advance(subscription)

    def _is_current(self, subscription: Subscription) -> bool:
        return subscription.subscriber.subscriptions.get(subscription.agent) is subscription

    def _ring_of(self, subscription: Subscription) -> Ring | None:
        return self._feed.ring if subscription.is_to_all else self._rings.get(subscription.agent)

    def _advance(self, subscription: Subscription) -> Iterator[Effect]:
        ring = self._ring_of(subscription)
        if ring is not None and subscription.position >= ring.start:
            start = ring.index_after(subscription.position)
            if start < len(ring.entries):
                self._ready[subscription] = None
                yield from self._advance_in_ring(subscription, ring, start)
                return
        elif ring is not None or not subscription.checked:
            subscription.reading = True
            yield Read(subscription)
            return
        if not subscription.is_live and subscription.checked:
            subscription.is_live = True
            live = frames.Live(agent=subscription.agent, sequence=subscription.cursor)
            yield Write(subscription.subscriber, frames.encode(live))
        elif not subscription.checked:
            subscription.reading = True
            yield Read(subscription)

    def _advance_in_ring(self, subscription: Subscription, ring: Ring, start: int) -> Iterator[Effect]:
        key = (subscription.position, subscription.cursor, subscription.raw)
        cached = ring.frames.get(key)
        if cached is None:
            cached = ring.frames[key] = _frame(subscription, ring.entries, start)
        data, used = cached
        self._advance_to(subscription, ring.entries[start : start + used])
        if data is not None:
            yield Write(subscription.subscriber, data)

    def _advance_to(self, subscription: Subscription, entries: list[Entry]) -> None:
        subscription.position = entries[-1].position
        if subscription.is_to_all:
            subscription.cursor = subscription.position
        else:
            subscription.cursor += sum(isinstance(entry, MessageRecord) for entry in entries)


def _frame(subscription: Subscription, entries: list[Entry], start: int) -> tuple[bytes | None, int]:
    """Return the next frame for a cursor, and how many entries it covers. None: they need no frame."""
    first = entries[start]
    if isinstance(first, MessageRecord):
        return _messages(subscription, entries, start)
    prev = subscription.cursor if subscription.is_to_all else None
    if isinstance(first, StatusChange):
        last = None if prev is None else first.position
        return frames.encode(frames.status(first, prev=prev, last=last)), 1
    if prev is None:
        return None, 1
    return frames.encode(_agent_event(first, prev)), 1


def _messages(subscription: Subscription, entries: list[Entry], start: int) -> tuple[bytes, int]:
    items: list[frames.Item] = []
    size = 0
    for index in range(start, min(start + FRAME_ITEMS, len(entries))):
        entry = entries[index]
        if type(entry) is not MessageRecord:
            break
        items.append(frames.item(entry, raw=subscription.raw, with_agent=subscription.is_to_all))
        size += len(entry.content)
        if size >= FRAME_BYTES:
            break
    last = items[-1].position if subscription.is_to_all else items[-1].sequence
    assert last is not None
    frame = frames.Messages(agent=subscription.agent, prev=subscription.cursor, last=last, items=items)
    return frames.encode(frame), len(items)


def _agent_event(entry: AgentRecord | AgentDeletion, prev: int) -> frames.Agent:
    if isinstance(entry, AgentDeletion):
        return frames.Agent(agent=entry.agent, event="deleted", prev=prev, last=entry.position)
    return frames.Agent(
        agent=entry.id, event="created", record=frames.agent_view(entry), prev=prev, last=entry.position
    )
