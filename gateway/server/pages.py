"""Pages of the store and the frames made of them, kept for a moment: after a restart everybody asks for the same. Pure.

A page is kept only if more followed it when it was read: then it is history, which is never changed. It is not kept
for long, because agents are deleted.
"""

from collections import OrderedDict
from typing import Final

import msgspec

from commitcast.gateway.hub.log import FORMS, FrameKey, Made, entry_size
from commitcast.persistence.store import AgentPage, FeedPage

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of all pages with their frames; some fifty pages of the ordinary size."""
KEPT_S: Final = 2.0

PageKey = tuple[str, int, int]
"""The log's agent, and the cursor and position that the page follows."""


class SharedPage(msgspec.Struct, eq=False):
    """A page, and the frames that were made of it for one subscriber or another."""

    page: AgentPage | FeedPage
    frames: dict[FrameKey, Made] = {}

    @property
    def size(self) -> int:
        """Bytes that it counts for, with frames of one kind."""
        return (1 + FORMS) * sum(map(entry_size, self.page.entries))


class PageCache:
    """The pages that were read lately. Times are of one clock, in seconds."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._pages: OrderedDict[PageKey, tuple[SharedPage, int, float]] = OrderedDict()
        self._max_bytes = max_bytes
        self.size = 0
        """Bytes of all that are kept."""

    def get(self, key: PageKey, now: float) -> SharedPage | None:
        """Return a page that was read a moment ago."""
        self.forget(now)
        found = self._pages.get(key)
        return None if found is None else found[0]

    def put(self, key: PageKey, page: AgentPage | FeedPage, now: float) -> SharedPage:
        """Keep a page if it is history; return it to be shared."""
        shared = SharedPage(page)
        if not page.at_end and key not in self._pages:
            size = shared.size
            self._pages[key] = shared, size, now
            self.size += size
        self.forget(now)
        return shared

    def forget(self, now: float) -> None:
        """Let go of what was read too long ago, or is too much."""
        while self._pages:
            _, size, read_at = next(iter(self._pages.values()))
            if self.size <= self._max_bytes and now - read_at <= KEPT_S:
                return
            self._pages.popitem(last=False)
            self.size -= size
