"""Every order of events that the hub can meet, found by hypothesis, over a real store in memory.

Commits reach the hub late, out of order over agents, or never; pages are read at one moment and arrive at another;
sockets stall, windows close, connections drop and come back after the client's cursor. Whatever happens, no subscriber
sees a gap, a repeat or a status before its message, and in the end each has everything exactly once.

COMMITCAST_EXAMPLES sets how many orders are tried.
"""

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from commitcast.gateway.hub.hub import Drop, Effect, Hub, Read, Write
from commitcast.gateway.hub.log import MAX_DEBT_S, REST, AllAgentsLog, Rings
from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.protocol import decoding, frames
from commitcast.persistence.records import AgentStatus, Committed, MessageRecord, StatusChange
from commitcast.persistence.store import AgentPage, FeedPage, Head
from examples import examples
from stores import COMPLETED, FAILED, INITIALIZING, RUNNING, change, commit, new_agent, of, opened, proof, text
from subscribers import Follower, raw_bytes

EXAMPLES: Final = examples(100, 300)
STEPS: Final = 30
AGENTS: Final = ("a", "b")
CLIENTS: Final = 3

agents = st.sampled_from(AGENTS)
logs = st.sampled_from((*AGENTS, frames.ALL))
clients = st.integers(0, CLIENTS - 1)
picks = st.integers(0, 100)
subscriptions = st.tuples(
    logs,
    st.just(0) | st.integers(0, 6) | st.just("tail"),
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.sampled_from(["catch_up", "catch_up", "skip", "close"]),
)
texts = st.lists(st.sampled_from(["x", "yy", "z" * 300, "ü" * 40]), min_size=1, max_size=4)
FATES: Final = ("heard", "heard", "heard", "repeated", "dropped", "lost")
NEXT: Final = {INITIALIZING: (RUNNING, FAILED), RUNNING: (COMPLETED, FAILED)}


class Standing:
    """What a client has of one subscription, over all its connections."""

    def __init__(self, agent: str, after: int, raw: bool, window: int | None, slow: frames.SlowPolicy) -> None:
        self.begin = after
        self.raw = raw
        self.window = window
        self.slow = slow
        self.gaps: list[frames.Gap] = []
        self.items: list[frames.Item] = []
        self.changes: dict[tuple[str, str], int] = {}
        self.follower = Follower(agent, after)
        self.acked = after

    @property
    def cursor(self) -> int:
        """Where the client stands."""
        return self.follower.cursor

    def connect(self, head: int) -> None:
        """Begin to follow again, after the cursor."""
        self.follower = Follower(self.follower.agent, self.cursor, head)
        self.acked = self.cursor

    def take(self, frame: frames.ServerFrame) -> None:
        """Apply the client's rule, and keep what is new."""
        self.follower.take(frame)
        if isinstance(frame, frames.Gap):
            assert self.slow == "skip", "a gap that was not asked for"
            self.gaps.append(frame)
            return
        assert self.window is None or self.cursor - self.acked <= self.window, "further than the window"
        if isinstance(frame, frames.Messages):
            self.items += frame.items
        elif isinstance(frame, frames.Status):
            self.changes[frame.agent, frame.status] = frame.sequence

    def has_skipped(self, cursor: int) -> bool:
        """Whether it was told that this is left out."""
        return any(gap.prev < cursor <= gap.last for gap in self.gaps)

    def may_have_skipped_change(self, sequence: int) -> bool:
        """Whether a change of status after this message may be left out."""
        return any(gap.prev <= sequence <= gap.last for gap in self.gaps)


