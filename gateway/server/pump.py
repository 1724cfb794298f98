"""Performs the hub's effects on the gateway's loop: writes frames to sockets, and has pages read.

Performs at most `PUMP_STEPS` effects before the loop gets to its sockets again. However a read ends, the subscription
that asked for it must not be left waiting.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.hub import Effect, Hub, Read, Skip, Write
from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.metrics import Traffic
from commitcast.gateway.server.reader import StoreReader
from commitcast.gateway.server.tasks import BackgroundTasks
from commitcast.persistence.errors import AgentNotFoundError

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
            self._commit_times_ns += self._hub.release(time.perf_counter()).values()
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
            self._tasks.spawn(self._continue(effect.subscription, self._page))
        elif isinstance(effect, Skip):
            self._tasks.spawn(self._continue(effect.subscription, self._log_end))
        else:
            self._drop(effect.subscription)

    async def _continue(
        self, subscription: Subscription, read: Callable[[Subscription], Awaitable[Iterator[Effect]]]
    ) -> None:
        """Read for a subscription, and perform what follows."""
        try:
            effects = await read(subscription)
        except AgentNotFoundError:
            self._end(subscription)
        except Exception as error:  # of any kind: the subscription must not wait for this read for ever
            logger.warning("cannot read on for a subscriber to %s: %r", subscription.agent, error)
            self._hub.page_failed(subscription)
        else:
            for effect in effects:
                self._perform(effect)
            self.schedule()

    async def _page(self, subscription: Subscription) -> Iterator[Effect]:
        shared = await self._reader.page(subscription)
        return self._hub.page(subscription, shared.page, shared.frames)

    async def _log_end(self, subscription: Subscription) -> Iterator[Effect]:
        return self._hub.skip(subscription, *await self._reader.end(subscription))

    def _end(self, subscription: Subscription) -> None:
        """End a subscription to an agent that was deleted."""
        if subscription.is_current:
            self._hub.unsubscribe(subscription.subscriber, subscription.agent)
            message = f"agent {subscription.agent!r} was deleted"
            gone = frames.Error(agent=subscription.agent, code=ErrorCode.GONE.value, message=message, retry=False)
            subscription.subscriber.peer.write(PreparedFrame(gone))
