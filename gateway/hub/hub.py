"""Who hears what: subscriptions, each a cursor over a log; replay and live are one path.

Pure: no sockets, no threads, no clock. The server feeds it commits, pages and the state of its sockets, and performs
what `pump` yields: `Write` a frame, or `Read` a page from the store. Only the pump moves a cursor, from the ring of
recent entries if they are there, else from a page. So a subscriber that stalls costs a cursor and nothing else, and
there is no hand-over between history and live that could lose or repeat anything. Used from one thread.

Positions order everything: a subscription holds the position of the last entry that it was given, and a ring holds
every entry of its log after the position `start`. An entry is taken from the ring if the cursor is not before `start`.
"""

import logging
import math
from collections.abc import Generator, Iterator, Mapping
from typing import Final

import msgspec

from commitcast.gateway.hub.compose import next_frame
from commitcast.gateway.hub.log import Feed, FrameKey, Made, Ring, Rings
from commitcast.gateway.hub.prepared import PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.protocol import frames
from commitcast.persistence.records import Committed, Entry, MessageRecord
from commitcast.persistence.store import AgentPage, FeedPage, Head

logger: Final = logging.getLogger(__name__)

MADE_OF_PAGE: Final = 16
"""Frames that are kept of one page: more come only from subscribers with windows of many sizes."""


class Write(msgspec.Struct, frozen=True):
    """Send a frame."""

    subscriber: Subscriber
    frame: PreparedFrame
    is_shared: bool = False
    """It was made for another subscriber already: sending it is all that it costs."""


class Read(msgspec.Struct, frozen=True):
    """Read the page that follows the subscription's cursor, after this and not before, and give it to `Hub.page`."""

    subscription: Subscription


class Skip(msgspec.Struct, frozen=True):
    """Read where the log ends, and give that to `Hub.skip`: the subscriber is slow and asked for it."""

    subscription: Subscription


class Drop(msgspec.Struct, frozen=True):
    """Close the connection: the subscriber is slow and asked for it."""

    subscription: Subscription


Effect = Write | Read | Skip | Drop


