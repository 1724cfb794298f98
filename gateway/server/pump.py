"""Performs what the hub decides: writes to sockets, and reads pages from the store on threads of its own.

Owns the reader threads. Whatever a read runs into, the subscription that asked for it must not be left waiting.
Runs on the gateway's loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

from commitcast.gateway.hub.hub import Effect, Hub, Read, Skip, Write
from commitcast.gateway.hub.prepared import PreparedFrame
from commitcast.gateway.hub.subscription import Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.metrics import Traffic
from commitcast.gateway.server.pacer import MAX_DEBT_S, QUIET_S, Pacer
from commitcast.gateway.server.pages import PageCache, PageKey, SharedPage
from commitcast.persistence.errors import AgentNotFoundError
from commitcast.persistence.store import READERS, AgentPage, FeedPage, Head, Reader

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_S: Final = 6.0
"""For the reads under way at the end: a store waits five seconds for another program that has the file."""
HEADS_ROWS: Final = 512
"""Agents whose heads are read at once: a few milliseconds, for which a commit may have to wait."""
PUMP_STEPS: Final = 256
"""Effects performed before the loop gets to its sockets again."""


class Pump:
    """The hub's hands."""

    def __init__(self, store: Reader, traffic: Traffic, drop: Callable[[Subscription], object]) -> None:
        """Make a pump.

        Args:
            store: to read from.
            traffic: counts what is sent.
            drop: called to close the connection of a subscription that is slow and asked for that.
        """
        self.store = store
        self.hub = Hub()
        self._traffic = traffic
        self._drop = drop
        self._pacer = Pacer()
        self._rest: asyncio.TimerHandle | None = None
        self._sending: list[int] = []
        """When what is being sent was committed: the oldest of each agent."""
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gateway-reader")
        self._reading: set[Future[Any]] = set()
        self._reads: dict[PageKey, asyncio.Task[SharedPage]] = {}
        self._pages = PageCache()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._effects: Iterator[Effect] | None = None
        self._is_scheduled = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Stop everything that was spawned."""
        for task in list(self._tasks):
            task.cancel()

    def close(self) -> None:
        """End the reader threads. Blocks for the reads under way, up to a limit. Any thread; idempotent."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        left = wait(list(self._reading), CLOSE_S).not_done
        self._readers.shutdown(wait=not left)

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the store on a reader thread."""
        reading = self._readers.submit(function, *arguments)
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        return await asyncio.wrap_future(reading)

    @property
    def is_idle(self) -> bool:
        """Whether the hub has nothing more to be done now."""
        return self._effects is None

    def tidy(self) -> None:
        """Let go of pages that nobody asks for any more."""
        self._pages.forget(time.monotonic())

    def schedule(self) -> None:
        """Have the hub's effects performed soon."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.run)

    def run(self) -> None:
        """Perform the hub's effects, the rest of many a little later."""
        self._is_scheduled = False
        if self._effects is None:
            self._release()
            self._effects = self.hub.pump()
        if not self._perform_some(self._effects):
            self.schedule()
            return
        self._effects = None
        self._note_sent()
        if self.hub.has_due and self._rest is None:
            owed_s = self._pacer.owed_s(time.perf_counter())
            self._rest = asyncio.get_running_loop().call_later(owed_s, self._on_rested)

    def _release(self) -> None:
        """Let the hub give out what was committed: all, if sending has rested, or else that of quiet agents."""
        now = time.perf_counter()
        owed_s = self._pacer.owed_s(now)
        if not owed_s:
            self._sending += self.hub.release(now).values()
        elif owed_s <= MAX_DEBT_S:
            self._sending += self.hub.release(now, quiet_since=now - QUIET_S).values()

    def _on_rested(self) -> None:
        self._rest = None
        self.schedule()

    def _perform_some(self, effects: Iterator[Effect]) -> bool:
        """Perform so many effects as the loop can spare the time for; return whether those were all."""
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
            if type(effect) is Write and effect.is_shared:
                shared_s += after - before
            before = after
        self._pacer.spend(before, shared_s)
        self._traffic.pumped_cpu_s += time.thread_time() - began_cpu
        self._traffic.shared_s += shared_s
        return is_done

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            size = effect.subscriber.peer.write(effect.frame)
            self._traffic.count(effect.frame.messages, size)
        elif isinstance(effect, Read):
            self.spawn(self._read_page(effect.subscription))
        elif isinstance(effect, Skip):
            self.spawn(self._skip(effect.subscription))
        else:
            self._drop(effect.subscription)

    def _note_sent(self) -> None:
        now_ns = time.monotonic_ns()
        for committed_ns in self._sending:
            self._traffic.commit_to_write.observe((now_ns - committed_ns) / 1e9)
        self._sending.clear()

    async def _read_page(self, subscription: Subscription) -> None:
        try:
            shared = await self._shared_page(subscription)
            if isinstance(shared.page, AgentPage):
                _check_same(subscription, shared.page.epoch)
        except AgentNotFoundError:
            self._end(subscription)
        except Exception as error:  # whatever it was, the subscription must not wait for this page for ever
            logger.warning("cannot read on for a subscriber to %s: %r", subscription.agent, error)
            self.hub.page_failed(subscription)
        else:
            for write in self.hub.page(subscription, shared.page, shared.frames):
                self._perform(write)
            self.schedule()

    async def _skip(self, subscription: Subscription) -> None:
        """Read where the log ends, for a subscriber that is slow and goes on there."""
        try:
            if subscription.is_to_all:
                cursor, _ = await self.read(self.store.position)
                position, status = cursor, None
            else:
                standing = await self.read(self.store.standing, subscription.agent, None)
                _check_same(subscription, standing.record.epoch)
                cursor, position, status = standing.record.head, standing.position, standing.record.status.value
        except AgentNotFoundError:
            self._end(subscription)
        except Exception as error:  # as in `_read_page`
            logger.warning("cannot find the end of %s for a slow subscriber: %r", subscription.agent, error)
            self.hub.page_failed(subscription)
        else:
            for write in self.hub.skip(subscription, cursor, position, status):
                self._perform(write)
            self.schedule()

    def _end(self, subscription: Subscription) -> None:
        """End a subscription to an agent that was deleted."""
        if subscription.is_current:
            self.hub.unsubscribe(subscription.subscriber, subscription.agent)
            message = f"agent {subscription.agent!r} was deleted"
            gone = frames.Error(agent=subscription.agent, code=ErrorCode.GONE.value, message=message, retry=False)
            subscription.subscriber.peer.write(PreparedFrame(gone))

    async def _shared_page(self, subscription: Subscription) -> SharedPage:
        """Read a page, together with everybody who asks for the same one before the reading begins."""
        key = subscription.agent, subscription.cursor, subscription.position
        kept = self._pages.get(key, time.monotonic())
        if kept is not None:
            return kept
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self.spawn(self._read_shared(key))
        return await asyncio.shield(task)

    async def _read_shared(self, key: PageKey) -> SharedPage:
        agent, cursor, position = key

        def read() -> AgentPage | FeedPage:
            self._reads.pop(key, None)  # who comes now may know of something that this page has not
            return self.store.feed(position) if agent == frames.ALL else self.store.entries(agent, cursor, position)

        page = await self.read(read)
        self._traffic.pages += 1
        return self._pages.put(key, page, time.monotonic())

    async def recheck(self, timeout_s: float) -> dict[str, Head]:
        """Return the heads in the store of all that is subscribed to, and send those who are behind there.

        What cannot be read in time is left to the next time.
        """
        heads: dict[str, Head] = {}
        try:
            async with asyncio.timeout(timeout_s):
                for agents in _batched(self.hub.agents, HEADS_ROWS):
                    heads |= await self.read(self.store.heads, agents)
                last, _ = await self.read(self.store.position)
        except Exception as error:  # whatever it was, the next heartbeat must come
            logger.warning("cannot read the heads for a heartbeat: %r", error)
            return {}
        heads[frames.ALL] = Head(last, last)
        self.hub.recheck(heads)
        self.schedule()
        return heads


def _batched(agents: list[str], size: int) -> Iterator[list[str]]:
    return (agents[start : start + size] for start in range(0, len(agents), size))


def _check_same(subscription: Subscription, epoch: str) -> None:
    """Check that the agent is still the one that was subscribed to.

    Raises:
        AgentNotFoundError: it was deleted, and another one has its id.
    """
    if epoch != subscription.epoch:
        raise AgentNotFoundError(subscription.agent)
