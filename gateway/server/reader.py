"""Reads the store for subscribers, on threads of its own.

Owns the reader threads, and the pages that were read lately with the frames made of them: after a restart all
subscribers ask for the same pages. A page is kept only if more followed it when it was read, for then it is history,
which never changes; and not for long, because agents are deleted. Runs on the gateway's loop.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

import msgspec

from commitcast.gateway.hub.log import ENTRY_BYTES, FrameKey, NextFrame, frame_size
from commitcast.gateway.hub.subscription import Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.metrics import Traffic
from commitcast.persistence.errors import AgentNotFoundError
from commitcast.persistence.store import AgentPage, FeedPage, Head, Reader, entry_size

T = TypeVar("T")

THREADS: Final = 4
"""As many pages as a store reads at once."""
CLOSE_S: Final = 6.0
"""For the reads under way at the end: a store waits five seconds for another program that has the file."""
PAGE_ROWS: Final = 1_024
"""For one who is far behind: four times as many as elsewhere, for a quarter of the transactions."""
HEADS_ROWS: Final = 512
"""Agents whose heads are read at once: a few milliseconds, for which a commit may have to wait."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of all pages with their frames; some fifty pages of the ordinary size."""
KEPT_S: Final = 2.0

PageKey = tuple[str, int, int]
"""The log's agent, and the cursor and position that the page follows."""


class SharedPage(msgspec.Struct, eq=False):
    """A page, and the frames that were made of it for the subscriptions that asked for it."""

    page: AgentPage | FeedPage
    frames: dict[FrameKey, NextFrame] = {}
    is_kept: bool = False
    entries_size: int = 0
    """Bytes of its entries, if it is kept."""
    size: int = 0
    """And of its frames, when they were last counted."""


class PageCache:
    """The pages that were read lately. Times are of one clock, in seconds."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._pages: OrderedDict[PageKey, tuple[SharedPage, float]] = OrderedDict()
        self._max_bytes = max_bytes
        self.size = 0
        """Bytes of all pages that are kept."""

    def get(self, key: PageKey, now: float) -> SharedPage | None:
        """Return a page that was read within the last `KEPT_S` seconds."""
        self.forget(now)
        kept = self._pages.get(key)
        return None if kept is None else kept[0]

    def put(self, key: PageKey, page: AgentPage | FeedPage, now: float) -> SharedPage:
        """Keep a page if it is history; return it to be shared."""
        shared = SharedPage(page)
        if not page.at_end and key not in self._pages:
            shared.entries_size = sum(ENTRY_BYTES + entry_size(entry) for entry in page.entries)
            shared.is_kept = True
            self._pages[key] = shared, now
        self.recount(shared, now)
        return shared

    def recount(self, page: SharedPage, now: float) -> None:
        """Count the frames that were made of a page since it was put."""
        if page.is_kept:
            size = page.entries_size + sum(map(frame_size, page.frames.values()))
            self.size += size - page.size
            page.size = size
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop the pages that were read too long ago, and the oldest beyond the bound."""
        while self._pages:
            page, read_at = next(iter(self._pages.values()))
            if self.size <= self._max_bytes and now - read_at <= KEPT_S:
                return
            self._pages.popitem(last=False)
            page.is_kept = False
            self.size -= page.size


class StoreReader:
    """Calls the store on reader threads."""

    def __init__(self, store: Reader, traffic: Traffic) -> None:
        """Make a reader, whose threads start when needed."""
        self.store = store
        self.pages = PageCache()
        self._traffic = traffic
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gateway-reader")
        self._under_way: set[Future[Any]] = set()

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the store on a reader thread."""
        reading = self._threads.submit(function, *arguments)
        self._under_way.add(reading)
        reading.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(reading)

    def close(self) -> None:
        """End the reader threads. Blocks for the reads under way, at most `CLOSE_S`. Any thread; idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        left = wait(list(self._under_way), CLOSE_S).not_done
        self._threads.shutdown(wait=not left)

    async def page(self, key: PageKey, on_begin: Callable[[], object]) -> SharedPage:
        """Return a page that was read lately, or read it.

        Args:
            key: of the page.
            on_begin: called on any thread before the page is read: who wants it from then on may know of something
                that is not in it, and must read it again.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        kept = self.pages.get(key, time.monotonic())
        if kept is not None:
            on_begin()
            return kept
        agent, cursor, position = key

        def read() -> AgentPage | FeedPage:
            on_begin()
            if agent == frames.ALL:
                return self.store.feed(position, PAGE_ROWS)
            return self.store.entries(agent, cursor, position, PAGE_ROWS)

        page = await self.read(read)
        self._traffic.pages += 1
        return self.pages.put(key, page, time.monotonic())

    async def end(self, subscription: Subscription) -> tuple[int, int, str | None]:
        """Return the cursor and position where a subscription's log ends, and the agent's status; None for all agents.

        Raises:
            AgentNotFoundError: the agent was deleted; another one may have its id.
        """
        if subscription.is_to_all:
            position, _ = await self.read(self.store.position)
            return position, position, None
        end = await self.read(self.store.resolve_cursor, subscription.agent, None)
        if end.record.epoch != subscription.epoch:
            raise AgentNotFoundError(subscription.agent)
        return end.record.head, end.position, end.record.status.value

    async def heads(self, agents: list[str]) -> dict[str, Head]:
        """Return the heads of the logs of these agents, without those that do not exist, and of all agents."""
        heads: dict[str, Head] = {}
        for start in range(0, len(agents), HEADS_ROWS):
            heads |= await self.read(self.store.heads, agents[start : start + HEADS_ROWS])
        last, _ = await self.read(self.store.position)
        heads[frames.ALL] = Head(last, last)
        return heads
