"""The way from the actors' threads to the gateway's loop: bounded, never blocking, in order.

Must never delay a commit. What the loop cannot take in time is dropped here and remembered as dropped: it is in the
store, and those who lack it are sent there. Any thread puts; the loop takes.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from commitcast.gateway.hub.log import ENTRY_BYTES, committed_size
from commitcast.gateway.protocol import frames
from commitcast.persistence.records import Committed

HANDED_OVER_BYTES: Final = 64 * 1024 * 1024
"""Waiting for the loop; several seconds of what a disk takes."""


class Handover:
    """What waits for the loop."""

    def __init__(self, wake: Callable[[], object]) -> None:
        """Make it; `wake` is called when there is something to take after there was nothing."""
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Committed | frames.Error] = deque()
        self._bytes = 0
        self._dropped: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def publish(self, committed: Committed) -> None:
        """Put what was committed."""
        with self._lock:
            if self._bytes > HANDED_OVER_BYTES:
                self._dropped[committed.agent] = self._dropped[frames.ALL] = committed.last_position
                return  # something waits, so `take` is still to come
            first = self._append(committed, committed_size(committed))
        if first:
            self._wake()

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Put word of something that was refused, if there is room."""
        with self._lock:
            if self._bytes > HANDED_OVER_BYTES:
                return
            first = self._append(frames.Error(agent=agent, code=code, message=message, retry=retry), ENTRY_BYTES)
        if first:
            self._wake()

    def _append(self, fact: Committed | frames.Error, size: int) -> bool:
        first = not self._waiting
        self._waiting.append(fact)
        self._bytes += size
        return first

    def take(self) -> tuple[deque[Committed | frames.Error], dict[str, int]]:
        """Take everything: what waits, and for each agent of which commits were dropped the last one's position."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            dropped, self._dropped = self._dropped, {}
            self._bytes = 0
        return taken, dropped