class Hub:
    """The subscriptions of one gateway."""

    def __init__(self, rings: Rings | None = None, feed: Feed | None = None) -> None:
        self._rings = rings or Rings()
        self._feed = feed or Feed()
        self._by_agent: dict[str, dict[Subscription, None]] = {}
        self._due: dict[str, int] = {}
        self._released: dict[str, float] = {}
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
            self._due.setdefault(committed.agent, committed.committed_ns)
        if frames.ALL in self._by_agent and self._feed.add(committed):
            self._due.setdefault(frames.ALL, committed.committed_ns)

    @property
    def has_due(self) -> bool:
        """Whether something was committed that is not released to its subscribers yet."""
        return bool(self._due)

    def release(self, now: float, *, quiet_since: float = math.inf) -> dict[str, int]:
        """Let subscribers be given what was committed.

        Args:
            now: of any clock that goes forward, in seconds.
            quiet_since: only of the agents of which nothing was released after this.

        Returns:
            Of what agents, each with the time of its oldest commit.
        """
        released = self._due
        if quiet_since < now:
            released = {
                agent: since for agent, since in released.items() if self._released.get(agent, -math.inf) <= quiet_since
            }
        self._due = {agent: since for agent, since in self._due.items() if agent not in released}
        for agent in released:
            subscriptions = self._by_agent.get(agent)
            if subscriptions:
                self._released[agent] = now
                self._ready.update(subscriptions)
        return released

    def miss(self, agent: str, position: int) -> None:
        """Entries up to a position are in the store and not here: who does not have them reads them."""
        for subscription in self._by_agent.get(agent, ()):
            if subscription.position < position:
                self._look_again(subscription)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Tell an agent's subscribers that something was refused; those who take nothing now are not told."""
        hearing = [*self._by_agent.get(agent, ()), *self._by_agent.get(frames.ALL, ())]
        if hearing:
            frame = PreparedFrame(frames.Error(agent=agent, code=code, message=message, retry=retry))
            subscribers = dict.fromkeys(subscription.subscriber for subscription in hearing)
            self._notes += [Write(subscriber, frame) for subscriber in subscribers]

    def subscribe(self, subscription: Subscription) -> None:
        """Begin a subscription, in place of one that its subscriber has to the same agent.

        Its `cursor` is the client's, and its `position` that of the last entry that the client has, as read from the
        store before this call.
        """
        agent = subscription.agent
        self.unsubscribe(subscription.subscriber, agent)
        subscription.subscriber.subscriptions[agent] = subscription
        self._by_agent.setdefault(agent, {})[subscription] = None
        if subscription.is_to_all:
            self._feed.begin(subscription.position)
        self._ready[subscription] = None

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
            self._released.pop(agent, None)
            self._due.pop(agent, None)
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
        subscriber.pauses += 1

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

    def page(
        self, subscription: Subscription, page: AgentPage | FeedPage, made: dict[FrameKey, Made] | None = None
    ) -> Iterator[Effect]:
        """Take a page that was read; yields its frames. Those in `made` need not be made again."""
        if not subscription.is_current:
            return  # it was ended while the page was read
        subscription.reading = False
        if isinstance(page, FeedPage) and page.at_end and self._feed.reach(page.last):
            self._ready.update(self._by_agent[frames.ALL])
        try:
            given = yield from self._give(subscription, page, {} if made is None else made)
        except Exception:  # see `pump`
            self._log_failure(subscription)
            return
        subscription.checked = subscription.checked and given and page.at_end
        self._ready[subscription] = None

    def _give(
        self, subscription: Subscription, page: AgentPage | FeedPage, made: dict[FrameKey, Made]
    ) -> Generator[Effect, None, bool]:
        """Yield a page's frames as far as the window takes them; return whether that was all."""
        start = 0
        while start < len(page.entries):
            if subscription.room <= 0 or subscription.subscriber.is_paused:
                return False  # the rest is read again when there is room for it: it would wait here for each of many
            key = subscription.frame_key
            if key not in made:
                if len(made) >= MADE_OF_PAGE:
                    made.clear()
                made[key] = next_frame(subscription, page.entries, start)
            frame, used = made[key]
            start += used
            self._advance_to(subscription, page.entries[start - 1])
            if frame is not None:
                yield Write(subscription.subscriber, frame)
        if isinstance(page, FeedPage) and page.last > subscription.cursor:
            # The rest of the page was deleted: the cursor passes it, and the client's must too.
            empty = frames.Messages(agent=frames.ALL, prev=subscription.cursor, last=page.last, items=[])
            subscription.cursor = subscription.position = page.last
            yield Write(subscription.subscriber, PreparedFrame(empty))
        return True

    def skip(self, subscription: Subscription, cursor: int, position: int, status: str | None) -> Iterator[Effect]:
        """Go on at the end of the log, as it was just read; yields the frame that says so."""
        if not subscription.is_current:
            return
        subscription.reading = False
        self._ready[subscription] = None
        if position <= subscription.position:
            return
        gap = frames.Gap(agent=subscription.agent, prev=subscription.cursor, last=cursor, status=status)
        subscription.cursor, subscription.position = cursor, position
        subscription.checked = False
        yield Write(subscription.subscriber, PreparedFrame(gap))

    def page_failed(self, subscription: Subscription) -> None:
        """The page could not be read now; it will be tried again with the next commit, `recheck` or `repair`."""
        subscription.reading = subscription.checked = False
        if subscription.is_current:
            self._failed[subscription] = None

    def recheck(self, heads: Mapping[str, Head]) -> None:
        """Compare with the heads in the store: whoever is behind without knowing reads again.

        So does who subscribes to what has no head, to find that it is gone.
        """
        for agent, subscriptions in self._by_agent.items():
            head = heads.get(agent)
            for subscription in subscriptions:
                if head is None or subscription.position < head.position:
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

    def lags(self) -> list[int]:
        """Return of each subscription to one agent how many messages are known here that it was not given."""
        lags = []
        for agent, subscriptions in self._by_agent.items():
            ring = self._rings.get(agent)
            last = None if ring is None else ring.last_sequence
            if last is not None:
                lags += [max(0, last - subscription.cursor) for subscription in subscriptions]
            elif agent != frames.ALL:
                lags += [0] * len(subscriptions)
        return lags

    @property
    def has_caught_up(self) -> bool:
        """Whether every subscription has been given everything that the hub knows of."""
        return (
            not self._notes
            and not self._due
            and all(
                subscription.is_live
                and subscription.checked
                and not subscription.reading
                and ((ring := self._ring_of(subscription)) is None or subscription.position >= ring.end)
                for subscriptions in self._by_agent.values()
                for subscription in subscriptions
            )
        )

    # What follows from it.

    def pump(self) -> Iterator[Effect]:
        """Yield what is to be done now, in turns over the subscriptions. Perform each before taking the next."""
        while self._notes or self._ready:
            notes, self._notes = self._notes, []
            yield from (note for note in notes if not note.subscriber.is_paused and note.subscriber.subscriptions)
            ready, self._ready = self._ready, {}
            for subscription in ready:
                if subscription.may_advance and subscription.is_current:
                    try:
                        yield from self._advance(subscription)
                    except Exception:  # whatever kept one frame from being made must not keep others from theirs
                        self._log_failure(subscription)
                elif subscription.room <= 0:
                    subscription.is_held = True

    def _log_failure(self, subscription: Subscription) -> None:
        """Say why there was no frame; it is tried again with the next commit or `recheck`."""
        subscription.checked = False
        agent, cursor = subscription.agent, subscription.cursor
        logger.exception("no frame could be made for a subscriber to %s after %s", agent, cursor)

    def _ring_of(self, subscription: Subscription) -> Ring | None:
        return self._feed.ring if subscription.is_to_all else self._rings.get(subscription.agent)

    def _advance(self, subscription: Subscription) -> Iterator[Effect]:
        ring = self._ring_of(subscription)
        is_another = ring is not None and not subscription.is_to_all and ring.epoch != subscription.epoch
        is_before_ring = ring is not None and (is_another or subscription.position < ring.start)
        if ring is not None and not is_before_ring:
            start = ring.index_after(subscription.position)
            if start < len(ring.entries):
                write = self._take_from_ring(subscription, ring, start)
                if write is not None:
                    yield write
                return
        if is_before_ring and subscription.is_slow and subscription.slow != "catch_up":
            subscription.reading = True
            yield Skip(subscription) if subscription.slow == "skip" else Drop(subscription)
        elif is_before_ring or not subscription.checked:
            subscription.reading = subscription.checked = True
            yield Read(subscription)
        else:
            is_new = not subscription.is_live
            subscription.caught_up()
            if is_new:
                live = frames.Live(agent=subscription.agent, sequence=subscription.cursor)
                yield Write(subscription.subscriber, PreparedFrame(live))

    def _take_from_ring(self, subscription: Subscription, ring: Ring, start: int) -> Write | None:
        key = subscription.frame_key
        made = ring.frames.get(key)
        is_shared = made is not None
        if made is None:
            made = next_frame(subscription, ring.entries, start)
            if subscription.is_to_all:
                ring.keep(key, made)
            else:
                self._rings.keep(subscription.agent, key, made)
        frame, used = made
        self._advance_to(subscription, ring.entries[start + used - 1])
        if subscription.is_live and subscription.checked and start + used == len(ring.entries):
            subscription.caught_up()
        else:
            self._ready[subscription] = None
        return None if frame is None else Write(subscription.subscriber, frame, is_shared)

    def _advance_to(self, subscription: Subscription, entry: Entry) -> None:
        subscription.position = entry.position
        if subscription.is_to_all:
            subscription.cursor = entry.position
        elif isinstance(entry, MessageRecord):
            subscription.cursor = entry.sequence
