"""Timers: one thread and one heap for any number of them.

Owned by a dispatcher. What a timer calls must not block: it puts a message into a mailbox, or schedules a turn.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger(__name__)


class Timer:
    """One call that is still to come."""

    __slots__ = ("_callback", "_number", "due")

    def __init__(self, due: float, number: int, callback: Callable[[], object]) -> None:
        """Made by the dispatcher."""
        self.due = due
        self._number = number
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: "Timer") -> bool:
        return (self.due, self._number) < (other.due, other._number)

    def cancel(self) -> None:
        """Do not call any more. Idempotent; too late if the call is under way."""
        self._callback = None

    def fire(self) -> None:
        """Call, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            try:
                callback()
            except BaseException:  # one timer's mistake must not keep the others from firing
                logger.exception("the callback of a timer failed")


class Timers:
    """The timers of one dispatcher. The thread is started with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._heap: list[Timer] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay_s` seconds, on the timers' thread. Any thread."""
        timer = Timer(time.monotonic() + delay_s, next(self._numbers), callback)
        with self._changed:
            heapq.heappush(self._heap, timer)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name=f"{self._name}-timers", daemon=True)
                self._thread.start()
            self._changed.notify()
        return timer

    def stop(self) -> None:
        """End the thread; what is not due yet is not called."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            timer.fire()

    def _next(self) -> Timer | None:
        with self._changed:
            while not self._stopped:
                left = self._heap[0].due - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)
                self._changed.wait(left)
        return None
