"""Commit signals: wake the threads and tasks that wait for an agent's next commit (`follow`, `wait`).

A `CommitSignal` has a version that rises with each commit. A waiter takes the version first, then reads the store, then
waits for a newer version, so that no commit can fall between. Agents that are not waited for have no signal, so that
their commits only look into a dict.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.loop import call_on_loop

RECHECK_S: Final = 1.0
"""A waiter reads the store again after this long without a signal, so that a lost wake-up only delays it."""


class CommitSignal:
    """Signals the commits of one agent to any number of waiters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._waiting: list[Callable[[], object]] = []
        self.users = 0
        """How many use it. Kept by `CommitSignals`."""

    @property
    def version(self) -> int:
        """How many commits were signalled; take it before reading the store."""
        return self._version

    def notify(self) -> None:
        """Wake all waiters. Any thread."""
        with self._lock:
            self._version += 1
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait(self, version: int, timeout_s: float) -> None:
        """Block until there is a newer version, for `timeout_s` at most."""
        changed = Signal()
        if self._register(version, changed.set) and not changed.wait(timeout_s):
            self._forget(changed.set)

    async def wait_async(self, version: int, timeout_s: float) -> None:
        """Await a newer version, for `timeout_s` at most."""
        changed = asyncio.Event()
        wake = partial(call_on_loop, asyncio.get_running_loop(), changed.set)
        if self._register(version, wake):
            try:
                await asyncio.wait_for(changed.wait(), timeout_s)
            except TimeoutError:
                pass
            finally:
                self._forget(wake)

    def _drop_in_child(self) -> None:
        self._lock = threading.Lock()
        self._waiting = []

    def _forget(self, wake: Callable[[], object]) -> None:
        with self._lock:
            if wake in self._waiting:
                self._waiting.remove(wake)

    def _register(self, version: int, wake: Callable[[], object]) -> bool:
        with self._lock:
            if self._version != version:
                return False
            self._waiting.append(wake)
            return True


class CommitSignals:
    """The commit signals of a runtime, kept only while they are used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used: dict[str, CommitSignal] = {}
        """By agent. Any thread may look into it."""

    def notify_all(self) -> None:
        """Wake the waiters of all agents, to look at the state of the runtime."""
        with self._lock:
            signals = list(self.used.values())
        for signal in signals:
            signal.notify()

    @contextmanager
    def of(self, agent: str) -> Iterator[CommitSignal]:
        """Use the signal of an agent."""
        with self._lock:
            signal = self.used.setdefault(agent, CommitSignal())
            signal.users += 1
        try:
            yield signal
        finally:
            with self._lock:
                signal.users -= 1
                if not signal.users:
                    del self.used[agent]

    def _drop_in_child(self) -> None:
        """Let a wait in a child end without another error than the store's."""
        self._lock = threading.Lock()
        for signal in self.used.values():
            signal._drop_in_child()
