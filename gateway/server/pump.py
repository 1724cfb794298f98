"""Performs the hub's effects on the gateway's loop: writes frames to sockets, and has pages read.

Performs at most `PUMP_STEPS` effects before the loop gets to its sockets again. However a read ends, the subscription
that asked for it must not be left waiting.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.hub import Effect, Hub, Read, Skip, Write
from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.metrics import Traffic
from commitcast.gateway.server.reader import PageKey, StoreReader
from commitcast.gateway.server.tasks import BackgroundTasks
from commitcast.persistence.errors import AgentNotFoundError
from commitcast.persistence.store import AgentPage

logger: Final = logging.getLogger(__name__)

PUMP_STEPS: Final = 256
"""Effects performed before the loop gets to its sockets again."""


class Pump:
    """Performs the effects of one hub."""

    def __init__(
        self,
        hub: Hub,
        reader: StoreReader,
        tasks: BackgroundTasks,
        traffic: Traffic,
        drop: Callable[[Subscription], object],
    ) -> None:
        """Make a pump; `drop` closes the connection of a subscription."""
        self._hub = hub
        self._reader = reader
        self._tasks = tasks
        self._traffic = traffic
        self._drop = drop
        self._rest: asyncio.TimerHandle | None = None
        self._commit_times_ns: list[int] = []
        """Of what is being sent: the oldest commit of each log."""
        self._effects: Iterator[Effect] | None = None
        self._is_scheduled = False
        self._waiting: dict[PageKey, list[Subscription]] = {}
        """Subscriptions for which a page is to be read, until its reading begins."""

    @property
    def is_idle(self) -> bool:
        """Whether every effect that the hub had was performed."""
        return self._effects is None

    def schedule(self) -> None:
        """Have the hub's effects performed in the next turn of the loop."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.run)

    def resume(self, subscriber: Subscriber) -> None:
        """Send again to a subscriber whose write buffer has room again."""
        self._hub.resume(subscriber)
        self.schedule()

    def run(self) -> None:
        """Perform up to `PUMP_STEPS` effects; schedule itself again if more remain."""
        self._is_scheduled = False
        if self._effects is None:
            self._commit_times_ns += self._hub.make_ready(time.perf_counter()).values()
            self._effects = self._hub.effects()
        if not self._perform_some(self._effects):
            self.schedule()
            return
        self._effects = None
        now_ns = time.monotonic_ns()
        for committed_ns in self._commit_times_ns:
            self._traffic.commit_to_write.observe((now_ns - committed_ns) / 1e9)
        self._commit_times_ns.clear()
        pacer = self._hub.pacer
        if pacer.due and self._rest is None:
            self._rest = asyncio.get_running_loop().call_later(pacer.owed_s(time.perf_counter()), self._on_rested)

    def _on_rested(self) -> None:
        self._rest = None
        self.schedule()

    def _perform_some(self, effects: Iterator[Effect]) -> bool:
        """Perform up to `PUMP_STEPS` effects; return whether those were all. Tell the pacer what fan-out took."""
        shared_s = 0.0
        began_cpu, before = time.thread_time(), time.perf_counter()
        is_done = False
        for _ in range(PUMP_STEPS):
            effect = next(effects, None)
            if effect is None:
                is_done = True
                break
            self._perform(effect)
            after = time.perf_counter()
            if isinstance(effect, Write) and effect.is_shared:
                shared_s += after - before
            before = after
        self._hub.pacer.spend(before, shared_s)
        self._traffic.pumped_cpu_s += time.thread_time() - began_cpu
        self._traffic.shared_s += shared_s
        return is_done

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            size = effect.subscriber.peer.write(effect.frame)
            self._traffic.count(effect.frame.messages, size)
        elif isinstance(effect, Read):
            self._wait_for_page(effect.subscription)
        elif isinstance(effect, Skip):
            self._tasks.spawn(self._skip(effect.subscription))
        else:
            self._drop(effect.subscription)

    def _wait_for_page(self, subscription: Subscription) -> None:
        """Have a page read for a subscription, and for all that want the same one before its reading begins."""
        key = (subscription.agent, subscription.cursor, subscription.position)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(subscription)
        if len(waiting) == 1:
            self._tasks.spawn(self._send_page(key, waiting))

    async def _send_page(self, key: PageKey, waiting: list[Subscription]) -> None:
        try:
            shared = await self._reader.page(key, on_begin=lambda: self._waiting.pop(key))
        except Exception as error:  # of any kind: no subscription may wait for this read for ever
            if self._waiting.get(key) is waiting:  # it did not even begin
                del self._waiting[key]
            for subscription in waiting:
                self._read_failed(subscription, error)
            return
        for subscription in waiting:
            if isinstance(shared.page, AgentPage) and shared.page.epoch != subscription.epoch:
                self._end(subscription)  # another agent has its id
                continue
            for effect in self._hub.page(subscription, shared.page, shared.frames):
                self._perform(effect)
        self._reader.pages.recount(shared, time.monotonic())
        self.schedule()

    async def _skip(self, subscription: Subscription) -> None:
        try:
            end = await self._reader.end(subscription)
        except Exception as error:  # as above
            self._read_failed(subscription, error)
            return
        for effect in self._hub.skip(subscription, *end):
            self._perform(effect)
        self.schedule()

    def _read_failed(self, subscription: Subscription, error: Exception) -> None:
        """End a subscription to an agent that was deleted; have any other read again later."""
        if isinstance(error, AgentNotFoundError):
            self._end(subscription)
        else:
            logger.warning("cannot read on for a subscriber to %s: %r", subscription.agent, error)
            self._hub.page_failed(subscription)

    def _end(self, subscription: Subscription) -> None:
        if subscription.is_current:
            self._hub.unsubscribe(subscription.subscriber, subscription.agent)
            message = f"agent {subscription.agent!r} was deleted"
            gone = frames.Error(agent=subscription.agent, code=ErrorCode.GONE.value, message=message, retry=False)
            subscription.subscriber.peer.write(PreparedFrame(gone))
