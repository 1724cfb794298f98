"""What is behind every door of the gateway, whatever kind of connection comes through it: sessions, hub, and clock.

Lives on one event loop. Other threads reach it through `publish` and `notify`, which hand over and return at once. Must
never delay a commit: what the loop cannot take in time is left to the store.
"""

import asyncio
import random
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib import metadata
from typing import Final

from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.protocol.errors import CloseCode
from commitcast.gateway.server.access.admission import Admission
from commitcast.gateway.server.access.auth import Grant, Verifier
from commitcast.gateway.server.access.connection_counts import ConnectionCounts
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.commit_inbox import Handover
from commitcast.gateway.server.http.request import HttpResponse, error_response
from commitcast.gateway.server.metrics import Collector, GatewayCollector, Standings, Traffic
from commitcast.gateway.server.operations import Operations
from commitcast.gateway.server.peer import Peer
from commitcast.gateway.server.pump import Pump
from commitcast.gateway.server.session import Session
from commitcast.gateway.server.sockets import descriptors
from commitcast.persistence.records import Committed
from commitcast.persistence.store import Reader

HEARTBEAT_S: Final = 15.0
"""Under the thirty seconds after which proxies close what is silent."""
TICK_S: Final = 1.0
"""How long a commit may be missing from the log of all agents before it is read from the store; and how often
connections that take no more are looked at."""
RECONNECT_MS: Final = (1_000, 3_000)
"""A restart takes a second or two, and whoever comes too early waits longer. Clients come back spread over this, and
the later bound is a millisecond for each of them if that is more: about the time that a handshake takes."""


class GatewayCore:
    """Sessions and their hub."""

    def __init__(
        self,
        store: Reader,
        *,
        verifier: Verifier | None = None,
        operations: Operations | None = None,
        limits: Limits | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Make it; nothing runs before `begin`.

        Args:
            store: to read from; open before `begin`.
            verifier: of tokens; None lets anybody read.
            operations: what clients may have done; None makes it read-only.
            limits: on what one client may ask for.
            heartbeat_s: seconds between heartbeats.
        """
        self.limits = limits or Limits()
        self.operations = operations
        self.heartbeat_s = heartbeat_s
        self.server = f"commitcast/{metadata.version('commitcast')}"
        self.traffic = Traffic()
        self.pump = Pump(store, self.traffic, self._drop)
        self.admission = Admission(verifier, self.limits.refused_tokens)
        self.collectors: list[Collector] = [GatewayCollector(self.traffic, self._standings)]
        self.is_draining = False
        self._sessions: dict[Peer, Session] = {}
        self._handover = Handover(lambda: self.call(self._take))
        self.counts = ConnectionCounts(self.limits)
        self._from = self.counts.by_origin
        """How many connections there are of each address; for a look inside from tests."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """On which it works, once it has begun."""

    # From other threads.

    def publish(self, committed: Committed) -> None:
        """Hand over what was committed. Returns at once."""
        self._handover.publish(committed)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Hand over word of something that was refused. Returns at once."""
        self._handover.notify(agent, code, message, retry)

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop, if there is one."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # it was closed meanwhile: there is nobody to tell
            pass

    # On the loop.

    def begin(self) -> None:
        """Begin to work on the running loop."""
        self.loop = asyncio.get_running_loop()
        self.pump.spawn(self._beat())
        self.pump.spawn(self._tick())
        self._take()  # what was handed over when there was no loop yet

    # Who comes in.

    def enter(self, address: str) -> bool:
        """Count a connection; return False if its address has so many that it is not worth an answer."""
        return self.counts.enter(address)

    def leave(self, address: str) -> None:
        """Count it no longer."""
        self.counts.leave(address)

    def check_capacity(self, descriptor: int | None) -> HttpResponse | None:
        """Return the refusal of a handshake while no more connections are taken; None lets it go on.

        Args:
            descriptor: of the connection; None if it is not known.
        """
        unavailable = HTTPStatus.SERVICE_UNAVAILABLE
        if self.is_draining:
            return error_response(unavailable, "unavailable", "the server stops", Retry_After="2")
        if self.connections >= self.limits.connections or not descriptors.is_for_websockets(descriptor):
            return error_response(unavailable, "unavailable", "the server is full", Retry_After="10")
        return None

    async def serve(self, peer: Peer) -> None:
        """Serve a connection that has entered, until it is closed."""
        session = Session(self, peer)
        if self.counts.exceeds(peer.peer_address):
            reason = "too many connections from one address: close some first"
            await session.close(CloseCode.CONNECTION_LIMIT, reason)
            return
        self._sessions[peer] = session
        try:
            await session.run()
        finally:
            del self._sessions[peer]

    def grant_of(self, token: str | None, address: str) -> Grant | None:
        """Return what a token from an address allows; None without one where one is needed.

        Raises:
            TokenError: the token is not accepted.
        """
        return self.admission.grant_of(token, address)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._sessions)

    def count_close(self, code: int) -> None:
        """Count a connection that is closed."""
        self.traffic.closes[code] += 1

    def pause(self, subscriber: Subscriber) -> None:
        """A connection takes no more."""
        self.pump.hub.pause(subscriber)

    def resume(self, subscriber: Subscriber) -> None:
        """A connection takes more again."""
        self.pump.hub.resume(subscriber)
        self.pump.schedule()

    async def say_goodbye(self) -> None:
        """Send everybody away, to come back at different times; returns once each has been told."""
        first_ms, last_ms = RECONNECT_MS
        sessions = list(self._sessions.values())
        waits_ms = random.sample(range(first_ms, max(last_ms, first_ms + len(sessions)) + 1), len(sessions))
        for session, reconnect_ms in zip(sessions, waits_ms, strict=True):
            self.pump.spawn(session.close(CloseCode.DRAIN, "the server stops", reconnect_ms))
        await asyncio.sleep(0)  # let each write its frame

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until every connection that was sent away is closed, but no longer than so many seconds."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._sessions and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def wait_caught_up(self, timeout_s: float) -> None:
        """Wait until subscribers have what is committed, but no longer than so many seconds."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            unsent = any(peer.unsent_bytes for peer in self._sessions)
            if self._handover.is_empty and self.pump.is_idle and not unsent and self.pump.hub.has_caught_up:
                return
            await asyncio.sleep(0.01)

    def _take(self) -> None:
        taken, dropped = self._handover.take()
        hub = self.pump.hub
        for fact in taken:
            if isinstance(fact, Committed):
                hub.publish(fact)
            else:
                hub.notify(fact.agent or "", fact.code, fact.message, fact.retry)
        for agent, position in dropped.items():
            hub.miss(agent, position)
        self.pump.run()

    def _drop(self, subscription: Subscription) -> None:
        session = self._sessions.get(subscription.subscriber.peer)
        if session is not None:
            reason = f"too slow for {subscription.agent}: come back and catch up"
            self.pump.spawn(session.close(CloseCode.SLOW, reason))

    def _standings(self) -> Standings:
        return Standings(
            connections=len(self._sessions),
            paused=sum(peer.subscriber.is_paused for peer in self._sessions),
            subscriptions=sum(len(peer.subscriber.subscriptions) for peer in self._sessions),
            refused_tokens=dict(self.admission.refused),
            lags=self.pump.hub.lags(),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s)
            known = await self.pump.recheck(timeout_s=self.heartbeat_s / 4)  # a slow disk must not keep heartbeats back
            heads = {agent: head.sequence for agent, head in known.items()}
            for session in list(self._sessions.values()):
                session.beat(heads)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                session.check_stalled(now)
            self.pump.tidy()
            self.pump.hub.repair()
            self.pump.schedule()
