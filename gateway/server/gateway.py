"""Transport-independent part of the gateway: sessions, hub, heartbeats, and the inbox through which commits arrive.

Lives on one event loop. Other threads reach it through its `CommitInbox`, which returns at once. Must never delay a
commit: what the loop cannot take in time is left to the store.
"""

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Final

from commitcast.gateway.hub.hub import Hub
from commitcast.gateway.hub.log import ENTRY_BYTES, committed_size
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.hub.subscription import Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode
from commitcast.gateway.server.access.authentication import Authenticator
from commitcast.gateway.server.access.limits import ConnectionCounts, Limits
from commitcast.gateway.server.http.request import HttpResponse, error_response
from commitcast.gateway.server.metrics import Collector, Metric, Traffic, gateway_metrics
from commitcast.gateway.server.options import ServerOptions
from commitcast.gateway.server.peer import Peer
from commitcast.gateway.server.pump import Pump
from commitcast.gateway.server.reader import StoreReader
from commitcast.gateway.server.requests import AgentControl, Requests
from commitcast.gateway.server.session import Session, SessionContext
from commitcast.gateway.server.sockets import descriptors
from commitcast.gateway.server.tasks import BackgroundTasks, wait_until
from commitcast.persistence.records import Committed
from commitcast.persistence.store import Head, Reader
from commitcast.persistence.writes import text_size

logger: Final = logging.getLogger(__name__)

INBOX_BYTES: Final = 64 * 1024 * 1024
"""Waiting for the loop; what a disk takes in several seconds."""
TICK_S: Final = 1.0
"""How long a commit may be missing from the log of all agents before it is read from the store; and how often paused
connections are checked."""
RECONNECT_MS: Final = (1_000, 3_000)
"""A restart takes a second or two. Clients reconnect spread over this range, whose end is at least a millisecond for
each of them: about the time that a handshake takes."""


class CommitInbox:
    """What waits for the gateway's loop: bounded, never blocking, in order.

    Any thread puts, and then flushes; the loop takes.

    What is beyond the bound is dropped and remembered as dropped: it is in the store, and subscriptions that lack it
    read it there.
    """

    def __init__(self, wake: Callable[[], object], is_followed: Callable[[str], bool] = lambda agent: True) -> None:
        """Make it.

        Args:
            wake: called by `flush` when something was put into the empty inbox.
            is_followed: whether anybody subscribes to an agent; else its commits are left to the store. Who subscribes
                later reads the store after that, and so finds what was committed before this was asked.
        """
        self._wake = wake
        self._is_followed = is_followed
        self._lock = threading.Lock()
        self._waiting: deque[Committed | frames.Error] = deque()
        self._bytes = 0
        self._dropped: dict[str, int] = {}
        self._is_wake_due = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def publish(self, committed: Committed) -> None:
        """Put what was committed. Returns at once."""
        if not self._is_followed(committed.agent):
            return
        size = committed_size(committed)
        with self._lock:
            if self._bytes > INBOX_BYTES:
                self._dropped[committed.agent] = self._dropped[frames.ALL] = committed.last_position
                return  # something waits, so `take` is still to come
            self._is_wake_due = self._is_wake_due or not self._waiting
            self._waiting.append(committed)
            self._bytes += size

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Put a notice that something was refused, if there is room. Returns at once."""
        notice = frames.Error(agent=agent, code=code, message=message, retry=retry)
        with self._lock:
            if self._bytes > INBOX_BYTES:
                return
            self._is_wake_due = self._is_wake_due or not self._waiting
            self._waiting.append(notice)
            self._bytes += ENTRY_BYTES + text_size(message)

    def flush(self) -> None:
        """Let the loop take what was put. Returns at once."""
        with self._lock:
            is_due, self._is_wake_due = self._is_wake_due, False
        if is_due:
            self._wake()

    def take(self) -> tuple[deque[Committed | frames.Error], dict[str, int]]:
        """Take everything that waits, and for each agent with dropped commits the position of the last one."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            dropped, self._dropped = self._dropped, {}
            self._bytes = 0
        return taken, dropped


