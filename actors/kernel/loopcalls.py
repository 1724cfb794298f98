"""Calls from other threads onto event loops: all that come before a loop gets to them travel with one wake-up.

To wake a loop is a system call during which another thread takes the interpreter; one for each of many futures that a
commit completes would keep the writer from its next commit. So a thread that takes many turns gathers the loops
(`this_thread.gathered`), and wakes each once at the end. Any thread.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary, ref

from commitcast.actors.kernel.waiting import this_thread


class _LoopCalls:
    """The calls that wait for one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: deque[Callable[[], object]] = deque()
        self._loop = ref(loop)
        self._is_scheduled = False

    def wake(self) -> bool:
        """Wake the loop unless it is about to come here; return False if it is closed."""
        loop = self._loop()
        if self._is_scheduled and loop is not None and not loop.is_closed():
            return True
        self._is_scheduled = True
        try:
            if loop is not None and asyncio._get_running_loop() is loop:  # this is its thread
                loop.call_soon(self.run)
                return True
            if loop is not None:
                loop.call_soon_threadsafe(self.run)
                return True
        except RuntimeError:  # it is closed
            pass
        self.waiting.clear()
        return False

    def drop_schedule(self) -> None:
        """Forget that the loop is about to come: in a child it is not."""
        self._is_scheduled = False

    def run(self) -> None:
        """Make the calls that came so far. On the loop."""
        self._is_scheduled = False  # first: what is appended from now on schedules again
        left = len(self.waiting)
        try:
            while left:
                left -= 1
                try:
                    self.waiting.popleft()()
                except Exception as error:  # one call must not keep the others from theirs
                    context = {"message": "a call from another thread failed", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)
        finally:
            if left:  # Ctrl-C: the others are still waited for
                asyncio.get_running_loop().call_soon(self.run)


_calls: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopCalls]] = WeakKeyDictionary()
_lock = threading.Lock()  # of new keys


def call_on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """Call something on a loop, soon and in order; return False if the loop is closed, so that nothing waits there."""
    calls = _calls.get(loop)
    if calls is None:
        with _lock:
            calls = _calls.setdefault(loop, _LoopCalls(loop))
    calls.waiting.append(call)
    if this_thread.gathered is None or loop.is_closed():
        return calls.wake()
    this_thread.gathered[calls] = None
    return True


def wake_on_loop(loop: asyncio.AbstractEventLoop, wake: Callable[[], object]) -> bool:
    """Wake something that waits on a loop, at once if this is the loop's thread; return False if the loop is closed.

    For calls whose order among others does not matter, and that only schedule something.
    """
    if asyncio._get_running_loop() is loop:
        wake()
        return True
    return call_on_loop(loop, wake)


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for calls in _calls.values():
        calls.drop_schedule()


os.register_at_fork(after_in_child=_in_child)