class Client:
    """One client, over all its connections."""

    def __init__(self) -> None:
        self.subscriber = Subscriber(self)
        self.standings: dict[str, Standing] = {}
        self.takes_gap = False
        """A gap is written whatever the socket says: it is small, and is not read twice."""

    def write(self, subscriber: Subscriber, data: bytes) -> None:
        """Take a frame as its socket would."""
        assert self.takes_gap or not subscriber.is_paused, "written to a socket that takes no more"
        frame = decoding.decode_server(data)
        assert subscriber is self.subscriber or isinstance(frame, frames.Error), "written to a socket that is gone"
        match frame:
            case frames.Error():
                return
            case (
                frames.Messages(agent=agent)
                | frames.Gap(agent=agent)
                | frames.Live(agent=agent)
                | frames.Status(agent=agent, last=None)
            ):
                log = agent
            case frames.Status() | frames.Agent():
                log = frames.ALL
            case _:
                raise AssertionError(frame)
        assert log in subscriber.subscriptions, "written to a subscription that was ended"
        self.standings[log].take(frame)


class HubMachine(RuleBasedStateMachine):
    """The hub, its store, and everything that can come between."""

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        self.store = self.open.enter_context(opened(":memory:"))
        self.hub = Hub()
        self.clients = [Client() for _ in range(CLIENTS)]
        self.status: dict[str, AgentStatus] = {}
        self.notices: dict[str, deque[Committed]] = {agent: deque() for agent in AGENTS}
        self.reads: list[Subscription] = []
        self.pages: list[tuple[Subscription, AgentPage | FeedPage]] = []
        self.skips: list[Subscription] = []
        self.ends: list[tuple[Subscription, int, int, str | None]] = []
        self.now = 0.0
        self.effects: Iterator[Effect] | None = None
        self.unheard: set[str] = set()
        """The logs of which something was lost that only a recheck or a repair can find."""

    def teardown(self) -> None:
        """Bring it to rest: everybody has everything, exactly once."""
        with self.open:
            if sys.exc_info()[0] is None:  # else a step has failed already
                self.settle()
                self.check()

    @initialize(
        ring_bytes=st.sampled_from([1, 600, 1_200, 2_500, 100_000]),
        rings=st.sampled_from([1, 2, 8]),
        feed_bytes=st.sampled_from([1, 1_200, 5_000, 100_000]),
        contents=st.lists(st.just([]) | texts, min_size=len(AGENTS), max_size=len(AGENTS)),
        subscriptions=st.lists(subscriptions, min_size=CLIENTS, max_size=CLIENTS),
        is_served=st.booleans(),
    )
    def begin(
        self,
        ring_bytes: int,
        rings: int,
        feed_bytes: int,
        contents: list[list[str]],
        subscriptions: list[tuple[str, Any, bool, int | None, frames.SlowPolicy]],
        is_served: bool,
    ) -> None:
        self.hub = Hub(Rings(ring_bytes, ring_bytes * rings), AllAgentsLog(feed_bytes))
        for agent, said in zip(AGENTS, contents, strict=True):
            self.create(agent, said)
        for number, subscription in enumerate(subscriptions):
            self.subscribe(number, subscription, again=False)
        if is_served:
            self.serve()

    # The world.

    @rule(agent=agents, contents=st.just([]) | texts)
    def create(self, agent: str, contents: list[str]) -> None:
        if agent not in self.status:
            self.status[agent] = INITIALIZING
            self.notices[agent].append(proof(commit(self.store, agent, new_agent(*contents))))

    @rule(agent=agents, contents=texts, raw=st.booleans(), status=st.integers(-1, 1))
    def append(self, agent: str, contents: list[str], raw: bool, status: int) -> None:
        if agent not in self.status:
            return
        writes: list[Any] = [text(content, raw=b"\xff" + content.encode() if raw else None) for content in contents]
        if status >= 0 and self.status[agent] in NEXT:
            following = NEXT[self.status[agent]][status]
            writes.insert(len(contents) // 2 + status, change(self.status[agent], following))
            self.status[agent] = following
        self.notices[agent].append(proof(commit(self.store, agent, *writes)))

    @rule(agent=agents, which=st.integers(0, 1))
    def change_status(self, agent: str, which: int) -> None:
        if self.status.get(agent) in NEXT:
            following = NEXT[self.status[agent]][which]
            self.notices[agent].append(proof(commit(self.store, agent, change(self.status[agent], following))))
            self.status[agent] = following

    @rule(contents=texts)
    def append_to_all(self, contents: list[str]) -> None:
        work = [of(agent, *map(text, contents)) for agent in self.status]
        if work:
            for agent, outcome in zip(self.status, self.store.commit(work), strict=True):
                self.notices[agent].append(proof(outcome))

    # The way of the commits.

    @rule(agent=agents, fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=4))
    def deliver(self, agent: str, fates: list[str]) -> None:
        for fate in fates[: len(self.notices[agent])]:
            committed = self.notices[agent].popleft()
            if fate in ("heard", "repeated"):
                self.hub.publish(committed)
            if fate == "repeated":
                self.hub.publish(committed)
            if fate == "dropped":  # and the server knows
                self.hub.mark_stale(agent, committed.last_position)
                self.hub.mark_stale(frames.ALL, committed.last_position)
                self.unheard.add(frames.ALL)
            if fate == "lost":
                self.unheard |= {agent, frames.ALL}

    @rule()
    def deliver_all(self) -> None:
        for agent in reversed(AGENTS):
            self.deliver(agent, ["heard"] * 100)

    @rule(agent=agents)
    def refuse(self, agent: str) -> None:
        self.hub.notify(agent, "internal", "refused", False)

    # The clients.

    @rule(number=clients, subscription=subscriptions, again=st.booleans())
    def subscribe(
        self, number: int, subscription: tuple[str, Any, bool, int | None, frames.SlowPolicy], again: bool
    ) -> None:
        agent, after, raw, window, slow = subscription
        client = self.clients[number]
        if agent not in (*self.status, frames.ALL) or (agent in client.subscriber.subscriptions and not again):
            return
        head = self._head(agent)
        if agent not in client.standings:
            begin = head if after == "tail" else min(after, head)
            client.standings[agent] = Standing(agent, begin, raw, window, slow)
        self._subscribe(client, agent)

    def _subscribe(self, client: Client, agent: str) -> None:
        standing = client.standings[agent]
        standing.connect(self._head(agent))
        cursor = position = standing.cursor
        if agent != frames.ALL:
            position = self.store.resolve_cursor(agent, cursor).position
        self.hub.subscribe(
            Subscription(
                client.subscriber,
                agent,
                cursor,
                position,
                "e",
                raw=standing.raw,
                window=standing.window,
                slow=standing.slow,
            )
        )

    @rule(number=clients, agent=logs)
    def unsubscribe(self, number: int, agent: str) -> None:
        self.hub.unsubscribe(self.clients[number].subscriber, agent)

    @rule(number=clients, comes_back=st.booleans())
    def disconnect(self, number: int, comes_back: bool) -> None:
        client = self.clients[number]
        had = list(client.subscriber.subscriptions)
        self.hub.disconnect(client.subscriber)
        client.subscriber = Subscriber(client)
        for agent in had if comes_back else ():
            self._subscribe(client, agent)

    @rule(number=clients)
    def pause(self, number: int) -> None:
        self.clients[number].subscriber.pause()

    @rule(number=clients)
    def resume(self, number: int) -> None:
        self.hub.resume(self.clients[number].subscriber)

    @rule(number=clients, back=st.integers(-1, 2))
    def ack(self, number: int, back: int) -> None:
        client = self.clients[number]
        for agent in client.subscriber.subscriptions:
            standing = client.standings[agent]
            standing.acked = max(standing.acked, min(standing.cursor, standing.cursor - back))
            self.hub.ack(client.subscriber, agent, standing.cursor - back)

    # The server around it.

    @rule(quiet_only=st.booleans(), passed=st.sampled_from([0.0, 0.05, 1.0]))
    def release(self, quiet_only: bool, passed: float) -> None:
        self.now += passed
        if quiet_only:
            self.hub.pacer.spend(self.now, MAX_DEBT_S / REST / 2)
        else:
            self.now += self.hub.pacer.owed_s(self.now)
        self.hub.make_ready(self.now)

    @rule(steps=st.sampled_from([1, 2, 5, 1_000]))
    def pump(self, steps: int) -> None:
        for _ in range(steps):
            if self.effects is None:
                self.effects = self.hub.effects()
            effect = next(self.effects, None)
            if effect is None:
                self.effects = None
                return
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            effect.subscriber.peer.write(effect.subscriber, effect.frame.json)
        elif isinstance(effect, Drop):
            assert effect.subscription.slow == "close", "closed unasked"
            self._come_back(effect.subscription.subscriber.peer)
        else:
            assert effect.subscription not in (*self.reads, *self.skips), "two reads for one subscription"
            (self.reads if isinstance(effect, Read) else self.skips).append(effect.subscription)

    def _come_back(self, client: Client) -> None:
        self.disconnect(self.clients.index(client), comes_back=True)

    @precondition(lambda self: self.reads)
    @rule(pick=picks)
    def read(self, pick: int) -> None:
        subscription = self.reads.pop(pick % len(self.reads))
        self.pages.append((subscription, self._page(subscription)))

    def _page(self, subscription: Subscription) -> AgentPage | FeedPage:
        if subscription.is_to_all:
            return self.store.feed(subscription.position, limit=3, max_bytes=400)
        return self.store.entries(subscription.agent, subscription.cursor, subscription.position, 3, 400)

    @precondition(lambda self: self.pages)
    @rule(pick=picks, fails=st.booleans())
    def answer(self, pick: int, fails: bool) -> None:
        subscription, page = self.pages.pop(pick % len(self.pages))
        if fails:
            self.hub.page_failed(subscription)
            return
        for effect in self.hub.page(subscription, page):
            assert isinstance(effect, Write)
            self._perform(effect)

    @precondition(lambda self: self.skips)
    @rule(pick=picks)
    def find_end(self, pick: int) -> None:
        subscription = self.skips.pop(pick % len(self.skips))
        if subscription.is_to_all:
            last = self.store.position()[0]
            self.ends.append((subscription, last, last, None))
        else:
            standing = self.store.resolve_cursor(subscription.agent, None)
            record = standing.record
            self.ends.append((subscription, record.head, standing.position, record.status.value))

    @precondition(lambda self: self.ends)
    @rule(pick=picks, fails=st.booleans())
    def skip(self, pick: int, fails: bool) -> None:
        subscription, cursor, position, status = self.ends.pop(pick % len(self.ends))
        if fails:
            self.hub.page_failed(subscription)
            return
        client = subscription.subscriber.peer
        client.takes_gap = True
        for effect in self.hub.skip(subscription, cursor, position, status):
            self._perform(effect)
        client.takes_gap = False

    @rule()
    def serve(self) -> None:
        self.now += self.hub.pacer.owed_s(self.now)
        self.hub.make_ready(self.now)
        self.pump(1_000)
        while self.reads or self.pages or self.skips or self.ends:
            while self.reads:
                self.read(0)
            while self.pages:
                self.answer(0, fails=False)
            while self.skips:
                self.find_end(0)
            while self.ends:
                self.skip(0, fails=False)
            self.pump(1_000)

    @rule()
    def recheck(self) -> None:
        heads = self.store.heads(self.hub.agents)
        last = self.store.position()[0]
        self.hub.recheck({**heads, frames.ALL: Head(last, last)})

    @rule()
    def repair(self) -> None:
        self.hub.repair()

    def _head(self, agent: str) -> int:
        return self.store.position()[0] if agent == frames.ALL else self.store.heads([agent])[agent].sequence

    @invariant()
    def rings_are_bounded(self) -> None:
        feed = self.hub._all_agents
        assert feed.ring is None or feed.ring.size <= max(feed._max_bytes, 0)
        assert all(ring.size <= ring._max_bytes for ring in self.hub._rings._rings.values())
        assert self.hub._rings.size <= self.hub._rings._all_bytes
        rings = self.hub._rings._rings.values()
        assert self.hub._rings.size == sum(ring.size for ring in rings)
        assert self.hub._rings.frames_size == sum(ring.frames_size for ring in rings) <= self.hub._rings._all_bytes

    # The end of all this.

    def settle(self) -> None:
        """Do what a server does anyway, until nothing is left to be done. What was lost stays lost."""
        self.deliver_all()
        for client in self.clients:
            self.hub.resume(client.subscriber)
        self._serve_until(lambda: self._all_have_everything(but=self.unheard), recheck=False)
        self._serve_until(lambda: self._all_have_everything() and self.hub.has_caught_up, recheck=True)

    def _serve_until(self, condition: Callable[[], bool], *, recheck: bool) -> None:
        for _ in range(200):
            if recheck:
                self.recheck()
            self.repair()
            self.serve()
            for number in range(CLIENTS):
                self.ack(number, 0)
            if condition():
                return
        raise AssertionError("it does not come to rest")

    def _all_have_everything(self, but: Collection[str] = ()) -> bool:
        return all(
            client.standings[agent].cursor == self._head(agent)
            for client in self.clients
            for agent in client.subscriber.subscriptions
            if agent not in but
        )

    def check(self) -> None:
        """Compare what every subscriber has with the store."""
        for client in self.clients:
            for agent in client.subscriber.subscriptions:
                if agent == frames.ALL:
                    self._check_all(client.standings[agent])
                else:
                    self._check_agent(agent, client.standings[agent])

    def _check_agent(self, agent: str, standing: Standing) -> None:
        messages = self.store.messages(agent, standing.begin, limit=1_000, max_bytes=10**9)
        entries = self.store.entries(agent, 0, 0).entries
        after = self.store.resolve_cursor(agent, standing.begin).position
        changes = [entry for entry in entries if isinstance(entry, StatusChange)]
        expected = {
            (agent, entry.status.value): entry.sequence
            for entry in changes
            if entry.position > after and not standing.may_have_skipped_change(entry.sequence)
        }
        messages = [message for message in messages if not standing.has_skipped(message.sequence)]

        assert [item.sequence for item in standing.items] == [message.sequence for message in messages]
        self._check_end(agent, standing)
        self._check_contents(standing, messages)
        assert expected.items() <= standing.changes.items()
        assert standing.follower.live_at is not None

    def _check_end(self, agent: str, standing: Standing) -> None:
        """Who was told of a gap last knows the status from it, or from a change since."""
        status = self.status[agent]
        if standing.gaps and status.is_terminal:
            assert standing.gaps[-1].status == status.value or (agent, status.value) in standing.changes

    def _check_all(self, standing: Standing) -> None:
        entries: list[Any] = []
        position = standing.begin
        while position < self.store.position()[0]:
            page = self.store.feed(position)
            entries += page.entries
            position = page.last
        entries = [entry for entry in entries if not standing.has_skipped(entry.position)]
        messages = [entry for entry in entries if isinstance(entry, MessageRecord)]
        changes = {
            (entry.agent, entry.status.value): entry.sequence for entry in entries if isinstance(entry, StatusChange)
        }

        assert [item.position for item in standing.items] == [message.position for message in messages]
        self._check_contents(standing, messages)
        assert standing.changes == changes
        assert standing.follower.live_at is not None

    def _check_contents(self, standing: Standing, messages: list[MessageRecord]) -> None:
        assert [item.content for item in standing.items] == [message.content for message in messages]
        raws = [message.raw if standing.raw else None for message in messages]
        assert [raw_bytes(item.raw) for item in standing.items] == raws


TestHub = HubMachine.TestCase
TestHub.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
pytest.mark.sampled(TestHub)
