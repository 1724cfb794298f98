"""Performs what the hub decides: writes to sockets, and reads pages from the store on threads of its own.

Owns the reader threads. Whatever a read runs into, the subscription that asked for it must not be left waiting.
Runs on the gateway's loop.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from commitcast.gateway import frames
from commitcast.gateway.errors import ErrorCode
from commitcast.gateway.hub import Effect, Hub, Read, Subscription, Write
from commitcast.persistence.errors import AgentNotFoundError
from commitcast.persistence.store import AgentPage, FeedPage, Store

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

READERS: Final = 4
PUMP_STEPS: Final = 256
"""Effects performed before the loop gets to its sockets again."""


class Pump:
    """The hub's hands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.hub = Hub()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gateway-reader")
        self._reads: dict[tuple[str, int, int], asyncio.Task[AgentPage | FeedPage]] = {}
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
        """End the reader threads. Blocks for the reads under way. Any thread; idempotent."""
        self._readers.shutdown()

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the store on a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    @property
    def is_idle(self) -> bool:
        """Whether the hub has nothing more to be done now."""
        return self._effects is None

    def schedule(self) -> None:
        """Have the hub's effects performed soon."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.run)

    def run(self) -> None:
        """Perform the hub's effects, the rest of many a little later."""
        self._is_scheduled = False
        if self._effects is None:
            self._effects = self.hub.pump()
        for _ in range(PUMP_STEPS):
            effect = next(self._effects, None)
            if effect is None:
                self._effects = None
                return
            self._perform(effect)
        self.schedule()

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            effect.subscriber.peer.write(effect.data)
        else:
            self.spawn(self._read_page(effect))

    async def _read_page(self, effect: Read) -> None:
        subscription = effect.subscription
        try:
            page = await self._shared_page(subscription)
        except AgentNotFoundError as error:
            if self.hub.is_current(subscription):
                self.hub.unsubscribe(subscription.subscriber, subscription.agent)
                code = ErrorCode.GONE.value
                gone = frames.Error(agent=subscription.agent, code=code, message=str(error), retry=False)
                subscription.subscriber.peer.write(frames.encode(gone))
        except Exception as error:  # whatever it was, the subscription must not wait for this page for ever
            logger.warning("cannot read on for a subscriber to %s: %r", subscription.agent, error)
            self.hub.page_failed(subscription)
        else:
            for write in self.hub.page(subscription, page):
                self._perform(write)
            self.schedule()

    async def _shared_page(self, subscription: Subscription) -> AgentPage | FeedPage:
        """Read a page, together with everybody who asks for the same one before the reading begins."""
        agent, cursor, position = key = subscription.agent, subscription.cursor, subscription.position

        def read() -> AgentPage | FeedPage:
            self._reads.pop(key, None)  # who comes now may know of something that this page has not
            return self.store.feed(position) if agent == frames.ALL else self.store.entries(agent, cursor, position)

        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self.spawn(self.read(read))
        return await asyncio.shield(task)

    async def recheck(self) -> dict[str, int]:
        """Return the heads in the store of all that is subscribed to, and send those who are behind there."""
        try:
            heads = await self.read(self.store.heads, self.hub.agents)
            heads[frames.ALL] = (await self.read(self.store.position))[0]
        except Exception as error:  # whatever it was, the next heartbeat must come
            logger.warning("cannot read the heads for a heartbeat: %r", error)
            return {}
        self.hub.recheck(heads)
        self.schedule()
        return heads
