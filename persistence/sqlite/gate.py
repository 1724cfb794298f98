"""The gate between page reads and commits of one file inside one process.

In DELETE mode a reader and a commit exclude each other, and SQLite settles it by polling, which starves the side that
polls less often. The gate settles it by turns: while a commit waits or runs, new readers queue; when it ends, the
queued readers are let in, in the order in which they came, up to `max_readers`, before the next commit can begin. So a
reader waits for at most one commit for every `max_readers` ahead of it, and a commit for at most one page of each
reader inside. Prior art: a phase-fair reader-writer lock (Brandenburg and Anderson, 2009). Any thread; blocks; never
spins. A wait that is broken off (Ctrl-C, a time limit) leaves no place taken.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from commitcast.persistence.read_timeout import remaining_s


class Gate:
    """Readers together, one writer alone, in fair turns."""

    def __init__(self, max_readers: int) -> None:
        """Make a gate that lets in this number of readers at once (one for each connection)."""
        self._changed = threading.Condition()
        self._max_readers = max_readers
        self._readers = 0
        self._queue: deque[object] = deque()
        self._writer_waits = False
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a reader's place. Blocks while a commit waits or runs, up to the time limit of `read_within`.

        Raises:
            StoreReadTimeoutError: the time limit was reached.
        """
        with self._changed:
            if self._writing or self._writer_waits or self._queue or self._readers >= self._max_readers:
                self._wait_for_a_place()
            else:
                self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._leave()

    def _wait_for_a_place(self) -> None:
        ticket = object()
        self._queue.append(ticket)
        try:
            while ticket in self._queue:  # `_admit` takes it out and has then taken a place for it
                self._changed.wait(remaining_s())
        except BaseException:  # a timeout or Ctrl-C: the ticket must not block the queue
            if ticket in self._queue:
                self._queue.remove(ticket)
            else:
                self._leave()
            raise

    def _leave(self) -> None:
        self._readers -= 1
        self._admit()

    @contextmanager
    def writing(self, timeout: float | None = None) -> Iterator[bool]:
        """Hold the writer's place. Blocks until the readers inside have left; one writer thread only.

        Args:
            timeout: seconds that this may take; None: no limit.

        Yields:
            Whether they left in time; else the place is not held.
        """
        with self._changed:
            assert not self._writing and not self._writer_waits
            self._writer_waits = True
            try:
                self._writing = not self._readers or self._changed.wait_for(lambda: not self._readers, timeout)
            finally:
                self._writer_waits = False
                if not self._writing:
                    self._admit()
        try:
            yield self._writing
        finally:
            with self._changed:
                self._writing = False
                if self._queue:
                    self._admit()

    def _admit(self) -> None:
        """Let in the readers that may be inside now, and wake all that wait."""
        while self._queue and self._readers < self._max_readers and not self._writing and not self._writer_waits:
            self._queue.popleft()
            self._readers += 1
        self._changed.notify_all()
