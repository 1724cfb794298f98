"""Who hears what: subscriptions, each a cursor over a log; replay and live are one path.

Pure: no sockets, no threads, no clock. The server feeds it commits, pages and the state of its sockets, and performs
what `pump` yields: `Write` a frame, or `Read` a page from the store. Only the pump moves a cursor, from the ring of
recent entries if they are there, else from a page. So a subscriber that stalls costs a cursor and nothing else, and
there is no hand-over between history and live that could lose or repeat anything. Used from one thread.

Positions order everything: a subscription holds the position of the last entry that it was given, and a ring holds
every entry of its log after the position `start`. An entry is taken from the ring if the cursor is not before `start`.
"""

import logging
from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from commitcast.gateway import frames, views
from commitcast.gateway.ring import Feed, Ring, Rings
from commitcast.persistence.records import AgentDeletion, AgentRecord, Committed, Entry, MessageRecord, StatusChange
from commitcast.persistence.store import AgentPage, FeedPage

logger: Final = logging.getLogger(__name__)

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

    __slots__ = (
        "acked",
        "agent",
        "checked",
        "cursor",
        "has_ended",
        "is_live",
        "position",
        "raw",
        "reading",
        "rechecked",
        "subscriber",
        "window",
    )

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
        self.has_ended = False
        """It was given the agent's terminal status."""
        self.reading = False
        self.checked = False
        """Nothing is known to be in the store beyond what was read, or is being read."""
        self.rechecked = -1
        """The position at the last recheck."""

    @property
    def is_to_all(self) -> bool:
        """Whether it is to all agents."""
        return self.agent == frames.ALL

    @property
    def room(self) -> int:
        """How many messages the next frame may have: no more than the window takes."""
        return FRAME_ITEMS if self.window is None else min(FRAME_ITEMS, self.window - self.cursor + self.acked)

    @property
    def may_advance(self) -> bool:
        """Whether the socket takes more and the window is open."""
        return self.room > 0 and not self.reading and not self.subscriber.is_paused


class Write(msgspec.Struct, frozen=True):
    """Send a frame."""

    subscriber: Subscriber
    data: bytes


class Read(msgspec.Struct, frozen=True):
    """Read the page that follows the subscription's cursor, after this and not before, and give it to `Hub.page`."""

    subscription: Subscription


Effect = Write | Read


