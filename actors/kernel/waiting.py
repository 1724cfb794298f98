"""The one place where a thread of the host waits for actors: for an answer, for room, for a commit.

The waiting thread blocks on a `Signal`, which another thread sets. A test that runs every actor on its own thread has
no other thread, so it may name a `Scheduler` for its thread, which runs actors until the signal is set.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from commitcast.actors.kernel.errors import WouldBlockError


class ThisThread(threading.local):
    """What is known of the thread that reads it."""

    in_turn = False
    """Whether it is in an actor's turn, where nothing may block."""
    scheduler: "Scheduler | None" = None
    """Runs actors while it waits."""
    gathered: "dict[Wakeable, None] | None" = None
    """What it is to wake at the end of many turns; None while it wakes at once. Those turns do not wait for it."""


this_thread: Final = ThisThread()


class Wakeable(Protocol):
    """What waits for calls, and can be woken once for many."""

    def wake(self) -> object:
        """Wake it if something waits."""


class Signal:
    """A one-shot event: set once, by any thread, and waited for by one. Smaller than an `Event`: one lock."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Release the thread that waits. Once."""
        self._lock.release()

    @property
    def is_set(self) -> bool:
        """Whether it is set and its waiter has not gone on yet."""
        return not self._lock.locked()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is set; return whether it was.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            WouldBlockError: the thread is in an actor's turn, and setting the signal may need that very thread.
        """
        if this_thread.in_turn:
            raise WouldBlockError
        if this_thread.scheduler is not None:
            return this_thread.scheduler.run_until(self, timeout)
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))


class Latch:
    """A one-shot event that any number of threads wait for. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._waiting: list[Signal] = []

    def set(self) -> None:
        """Release all threads that wait, and those that will. Idempotent."""
        with self._lock:
            self._is_set = True
            waiting, self._waiting = self._waiting, []
        for signal in waiting:
            signal.set()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is set, or the seconds are over; return whether it was. See `Signal.wait`."""
        signal = Signal()
        with self._lock:
            if self._is_set:
                return True
            self._waiting.append(signal)
        return signal.wait(timeout)


class Scheduler(Protocol):
    """Runs actors on the only thread there is, while that thread waits."""

    def run_until(self, signal: Signal, timeout: float | None) -> bool:
        """Run actors until a signal is set; return False if it was not within `timeout` seconds of their clock."""


@contextmanager
def scheduled_by(scheduler: Scheduler) -> Iterator[None]:
    """Have a scheduler run actors whenever this thread waits."""
    before, this_thread.scheduler = this_thread.scheduler, scheduler
    try:
        yield
    finally:
        this_thread.scheduler = before


def _in_child() -> None:
    this_thread.in_turn = False  # a child that was forked in a callback is not in an actor's turn
    this_thread.gathered = None


os.register_at_fork(after_in_child=_in_child)
