"""Event loops: the one of this thread, and one on a thread of its own, where async sources of sync hosts run."""

import asyncio
import threading


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
        self._stopping: asyncio.Event | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Any thread."""
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._stopping = asyncio.Event()
                arguments = (self._loop, self._stopping)
                self._thread = threading.Thread(target=_run, args=arguments, name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def stop(self, timeout_s: float) -> bool:
        """Cancel what still runs, once, and end the thread. Idempotent. Blocks, but not for the loop's own thread.

        Returns:
            Whether it ended in time; else its thread is left behind.
        """
        with self._lock:
            loop, thread, stopping, self._loop = self._loop, self._thread, self._stopping, None
        if loop is None or thread is None or stopping is None or not thread.is_alive():
            return True
        loop.call_soon_threadsafe(stopping.set)
        if thread is not threading.current_thread():
            thread.join(timeout_s)
        return not thread.is_alive()


def _run(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(stopping.wait())  # to leave it cancels the tasks that are left, each once
