"""An event loop on a thread of its own, made when first needed: where async sources of sync hosts run."""

import asyncio
import threading


class LoopThread:
    """A loop for others' tasks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Any thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_until_stopped())

    def stop(self) -> None:
        """Cancel what still runs and end the thread. Idempotent. Blocks."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(_cancel_all)
            thread.join()


async def _until_stopped() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        pass


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
