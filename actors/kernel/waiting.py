"""The one place where a thread of the host waits for actors: for an answer, for room, for a commit.

Whoever waits holds a lock that the other side releases. A test that runs every actor on its own thread has nobody else
to release it, so it may name a driver for its thread, which runs actors until it is released.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from commitcast.actors.errors import WouldBlockError

_thread = threading.local()


def is_in_turn() -> bool:
    """Whether this thread is in an actor's turn, where nothing may block."""
    return getattr(_thread, "in_turn", False)


def enter_turn() -> None:
    """Let nothing block on this thread from now on."""
    _thread.in_turn = True


def leave_turn() -> None:
    """Let this thread block again."""
    _thread.in_turn = False


os.register_at_fork(after_in_child=leave_turn)  # a child that was forked in a callback is in no actor's turn


class Signal:
    """Given once, by any thread; waited for by one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Let the one who waits go on. Once."""
        self._lock.release()

    @property
    def is_given(self) -> bool:
        """Whether it was given and nobody has gone on yet."""
        return not self._lock.locked()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until it is given, for `timeout_s` seconds at most (None: for ever); return whether it was.

        Raises:
            WouldBlockError: the thread is in an actor's turn, and what it waits for may need that very thread.
        """
        if is_in_turn():
            raise WouldBlockError
        driver: Driver | None = getattr(_thread, "driver", None)
        if driver is not None:
            return driver.drive(self, timeout_s)
        return self._lock.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX))


class Driver(Protocol):
    """What makes things happen when the only thread there is waits for them."""

    def drive(self, signal: Signal, timeout_s: float | None) -> bool:
        """Run actors until a signal is given; return False if it was not within `timeout_s` of their clock."""


@contextmanager
def driven_by(driver: Driver) -> Iterator[None]:
    """Let a driver run whenever this thread waits."""
    before = getattr(_thread, "driver", None)
    _thread.driver = driver
    try:
        yield
    finally:
        _thread.driver = before
