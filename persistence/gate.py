"""The gate between page reads and commits of one file inside one process.

In DELETE mode a reader and a commit exclude each other, and SQLite settles it by polling, which starves whoever
polls less often. The gate settles it by turns: while a commit waits or runs, new readers queue; when it ends, all
readers that queued meanwhile are let in (up to `max_readers`) before the next commit can begin. So a reader waits
for at most one commit, and a commit for at most one page of each reader. Any thread; blocks; never spins.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Readers together, one writer alone, in fair turns."""

    def __init__(self, max_readers: int) -> None:
        """Make a gate.

        Args:
            max_readers: how many readers may be inside at once (one for each connection).
        """
        self._changed = threading.Condition()
        self._max_readers = max_readers
        self._readers = 0
        self._queued = 0
        self._admitted = 0
        self._writer_waits = False
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a reader's place. Blocks while a commit waits or runs."""
        with self._changed:
            if self._writing or self._writer_waits or self._queued or self._readers >= self._max_readers:
                self._queued += 1
                while not self._admitted:
                    self._changed.wait()
                self._admitted -= 1  # the place itself was taken by `_admit`
            else:
                self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._writer_waits:
                    self._admit()
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's place. Blocks until the readers inside have left; one writer thread only."""
        with self._changed:
            assert not self._writing and not self._writer_waits
            self._writer_waits = True
            while self._readers:
                self._changed.wait()
            self._writer_waits = False
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._admit()
                self._changed.notify_all()

    def _admit(self) -> None:
        places = min(self._queued, self._max_readers - self._readers)
        if places > 0:
            self._queued -= places
            self._admitted += places
            self._readers += places
