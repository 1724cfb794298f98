"""The texts that were sent to an agent and that its source has not taken: bounded, and ended with the agent.

A place is reserved for a text before it is stored, so nothing becomes durable that could then not be delivered. Any
thread and any event loop; the agent's end wakes all that wait.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from commitcast.actors.errors import LoopWouldBlockError, SourceCancelledError
from commitcast.actors.kernel.loopcalls import call_on_loop
from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.loop import running_loop
from commitcast.persistence.errors import CommitcastError, ForkedRuntimeError

INBOX_MESSAGES: Final = 1_024
INBOX_BYTES: Final = 8 * 1024 * 1024
"""As much as an agent may have on its way to the disk."""

Wake = Callable[[], object]


class Inbox:
    """The texts that were sent to one agent, oldest first. A source may read it like a `queue.Queue`.

    When the agent has ended, `get` and `get_nowait` raise `SourceCancelledError`; texts that are left are dropped.
    """

    def __init__(self, agent: str, *, limit_messages: int = INBOX_MESSAGES, limit_bytes: int = INBOX_BYTES) -> None:
        """Make an empty one.

        Args:
            agent: the agent's id.
            limit_messages: how many texts it may hold, with those that are being stored for it.
            limit_bytes: how many bytes of them in UTF-8; a larger text has a place when it is alone.
        """
        self._agent = agent
        self._limit_messages = limit_messages
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._texts: deque[tuple[str, int]] = deque()
        self._messages = 0  # with those that a place is reserved for
        self._bytes = 0
        self._waiting: deque[Wake] = deque()
        self._end: CommitcastError | None = None

    # The source's side.

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        """Take the oldest text, waiting for one if there is none.

        Args:
            block: whether to wait.
            timeout: seconds that this may take; None waits until there is one.

        Raises:
            queue.Empty: there was none in time.
            SourceCancelledError: the agent has ended.
            LoopWouldBlockError: there was none, and waiting would block an event loop.
        """
        if timeout is not None and timeout < 0:
            raise ValueError(f"'timeout' must be a non-negative number of seconds, not {timeout}")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            arrived = Signal()
            with self._lock:
                if (text := self._take()) is not None:
                    return text
                if not block:
                    raise queue.Empty
                if running_loop() is not None:
                    raise LoopWouldBlockError
                self._waiting.append(arrived.set)
            self._wait(arrived, None if deadline is None else max(0.0, deadline - time.monotonic()))

    async def get_async(self) -> str:
        """Take the oldest text, awaiting one. Cancelling is safe: no text is lost. Raises `SourceCancelledError`."""
        loop = asyncio.get_running_loop()
        while True:
            arrived = asyncio.Event()
            wake = partial(call_on_loop, loop, arrived.set)
            with self._lock:
                if (text := self._take()) is not None:
                    return text
                self._waiting.append(wake)
            try:
                await arrived.wait()
            except BaseException:  # cancelled while it waits
                self._stop_waiting(wake)
                raise

    def _wait(self, arrived: Signal, timeout_s: float | None) -> None:
        is_woken = False
        try:
            is_woken = arrived.wait(timeout_s)
        finally:
            if not is_woken:
                is_woken = self._stop_waiting(arrived.set)
        if not is_woken:
            raise queue.Empty

    def _stop_waiting(self, wake: Wake) -> bool:
        """Take back a wait that was broken off; return whether it was woken in the same moment."""
        with self._lock:
            if wake in self._waiting:
                self._waiting.remove(wake)
                return False
            self._wake_one()  # the text that it was woken for goes to another
            return True

    def get_nowait(self) -> str:
        """Take the oldest text. Raises `queue.Empty` if there is none; else as `get`."""
        return self.get(block=False)

    def empty(self) -> bool:
        """Whether there are no texts to take now."""
        return not self._texts

    def qsize(self) -> int:
        """Return how many texts there are to take now."""
        return len(self._texts)

    def _take(self) -> str | None:
        """Take the oldest text if there is one."""
        if self._end is not None:
            raise type(self._end)(*self._end.args)  # a new one each time, because several threads may raise it
        if not self._texts:
            return None
        text, size = self._texts.popleft()
        self._count(-1, -size)
        return text

    # The agent's side.

    def reserve(self, size: int) -> bool:
        """Reserve a place for a text of `size` bytes that is about to be stored; return False if there is none."""
        with self._lock:
            if self._messages and (self._messages >= self._limit_messages or self._bytes + size > self._limit_bytes):
                return False
            self._count(1, size)
            return True

    def count_in(self, size: int) -> None:
        """Reserve a place regardless of the bounds, for a text that is being stored already."""
        with self._lock:
            self._count(1, size)

    def _count(self, messages: int, size: int) -> None:
        self._messages += messages
        self._bytes += size

    def settle(self, text: str | None, size: int) -> None:
        """Put a text that is stored into its place; None gives the place back, because the text was not stored."""
        with self._lock:
            if text is None or self._end is not None:
                self._count(-1, -size)
            else:
                self._texts.append((text, size))
                self._wake_one()

    def end(self) -> None:
        """Drop all texts and wake all that wait: the agent has ended. Idempotent."""
        with self._lock:
            while self._texts:
                self._count(-1, -self._texts.popleft()[1])
            self._end = self._end or SourceCancelledError(self._agent)
            while self._waiting:
                self._wake_one()

    def _wake_one(self) -> None:
        if self._waiting:
            self._waiting.popleft()()

    def _drop_in_child(self) -> None:
        self._lock = threading.Lock()
        self._end = ForkedRuntimeError()
