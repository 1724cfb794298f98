"""The tasks of async sources: each on the loop that it was launched on, cancelled once, and waited for at the stop.

A cancelled source may await while it cleans up, so its task is not cancelled a second time as long as there is time
for that. Any thread; only `join` blocks.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final

from commitcast.actors.kernel.loopcalls import call_on_loop
from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.loop import running_loop

CHECK_S: Final = 0.05
"""How often `join` checks whether a loop still runs: a loop that is stopped sends no notice."""


class SourceTask:
    """One async source on its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `SourceTasks`."""
        self.loop: Final = loop
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._was_cancelled = False

    def begin(self, work: Coroutine[Any, Any, None], on_end: Callable[["asyncio.Task[None]"], object]) -> None:
        """Begin. On the loop."""
        self._task = self.loop.create_task(work)
        self._task.add_done_callback(on_end)

    def cancel(self) -> None:
        """Cancel it. Any thread."""
        assert self._task is not None
        call_on_loop(self.loop, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._is_closing:
            self._was_cancelled = True
            self._task.cancel()

    def is_current(self) -> bool:
        """Whether the caller runs in this task."""
        return running_loop() is self.loop and asyncio.current_task() is self._task

    def will_close(self) -> None:
        """Take note that the source learns of the end by another error, and begins to clean up. On the loop."""
        self._is_closing = True

    def take_cancellation(self) -> bool:
        """Return whether a `CancelledError` that the caller has caught is this task's own, which ends with that.

        True only in this task, when `cancel` was what cancelled it: the caller then raises another error in its place.
        """
        if not self._was_cancelled or not self.is_current():
            return False
        assert self._task is not None
        self._task.uncancel()
        return True

    @property
    def is_on_closed_loop(self) -> bool:
        """Whether it will never go on."""
        return self.loop.is_closed()

    def can_end(self) -> bool:
        """Whether its end can be waited for: its loop runs, and not on this thread."""
        return self.loop.is_running() and self.loop is not running_loop()


class SourceTasks:
    """The tasks of a runtime's async sources."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[SourceTask] = set()  # a loop itself keeps only weak references
        self._joining: list[Signal] = []

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[SourceTask], Coroutine[Any, Any, None]],
        on_cancelled: Callable[[], object],
    ) -> SourceTask:
        """Run `work(task)` as a task of a loop.

        Args:
            loop: where.
            work: makes the coroutine.
            on_cancelled: called if the task was cancelled before the coroutine had begun, which so cannot report it.

        Raises:
            RuntimeError: the loop is closed.
        """
        task = SourceTask(loop)

        def on_end(done: "asyncio.Task[None]") -> None:
            self._end_one(task)
            if done.cancelled():
                on_cancelled()

        with self._lock:
            self._running.add(task)
        try:
            loop.call_soon_threadsafe(lambda: task.begin(work(task), on_end))
        except RuntimeError:
            self._end_one(task)
            raise
        return task

    def close(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator that a source has left unfinished; `join` waits for it. On the source's loop."""

        async def close(_: SourceTask) -> None:
            await generator.aclose()

        self.start(asyncio.get_running_loop(), close, lambda: None)

    def _end_one(self, task: SourceTask) -> None:
        with self._lock:
            self._running.discard(task)
            joining, self._joining = self._joining, []
        for signal in joining:
            signal.set()

    def join(self, timeout_s: float) -> bool:
        """Wait until no task runs that could end meanwhile; return whether that came true in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = Signal()
            with self._lock:
                if not any(task.can_end() for task in self._running):
                    return True
                self._joining.append(ended)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            ended.wait(min(left_s, CHECK_S))
