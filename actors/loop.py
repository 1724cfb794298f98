"""Event loops: that of this thread, and those where async sources of sync hosts run.

`LoopThread` is a loop on a thread of its own; `DispatchedLoop` is one that a given dispatcher runs, by its clock: so a
`SeededDispatcher` decides the order of async sources too.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.waiting import Signal

SOCKETS_POLL_S: Final = 0.001
"""How long a dispatched loop lets others run before it looks at its sockets, which give a dispatcher no signal."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs on this thread; None if there is none, so that it may block."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class LoopThread:
    """A loop for others' tasks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Future[float] | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Any thread. Raises `RuntimeError` if the system has no thread for it."""
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                loop = asyncio.new_event_loop()
                stopping: asyncio.Future[float] = loop.create_future()
                thread = threading.Thread(target=_run, args=(loop, stopping), name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has none
                    loop.close()
                    raise
                self._loop, self._stopping, self._thread = loop, stopping, thread
            return self._loop

    def stop(self, timeout_s: float) -> bool:
        """Cancel what still runs, once, and end the thread when it has ended. Idempotent.

        Blocks, but not for the loop's own thread. What has not ended in half of the time is cancelled again.

        Returns:
            Whether it ended in time; else its thread is left behind.
        """
        with self._lock:
            loop, thread, stopping, self._loop = self._loop, self._thread, self._stopping, None
        if loop is None or thread is None or stopping is None or not thread.is_alive():
            return True
        loop.call_soon_threadsafe(stopping.set_result, timeout_s / 2)
        if thread is not threading.current_thread():
            thread.join(timeout_s)
        return not thread.is_alive()


def _run(loop: asyncio.AbstractEventLoop, stopping: asyncio.Future[float]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_run_until(stopping))  # to leave it cancels the tasks that are left


async def _run_until(stopping: asyncio.Future[float]) -> None:
    limit_s = await stopping
    deadline = asyncio.get_running_loop().time() + limit_s
    tasks = _others()
    for task in tasks:
        task.cancel()
    while tasks and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(tasks, timeout=left_s)
        await asyncio.sleep(0)  # what they have left unfinished is closed by tasks that begin now
        tasks = _others()


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


class DispatchedLoop:
    """A loop for others' tasks that a dispatcher runs: while nothing is ready in it, actors and other sources run."""

    def __init__(self, name: str, dispatcher: Dispatcher) -> None:
        self._name = name
        self._dispatcher = dispatcher
        self._loop: _DispatchedEventLoop | None = None
        self._ended = Signal()

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop. Any thread."""
        if self._loop is None:
            self._loop = _DispatchedEventLoop(self._dispatcher.now)
            self._stopping: asyncio.Future[float] = self._loop.create_future()
            self._dispatcher.spawn(self._name, partial(self._run, self._loop))
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        _run(loop, self._stopping)
        self._ended.set()

    def stop(self, timeout_s: float) -> bool:
        """Cancel what still runs, once, and end. Returns whether it ended in time. See `LoopThread.stop`."""
        loop, self._loop = self._loop, None
        if loop is None:
            return True
        loop.call_soon_threadsafe(self._stopping.set_result, timeout_s / 2)
        return running_loop() is not loop and self._ended.wait(timeout_s)


class _DispatchedEventLoop(asyncio.SelectorEventLoop):
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._waits = _SignalledSelector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._now()

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]  # passed on
        handle = super().call_soon_threadsafe(*args, **options)
        self._waits.wake()
        return handle


class _SignalledSelector(selectors.DefaultSelector):
    """Waits for a signal, during which a dispatcher runs others, and not for its descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self._woken = Signal()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it is set already
            self._woken.set()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        has_sockets = len(self.get_map()) > 1  # beside the loop's own
        if timeout is None or timeout > 0:
            self._woken.wait(SOCKETS_POLL_S if has_sockets else timeout)
            self._woken = Signal()
        return super().select(SOCKETS_POLL_S if has_sockets and timeout != 0 else 0)
