"""Waking those who wait for an agent's next commit: followers, waiters, caught-up checks.

A version for each watched agent, raised after each commit. Whoever waits takes the version first, then reads the
store, then waits for a newer version, so no commit can fall between. Costs nothing for agents nobody watches.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.loop import call_on_loop

RECHECK_S: Final = 1.0
"""A waiter reads the store again after this long even if nobody woke it, so a lost wake-up only delays."""


class Watch:
    """The waiters of one agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._waiting: list[Callable[[], object]] = []

    @property
    def version(self) -> int:
        """How many commits were seen; take it before reading the store."""
        return self._version

    def raise_version(self) -> None:
        """Wake everybody. Any thread."""
        with self._lock:
            self._version += 1
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait(self, version: int, timeout_s: float) -> None:
        """Block until there is a newer version, for `timeout_s` at most."""
        changed = Signal()
        if self._register(version, changed.give) and not changed.wait(timeout_s):
            self._forget(changed.give)

    async def wait_async(self, version: int, timeout_s: float) -> None:
        """Await a newer version, for `timeout_s` at most."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        wake = partial(call_on_loop, loop, changed.set)
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


class Watches:
    """The watches of a runtime, kept only while somebody uses them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, tuple[Watch, int]] = {}

    def raise_version(self, agent: str) -> None:
        """Wake those who watch this agent."""
        found = self._watches.get(agent)
        if found is not None:
            found[0].raise_version()

    def raise_all(self) -> None:
        """Wake everybody, to look at the state of the runtime."""
        with self._lock:
            watches = [watch for watch, _ in self._watches.values()]
        for watch in watches:
            watch.raise_version()

    def _drop_in_child(self) -> None:
        """Let what follows an agent end in a child without another error than the store's."""
        self._lock = threading.Lock()
        for watch, _ in self._watches.values():
            watch._drop_in_child()

    def enter(self, agent: str) -> Watch:
        """Begin to watch an agent; to be left again."""
        with self._lock:
            watch, users = self._watches.get(agent) or (Watch(), 0)
            self._watches[agent] = (watch, users + 1)
            return watch

    def leave(self, agent: str) -> None:
        """End a watch."""
        with self._lock:
            watch, users = self._watches[agent]
            if users == 1:
                del self._watches[agent]
            else:
                self._watches[agent] = (watch, users - 1)
