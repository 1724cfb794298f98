"""The subscriptions of one gateway: replay and live are one path. Pure: no sockets, no threads, no clock.

The server feeds the hub with commits, pages and the state of its sockets, and performs the `effects` that follow. A
subscription is a cursor, not a queue (Centrifugo's recovery by offset and epoch works alike): only `effects` and `page`
move it, along the ring of recent entries if that continues the cursor, else along a page of the store. So a subscriber
that stalls costs a cursor and nothing else, and there is no hand-over between history and live that could lose or
repeat anything. `subscription` has the states. Used from one thread.

Positions order everything: a subscription holds the position of the last entry that it was given, and a ring holds
every entry of its log after the position `start`. A ring continues a cursor that is not before its `start`.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Final

import msgspec

from commitcast.gateway.hub.encoding import PreparedFrame, next_frame
from commitcast.gateway.hub.log import AllAgentsLog, FrameKey, NextFrame, Pacer, Ring, Rings
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.hub.subscription import ReadEvent, Subscriber, Subscription
from commitcast.gateway.protocol import frames
from commitcast.persistence.records import Committed, Entry, MessageRecord
from commitcast.persistence.store import AgentPage, FeedPage, Head

logger: Final = logging.getLogger(__name__)

MAX_PAGE_FRAMES: Final = 16
"""Frames that are kept of one page: more come only from subscribers with windows of many sizes."""


class Write(msgspec.Struct, frozen=True):
    """Send a frame."""

    subscriber: Subscriber
    frame: PreparedFrame
    is_shared: bool = False
    """It was encoded for another subscriber: it costs no more than the sending."""


class Read(msgspec.Struct, frozen=True):
    """Begin now to read the page that follows the subscription's cursor, and give it to `Hub.page`."""

    subscription: Subscription


class Skip(msgspec.Struct, frozen=True):
    """Read where the log ends, and give that to `Hub.skip`: the subscriber is slow and chose to skip."""

    subscription: Subscription


class Drop(msgspec.Struct, frozen=True):
    """Close the connection: the subscriber is slow and chose to be closed."""

    subscription: Subscription


Effect = Write | Read | Skip | Drop