class Hub:
    """The subscriptions of one gateway."""

    def __init__(self, rings: Rings | None = None, feed: Feed | None = None) -> None:
        self._rings = rings or Rings()
        self._feed = feed or Feed()
        self._by_agent: dict[str, dict[Subscription, None]] = {}
        self._ready: dict[Subscription, None] = {}
        self._failed: dict[Subscription, None] = {}
        self._notes: list[Write] = []

    # What happens outside.

    def publish(self, committed: Committed) -> None:
        """Take what was committed. In any order over agents; in order for each agent, or with gaps."""
        subscriptions = self._by_agent.get(committed.agent)
        if subscriptions:
            for agent, end in self._rings.extend(committed):
                self.miss(agent, end)
            self._ready.update(subscriptions)
        to_all = self._by_agent.get(frames.ALL)
        if to_all and self._feed.add(committed):
            self._ready.update(to_all)

    def miss(self, agent: str, position: int) -> None:
        """Entries up to a position are in the store and not here: who does not have them reads them."""
        for subscription in self._by_agent.get(agent, ()):
            if subscription.position < position:
                self._look_again(subscription)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Tell an agent's subscribers that something was refused; those who take nothing now are not told."""
        hearing = [*self._by_agent.get(agent, ()), *self._by_agent.get(frames.ALL, ())]
        if hearing:
            data = frames.encode(frames.Error(agent=agent, code=code, message=message, retry=retry))
            subscribers = dict.fromkeys(subscription.subscriber for subscription in hearing)
            self._notes += [Write(subscriber, data) for subscriber in subscribers]

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
        self._failed.pop(subscription, None)
        if not others:
            del self._by_agent[agent]
            if agent == frames.ALL:
                self._feed.end()
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
        if not self.is_current(subscription):
            return  # it was ended while the page was read
        subscription.reading = False
        if isinstance(page, FeedPage) and page.at_end and self._feed.reach(page.last):
            self._ready.update(self._by_agent[frames.ALL])
        try:
            given = yield from self._give(subscription, page)
        except Exception:  # see `pump`
            self._log_failure(subscription)
            return
        subscription.checked = subscription.checked and given and page.at_end
        self._ready[subscription] = None

    def _give(self, subscription: Subscription, page: AgentPage | FeedPage) -> Generator[Effect, None, bool]:
        """Yield a page's frames as far as the window takes them; return whether that was all."""
        start = 0
        while start < len(page.entries):
            if subscription.room <= 0:
                return False
            data, used = _frame(subscription, page.entries, start)
            start += used
            self._advance_to(subscription, page.entries[start - 1])
            if data is not None:
                yield Write(subscription.subscriber, data)
        if isinstance(page, FeedPage) and page.last > subscription.cursor:
            # The rest of the page was deleted: the cursor passes it, and the client's must too.
            empty = frames.Messages(agent=frames.ALL, prev=subscription.cursor, last=page.last, items=[])
            subscription.cursor = subscription.position = page.last
            yield Write(subscription.subscriber, frames.encode(empty))
        return True

    def page_failed(self, subscription: Subscription) -> None:
        """The page could not be read now; it will be tried again with the next commit, `recheck` or `repair`."""
        subscription.reading = subscription.checked = False
        if self.is_current(subscription):
            self._failed[subscription] = None

    def recheck(self, heads: dict[str, int]) -> None:
        """Compare with the heads in the store: whoever is behind without knowing reads again.

        A head says nothing of a change of status. So whoever has been given nothing since the last recheck, and not
        the agent's end, reads again too.
        """
        for agent, head in heads.items():
            for subscription in self._by_agent.get(agent, ()):
                is_idle = subscription.rechecked == subscription.position
                subscription.rechecked = subscription.position
                may_lack_status = is_idle and not subscription.has_ended and not subscription.is_to_all
                if subscription.cursor < head or may_lack_status:
                    self._look_again(subscription)

    def repair(self) -> None:
        """Give up waiting for commits that never came, and read again what could not be read."""
        if self._feed.skip_gap():
            self._ready.update(self._by_agent.get(frames.ALL, {}))
        self._ready.update(self._failed)
        self._failed.clear()

    def _look_again(self, subscription: Subscription) -> None:
        subscription.checked = False
        self._ready[subscription] = None

    @property
    def agents(self) -> list[str]:
        """The agents that somebody subscribes to."""
        return [agent for agent in self._by_agent if agent != frames.ALL]

    @property
    def has_caught_up(self) -> bool:
        """Whether every subscription has been given everything that the hub knows of."""
        return not self._notes and all(
            subscription.is_live
            and subscription.checked
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
            yield from (note for note in notes if not note.subscriber.is_paused and note.subscriber.subscriptions)
            ready, self._ready = self._ready, {}
            for subscription in ready:
                if subscription.may_advance and self.is_current(subscription):
                    try:
                        yield from self._advance(subscription)
                    except Exception:  # whatever kept one frame from being made must not keep others from theirs
                        self._log_failure(subscription)

    def is_current(self, subscription: Subscription) -> bool:
        """Whether it was neither ended nor replaced."""
        return subscription.subscriber.subscriptions.get(subscription.agent) is subscription

    def _log_failure(self, subscription: Subscription) -> None:
        """Say why there was no frame; it is tried again with the next commit or `recheck`."""
        subscription.checked = False
        agent, cursor = subscription.agent, subscription.cursor
        logger.exception("no frame could be made for a subscriber to %s after %s", agent, cursor)

    def _ring_of(self, subscription: Subscription) -> Ring | None:
        return self._feed.ring if subscription.is_to_all else self._rings.get(subscription.agent)

    def _advance(self, subscription: Subscription) -> Iterator[Effect]:
        ring = self._ring_of(subscription)
        is_before_ring = ring is not None and subscription.position < ring.start
        if ring is not None and not is_before_ring:
            start = ring.index_after(subscription.position)
            if start < len(ring.entries):
                yield from self._advance_in_ring(subscription, ring, start)
                return
        if is_before_ring or not subscription.checked:
            subscription.reading = subscription.checked = True
            yield Read(subscription)
        elif not subscription.is_live:
            subscription.is_live = True
            live = frames.Live(agent=subscription.agent, sequence=subscription.cursor)
            yield Write(subscription.subscriber, frames.encode(live))

    def _advance_in_ring(self, subscription: Subscription, ring: Ring, start: int) -> Iterator[Effect]:
        key = (subscription.position, subscription.cursor, subscription.raw, subscription.room)
        made = ring.frames.get(key)
        if made is None:
            made = _frame(subscription, ring.entries, start)
            ring.keep(key, made)
        data, used = made
        self._advance_to(subscription, ring.entries[start + used - 1])
        self._ready[subscription] = None
        if data is not None:
            yield Write(subscription.subscriber, data)

    def _advance_to(self, subscription: Subscription, entry: Entry) -> None:
        subscription.position = entry.position
        if subscription.is_to_all:
            subscription.cursor = entry.position
        elif isinstance(entry, MessageRecord):
            subscription.cursor = entry.sequence
        elif isinstance(entry, StatusChange):
            subscription.has_ended = entry.status.is_terminal


def _frame(subscription: Subscription, entries: list[Entry], start: int) -> tuple[bytes | None, int]:
    """Return the next frame for a cursor, and how many entries it covers. None: they need no frame."""
    first = entries[start]
    if isinstance(first, MessageRecord):
        return _messages(subscription, entries, start)
    prev = subscription.cursor if subscription.is_to_all else None
    if isinstance(first, StatusChange):
        last = None if prev is None else first.position
        return frames.encode(views.status(first, prev=prev, last=last)), 1
    if prev is None:
        return None, 1
    return frames.encode(_agent_event(first, prev)), 1


def _messages(subscription: Subscription, entries: list[Entry], start: int) -> tuple[bytes, int]:
    items: list[frames.Item] = []
    size = 0
    raw, to_all, item = subscription.raw, subscription.is_to_all, views.item
    for entry in entries[start : start + subscription.room]:  # not islice, which walks there from the beginning
        if type(entry) is not MessageRecord:
            break
        items.append(item(entry, raw=raw, with_agent=to_all))
        size += len(entry.content)
        if entry.metadata_json is not None:
            size += len(entry.metadata_json)
        if raw and entry.raw is not None:
            size += len(entry.raw)
        if size >= FRAME_BYTES:
            break
    last = items[-1].position if to_all else items[-1].sequence
    assert last is not None
    frame = frames.Messages(agent=subscription.agent, prev=subscription.cursor, last=last, items=items)
    return frames.encode(frame), len(items)


def _agent_event(entry: AgentRecord | AgentDeletion, prev: int) -> frames.Agent:
    if isinstance(entry, AgentDeletion):
        return frames.Agent(agent=entry.agent, event="deleted", prev=prev, last=entry.position)
    return frames.Agent(agent=entry.id, event="created", record=views.agent_view(entry), prev=prev, last=entry.position)
