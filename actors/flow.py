"""The bound on what is on its way to the disk: counted when it is queued, given back when it is acknowledged.

One gate for each agent, all under one for the whole runtime. Whoever would pass a bound waits, is refused, or awaits;
nothing is dropped. Any thread; on an event loop only the forms that do not block.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from commitcast.actors.errors import BackpressureError

AGENT_MESSAGES: Final = 1_024
AGENT_BYTES: Final = 8 * 1024 * 1024
"""For one agent: about a quarter of a full batch, so a few busy agents keep the writer busy."""
RUNTIME_MESSAGES: Final = 262_144
RUNTIME_BYTES: Final = 256 * 1024 * 1024
"""For all agents together: what a runtime may hold in memory at most while the disk stands still."""


class FlowGate:
    """Counts messages and bytes under a bound, and under that of its parent."""

    def __init__(self, owner: str, max_messages: int, max_bytes: int, parent: "FlowGate | None" = None) -> None:
        """Make a gate.

        Args:
            owner: whom a `BackpressureError` names.
            max_messages: how many may be on their way.
            max_bytes: how many bytes they may have together; one message larger than this passes when it is alone.
            parent: a gate whose bound holds too.
        """
        self._owner = owner
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._parent = parent
        self._lock = threading.Lock()
        self._messages = 0
        self._bytes = 0
        self._waiting: list[Callable[[], object]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return self._messages == 0

    def try_acquire(self, size: int) -> bool:
        """Count one message of `size` bytes if the bound allows it."""
        with self._lock:
            if self._messages and (self._messages >= self._max_messages or self._bytes + size > self._max_bytes):
                return False
            if self._parent is not None and not self._parent.try_acquire(size):
                return False
            self._messages += 1
            self._bytes += size
            return True

    def acquire(self, size: int, timeout_s: float | None) -> None:
        """Count one message, waiting until the bound allows it. Blocks.

        Raises:
            BackpressureError: it did not allow it within `timeout_s`; nothing was counted.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.try_acquire(size):
            freed = threading.Event()
            call = freed.set
            self._call_when_freed(call)
            if self.try_acquire(size):
                self._forget(call)
                return
            if not freed.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                self._forget(call)
                raise BackpressureError(self._owner)

    async def acquire_async(self, size: int) -> None:
        """Count one message, awaiting until the bound allows it. Cancelling is safe: nothing was counted."""
        while not self.try_acquire(size):
            loop = asyncio.get_running_loop()
            freed = asyncio.Event()
            self._call_when_freed(lambda loop=loop, freed=freed: _wake(loop, freed))  # type: ignore[misc]
            if self.try_acquire(size):
                return
            await freed.wait()

    def release(self, messages: int, size: int) -> None:
        """Give back what was counted."""
        with self._lock:
            self._messages -= messages
            self._bytes -= size
            assert self._messages >= 0 and self._bytes >= 0
            waiting, self._waiting = self._waiting, []
        if self._parent is not None:
            self._parent.release(messages, size)
        for call in waiting:
            call()

    def _call_when_freed(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._waiting.append(call)
        if self._parent is not None:
            self._parent._call_when_freed(call)

    def _forget(self, call: Callable[[], object]) -> None:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
        if self._parent is not None:
            self._parent._forget(call)


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
        pass
