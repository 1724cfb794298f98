"""Coroutines that run beside everything else on an event loop, kept alive until they end; and waits for a state."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

CHECK_S: Final = 0.01
"""Between two checks of a state that nothing announces."""


async def wait_until(is_reached: Callable[[], bool], timeout: float) -> None:
    """Wait until a state is reached, for `timeout` seconds at most."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not is_reached() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(CHECK_S)


class BackgroundTasks:
    """The tasks of one gateway. An event loop alone keeps no reference to a task, which may then vanish unfinished."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of the running loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Cancel every task that has not ended."""
        for task in list(self._tasks):
            task.cancel()
