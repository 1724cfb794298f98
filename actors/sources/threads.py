"""The threads of blocking sources, up to a limit; further sources wait in order. Never the threads of the actors."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.sources.processes.registry import Processes

MAX_RUNNING_SOURCES: Final = 256
"""Threads for blocking sources; further ones wait for a free one."""


class SourceThreads:
    """Up to `limit` threads for blocking sources; further sources wait in order."""

    def __init__(self, limit: int, spawn: Callable[[str, Callable[[], object]], None]) -> None:
        """Make a pool of at most `limit` threads; `spawn(name, work)` calls `work` on a thread of its own."""
        self._limit = limit
        self._spawn = spawn
        self._lock = threading.Lock()
        self._running = 0
        self._joining: list[Signal] = []
        self.processes = Processes()
        """The commands that the sources run."""
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` on a thread named `name`, as soon as there may be one more."""
        with self._lock:
            if self._running >= self._limit:
                self._waiting.append((name, work))
                return
            self._running += 1
        try:
            self._spawn(name, lambda: self._run(work))
        except BaseException:  # no thread can be started: the place is free again, and waiting sources go on waiting
            with self._lock:
                self._running -= 1
            raise

    def _run(self, work: Callable[[], None] | None) -> None:
        """Run one source after another on this thread, for as long as any waits."""
        while work is not None:
            try:
                work()
            finally:
                work = self._end_one()

    def _end_one(self) -> Callable[[], None] | None:
        """Return the next source that waits; if there is none, end this thread."""
        with self._lock:
            if self._waiting:
                name, work = self._waiting.popleft()
                if threading.current_thread() is not threading.main_thread():
                    threading.current_thread().name = name
                return work
            self._running -= 1
            joining, self._joining = (self._joining, []) if self._running == 0 else ([], self._joining)
        for signal in joining:
            signal.set()
        return None

    def _drop_in_child(self) -> None:
        """Start nothing more in a child, which may be forked by a source."""
        self._lock = threading.Lock()
        self._waiting = deque()
        self._joining = []

    def join(self, timeout_s: float) -> bool:
        """Wait until no source runs; return whether that came true in time."""
        ended = Signal()
        with self._lock:
            if self._running == 0:
                return True
            self._joining.append(ended)
        return ended.wait(timeout_s)