class Hub:
    """The subscriptions of one gateway."""

    def __init__(
        self,
        rings: Rings | None = None,
        all_agents: AllAgentsLog | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.pacer = Pacer()
        """When what was committed is released to its subscribers."""
        self.on_audience: Callable[[bool], object] = lambda has_one: None
        """Called before the first subscription begins, and after the last one has ended."""
        self._rings = rings or Rings()
        self._all_agents = all_agents or AllAgentsLog()
        self._redactor = redactor or Redactor()
        self._by_agent: dict[str, dict[Subscription, None]] = {}
        self._ready: dict[Subscription, None] = {}
        self._failed: dict[Subscription, None] = {}
        self._notices: list[Write] = []

    # What happens outside.

    def publish(self, committed: Committed) -> None:
        """Take what was committed. In any order over agents; in order for each agent, or with gaps."""
        if self._by_agent.get(committed.agent):
            for agent, end in self._rings.extend(committed):
                self.mark_stale(agent, end)
            self.pacer.due.setdefault(committed.agent, committed.committed_ns)
        if frames.ALL in self._by_agent and self._all_agents.add(committed):
            self.pacer.due.setdefault(frames.ALL, committed.committed_ns)

    def is_followed(self, agent: str) -> bool:
        """Whether anybody subscribes to an agent, or to all. Any thread."""
        return agent in self._by_agent or frames.ALL in self._by_agent

    def make_ready(self, now: float) -> dict[str, int]:
        """Let subscribers be given what was committed, as far as the pacer allows it; return what it returns."""
        released = self.pacer.release(now)
        for log in released:
            self._ready.update(self._by_agent[log])
        return released

    def mark_stale(self, agent: str, position: int) -> None:
        """Note that entries up to a position are in the store and not here: subscriptions that lack them read them."""
        for subscription in self._by_agent.get(agent, ()):
            if subscription.position < position:
                self._read_again(subscription)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Send an agent's subscribers word of something that was refused; paused ones are left out."""
        subscriptions = [*self._by_agent.get(agent, ()), *self._by_agent.get(frames.ALL, ())]
        if subscriptions:
            frame = PreparedFrame(frames.Error(agent=agent, code=code, message=message, retry=retry))
            subscribers = dict.fromkeys(subscription.subscriber for subscription in subscriptions)
            self._notices += [Write(subscriber, frame) for subscriber in subscribers]

    def subscribe(self, subscription: Subscription) -> None:
        """Begin a subscription; it replaces one of the same subscriber to the same agent.

        Its `cursor` is the client's, and its `position` that of the last entry that the client has, as read from the
        store before this call.
        """
        agent = subscription.agent
        self.unsubscribe(subscription.subscriber, agent)
        if not self._by_agent:
            self.on_audience(True)
        subscription.subscriber.subscriptions[agent] = subscription
        self._by_agent.setdefault(agent, {})[subscription] = None
        if subscription.is_to_all:
            self._all_agents.begin(subscription.position)
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
            self.pacer.forget(agent)
            if agent == frames.ALL:
                self._all_agents.end()
            else:
                self._rings.drop(agent)
            if not self._by_agent:
                self.on_audience(False)
        return True

    def disconnect(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a connection."""
        for agent in list(subscriber.subscriptions):
            self.unsubscribe(subscriber, agent)

    def resume(self, subscriber: Subscriber) -> None:
        """Note that a subscriber's socket has room again, after `Subscriber.pause`."""
        subscriber.is_paused = False
        self._ready.update(dict.fromkeys(subscriber.subscriptions.values()))

    def ack(self, subscriber: Subscriber, agent: str, cursor: int) -> None:
        """The client has processed everything up to a cursor."""
        subscription = subscriber.subscriptions.get(agent)
        if subscription is not None:
            subscription.acked = max(subscription.acked, min(cursor, subscription.cursor))
            self._ready[subscription] = None

    def page(
        self, subscription: Subscription, page: AgentPage | FeedPage, kept: dict[FrameKey, NextFrame] | None = None
    ) -> Iterator[Effect]:
        """Take a page that was read; yield its frames.

        Args:
            subscription: that asked for it with `Read`.
            page: of its log, after its cursor.
            kept: frames of this page that were encoded for other subscriptions; those made now are added.
        """
        if not subscription.is_current:
            return  # it was ended while the page was read
        if isinstance(page, FeedPage) and page.at_end and self._all_agents.reach(page.last):
            self._ready.update(self._by_agent[frames.ALL])
        try:
            is_sent_whole = yield from self._send_page(subscription, page, {} if kept is None else kept)
        except Exception:  # see `effects`
            subscription.note(ReadEvent.READ_SOME)
            self._log_failure(subscription)
            return
        subscription.note(ReadEvent.READ_ALL if is_sent_whole and page.at_end else ReadEvent.READ_SOME)
        self._ready[subscription] = None

    def _send_page(
        self, subscription: Subscription, page: AgentPage | FeedPage, kept: dict[FrameKey, NextFrame]
    ) -> Generator[Effect, None, bool]:
        """Yield a page's frames as far as the window and the socket allow; return whether that was all of it."""
        start = 0
        while start < len(page.entries):
            if subscription.window_exhausted or subscription.subscriber.is_paused:
                return False  # the rest is read again when there is room: kept here, it would cost memory for each
            key = subscription.frame_key
            if key not in kept:
                if len(kept) >= MAX_PAGE_FRAMES:
                    kept.clear()
                kept[key] = next_frame(subscription, page.entries, start, self._redactor)
            frame, count = kept[key]
            start += count
            self._advance_to(subscription, page.entries[start - 1])
            if frame is not None:
                yield Write(subscription.subscriber, frame)
        if isinstance(page, FeedPage) and page.last > subscription.cursor:
            # The rest of the page was deleted: the cursor passes it, and so must the client's.
            empty = frames.Messages(agent=frames.ALL, prev=subscription.cursor, last=page.last, items=[])
            subscription.cursor = subscription.position = page.last
            yield Write(subscription.subscriber, PreparedFrame(empty))
        return True

    def skip(self, subscription: Subscription, cursor: int, position: int, status: str | None) -> Iterator[Effect]:
        """Continue at the end of the log, read for a `Skip`; yield the frame that says so.

        Its cursor, the position of the last entry, and the status of the agent, None for all agents.
        """
        if not subscription.is_current:
            return
        subscription.note(ReadEvent.READ_SOME)
        self._ready[subscription] = None
        if position <= subscription.position:
            return
        gap = frames.Gap(agent=subscription.agent, prev=subscription.cursor, last=cursor, status=status)
        subscription.cursor, subscription.position = cursor, position
        yield Write(subscription.subscriber, PreparedFrame(gap))

    def page_failed(self, subscription: Subscription) -> None:
        """Note that a page or an end could not be read; it is retried with the next commit, `recheck` or `repair`."""
        subscription.note(ReadEvent.READ_SOME)
        if subscription.is_current:
            self._failed[subscription] = None

    def recheck(self, heads: Mapping[str, Head]) -> None:
        """Compare with the heads in the store: subscriptions that are behind without knowing it read again.

        So do those to an agent without a head, to find that it was deleted.
        """
        for agent, subscriptions in self._by_agent.items():
            head = heads.get(agent)
            for subscription in subscriptions:
                if head is None or subscription.position < head.position:
                    self._read_again(subscription)

    def repair(self) -> None:
        """Stop waiting for commits that never arrived, and read again where a page could not be read."""
        if self._all_agents.skip_gap():
            self._ready.update(self._by_agent.get(frames.ALL, {}))
        self._ready.update(self._failed)
        self._failed.clear()

    def _read_again(self, subscription: Subscription) -> None:
        subscription.note(ReadEvent.MISS)
        self._ready[subscription] = None

    @property
    def agents(self) -> list[str]:
        """The agents with subscriptions of their own."""
        return [agent for agent in self._by_agent if agent != frames.ALL]

    def lags(self) -> list[int]:
        """Return for each subscription to one agent how many messages it is behind what is known here."""
        lags = []
        for agent in self.agents:
            ring = self._rings.get(agent)
            last = 0 if ring is None else ring.last_sequence
            lags += [max(0, last - subscription.cursor) for subscription in self._by_agent[agent]]
        return lags

    @property
    def has_caught_up(self) -> bool:
        """Whether every subscription has been given everything that the hub knows of."""
        return (
            not self._notices
            and not self.pacer.due
            and all(
                subscription.is_live
                and subscription.at_store_head
                and ((ring := self._ring_of(subscription)) is None or subscription.position >= ring.end)
                for subscriptions in self._by_agent.values()
                for subscription in subscriptions
            )
        )

    # What follows from it.

    def effects(self) -> Iterator[Effect]:
        """Yield what is to be done now, in turns over the subscriptions. Perform each before taking the next."""
        while self._notices or self._ready:
            notices, self._notices = self._notices, []
            for notice in notices:
                if not notice.subscriber.is_paused and notice.subscriber.subscriptions:
                    yield notice
            ready, self._ready = self._ready, {}
            for subscription in ready:
                if subscription.is_ready:
                    try:
                        effect = self._advance(subscription)
                    except Exception:  # what kept one frame from being made must not keep others from theirs
                        subscription.note(ReadEvent.MISS)
                        self._log_failure(subscription)
                    else:
                        if effect is not None:
                            yield effect
                elif subscription.window_exhausted:
                    subscription.hold()

    def _log_failure(self, subscription: Subscription) -> None:
        """Log why there was no frame; it is tried again with the next commit or `recheck`."""
        agent, cursor = subscription.agent, subscription.cursor
        logger.exception("no frame could be made for a subscriber to %s after %s", agent, cursor)

    def _ring_of(self, subscription: Subscription) -> Ring | None:
        return self._all_agents.ring if subscription.is_to_all else self._rings.get(subscription.agent)

    def _advance(self, subscription: Subscription) -> Effect | None:
        ring = self._ring_of(subscription)
        is_before_ring = ring is not None and (
            subscription.position < ring.start
            or (ring.epoch != subscription.epoch and not subscription.is_to_all)  # of an earlier agent with its id
        )
        if ring is not None and not is_before_ring and subscription.position < ring.end:
            return self._take_from_ring(subscription, ring)
        if is_before_ring and subscription.is_slow and subscription.slow == "close":
            subscription.note(ReadEvent.DROP)
            return Drop(subscription)
        if is_before_ring and subscription.is_slow and subscription.slow == "skip":
            subscription.note(ReadEvent.ASK)
            return Skip(subscription)
        if is_before_ring or not subscription.at_store_head:
            subscription.note(ReadEvent.ASK)
            return Read(subscription)
        if subscription.catch_up():
            live = frames.Live(agent=subscription.agent, sequence=subscription.cursor)
            return Write(subscription.subscriber, PreparedFrame(live))
        return None

    def _take_from_ring(self, subscription: Subscription, ring: Ring) -> Write | None:
        start = bisect_right(ring.positions, subscription.position)
        key = subscription.frame_key
        kept = ring.frames.get(key)
        is_shared = kept is not None
        if kept is None:
            kept = next_frame(subscription, ring.entries, start, self._redactor)
            if subscription.is_to_all:
                ring.keep(key, kept)
            else:
                self._rings.keep(subscription.agent, key, kept)
        frame, count = kept
        self._advance_to(subscription, ring.entries[start + count - 1])
        if subscription.position < ring.end or not subscription.keep_up():
            self._ready[subscription] = None
        return None if frame is None else Write(subscription.subscriber, frame, is_shared)

    def _advance_to(self, subscription: Subscription, entry: Entry) -> None:
        subscription.position = entry.position
        if subscription.is_to_all:
            subscription.cursor = entry.position
        elif isinstance(entry, MessageRecord):
            subscription.cursor = entry.sequence
