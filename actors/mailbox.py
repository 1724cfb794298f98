"""An actor's mailbox: first in, first out, any number of senders, and nothing lost at the end.

Lock-free on the way in: `deque.append` and `popleft` are atomic, and one lock is only ever tried, as the token that
says whether the actor is waiting for work. Closing leaves no gap: who puts into a closed mailbox answers it himself.

The mailbox itself has no bound. What grows with load is counted before it gets here (`flow.py`), so that control
messages always pass; see `docs/guarantees.md`.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pykka._envelope import Envelope

Schedule = Callable[[], object]


class Mailbox:
    """The messages that wait for one actor."""

    __slots__ = ("_closed", "_idle", "_queue", "_refuse", "_schedule")

    def __init__(self) -> None:
        self._queue: deque[Envelope[Any]] = deque()
        self._idle = threading.Lock()  # free: the actor waits for work, and whoever takes it schedules a turn
        self._idle.acquire()  # nobody schedules before `open`
        self._schedule: Schedule | None = None
        self._closed = False
        self._refuse: Callable[[Envelope[Any]], None] | None = None

    def open(self, schedule: Schedule, refuse: Callable[[Envelope[Any]], None]) -> None:
        """Begin to schedule turns.

        Args:
            schedule: called when there is work and no turn is scheduled or under way. Must not block.
            refuse: answers what arrives after `close`.
        """
        self._schedule = schedule
        self._refuse = refuse
        self.turn_ended()

    def put(self, envelope: Envelope[Any]) -> None:
        """Add a message. Any thread; never blocks."""
        self._queue.append(envelope)
        if self._closed:
            self._drain()
        elif self._idle.acquire(blocking=False):
            assert self._schedule is not None
            self._schedule()

    def get(self) -> Envelope[Any]:
        """Take the oldest message. Raises `IndexError` if there is none."""
        return self._queue.popleft()

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._queue

    def turn_ended(self) -> None:
        """Wait for work again; schedule a turn at once if there is some already."""
        self._idle.release()
        if self._queue and self._idle.acquire(blocking=False):
            assert self._schedule is not None
            self._schedule()

    def close(self) -> None:
        """Take nothing more: answer what waits, and whatever still comes."""
        self._closed = True
        self._drain()

    def _drain(self) -> None:
        assert self._refuse is not None
        while True:
            try:
                envelope = self._queue.popleft()
            except IndexError:
                return
            self._refuse(envelope)