class Gateway:
    """Sessions and their hub, for connections of any kind."""

    def __init__(self, store: Reader, options: ServerOptions, control: AgentControl | None = None) -> None:
        """Make a gateway; nothing runs before `begin`. Without a `control`, which is the host, it is read-only."""
        self.limits = options.limits or Limits()
        self.heartbeat_s = options.heartbeat_s
        self.traffic = Traffic()
        self.tasks = BackgroundTasks()
        self.redactor = Redactor(options.redact, options.redact_except)
        self.hub = Hub(redactor=self.redactor)
        self.reader = StoreReader(store, self.traffic)
        self.pump = Pump(self.hub, self.reader, self.tasks, self.traffic, self._drop)
        self.inbox = CommitInbox(partial(self.call, self._take), self.hub.is_followed)
        self.requests = Requests(self.reader, control, self.redactor)
        self.authenticator = Authenticator(options.verifier, self.limits.refused_tokens)
        self._context = SessionContext(
            self.hub,
            self.pump,
            self.tasks,
            self.requests,
            self.authenticator,
            self.limits,
            self.traffic,
            options.heartbeat_s,
        )
        self.collectors: list[Collector] = [self]
        """Of the metrics that `/metrics` shows; the host appends its own."""
        self.refreshing: list[Callable[[], Awaitable[None]]] = []
        """Awaited before they are shown: of collectors that must ask for their metrics."""
        self.counts = ConnectionCounts(self.limits)
        self._from = self.counts.by_origin
        """Connections of each address, under the name that scripts outside this package read."""
        self.is_draining = False
        self.tunnels = 0
        """Requests that apps in other processes have forwarded, and that are not answered yet."""
        self._sessions: dict[Peer, Session] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        """On which it works, once it has begun."""

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop, if there is one. Any thread."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # it was closed meanwhile
            pass

    # On the loop.

    def begin(self) -> None:
        """Begin to work on the running loop."""
        self.loop = asyncio.get_running_loop()
        self.tasks.spawn(self._beat())
        self.tasks.spawn(self._tick())
        self._take()  # what was put into the inbox before there was a loop

    def _take(self) -> None:
        """Give the hub what is in the inbox, and perform what follows."""
        taken, dropped = self.inbox.take()
        for item in taken:
            if isinstance(item, Committed):
                self.hub.publish(item)
            else:
                self.hub.notify(item.agent or "", item.code, item.message, item.retry)
        for agent, position in dropped.items():
            self.hub.mark_stale(agent, position)
        self.pump.run()

    # Connections.

    def check_capacity(self, descriptor: int | None) -> HttpResponse | None:
        """Return the refusal of a handshake while no more connections are accepted; None if it may continue."""
        unavailable = HTTPStatus.SERVICE_UNAVAILABLE
        if self.is_draining:
            return error_response(unavailable, "unavailable", "the server is stopping", Retry_After="2")
        if self.connections >= self.limits.connections or not descriptors.is_for_websockets(descriptor):
            return error_response(unavailable, "unavailable", "the server is full", Retry_After="10")
        return None

    async def serve(self, peer: Peer) -> None:
        """Serve a connection, which `counts` knows, until it is closed."""
        session = Session(peer, self._context)
        if self.counts.exceeds(peer.peer_address):
            reason = "too many connections from one address: close some first"
            await session.close(CloseCode.CONNECTION_LIMIT, reason)
            return
        self._sessions[peer] = session
        try:
            await session.run()
        finally:
            del self._sessions[peer]

    @property
    def connections(self) -> int:
        """How many connections are served."""
        return len(self._sessions)

    def _drop(self, subscription: Subscription) -> None:
        session = self._sessions.get(subscription.subscriber.peer)
        if session is not None:
            reason = f"too slow for {subscription.agent}: reconnect and catch up"
            self.tasks.spawn(session.close(CloseCode.SLOW, reason))

    def collect(self) -> Iterable[Metric]:
        """Yield the gateway's own metrics."""
        subscribers = [peer.subscriber for peer in self._sessions]
        return gateway_metrics(self.traffic, subscribers, self.hub.lags(), self.authenticator.refused)

    # At the end.

    async def say_goodbye(self) -> None:
        """Begin to close every connection, each with another time to reconnect; return once each has its goodbye."""
        first_ms, last_ms = RECONNECT_MS
        sessions = list(self._sessions.values())
        waits_ms = random.sample(range(first_ms, max(last_ms, first_ms + len(sessions)) + 1), len(sessions))
        for session, reconnect_ms in zip(sessions, waits_ms, strict=True):
            self.tasks.spawn(session.close(CloseCode.DRAIN, "the server is stopping", reconnect_ms))
        await asyncio.sleep(0)  # let each write its frame

    async def wait_closed(self, timeout: float) -> None:
        """Wait until every connection is closed, at most this many seconds."""
        await wait_until(lambda: not self._sessions and not self.tunnels, timeout)

    async def wait_caught_up(self, timeout: float) -> None:
        """Wait until subscribers have what is committed, at most this many seconds."""
        await wait_until(
            lambda: (
                self.inbox.is_empty
                and self.pump.is_idle
                and self.hub.has_caught_up
                and not any(peer.unsent_bytes for peer in self._sessions)
            ),
            timeout,
        )

    # Again and again.

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s)
            heads = await self._recheck(timeout=self.heartbeat_s / 4)  # a slow disk must not delay heartbeats
            sequences = {agent: head.sequence for agent, head in heads.items()}
            for session in list(self._sessions.values()):
                session.beat(sequences)

    async def _recheck(self, timeout: float) -> dict[str, Head]:
        """Compare subscriptions with the heads in the store; return these, or none if they cannot be read in time."""
        try:
            async with asyncio.timeout(timeout):
                heads = await self.reader.heads(self.hub.agents)
        except Exception as error:  # of any kind: the next heartbeat must be sent
            logger.warning("cannot read the heads for a heartbeat: %r", error)
            return {}
        self.hub.recheck(heads)
        self.pump.schedule()
        return heads

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                session.check_stalled(now)
            self.reader.pages.forget(now)
            self.hub.repair()
            self.pump.schedule()
