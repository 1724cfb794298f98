"""A call on its own thread that runs only while another thread lets it, so that it can be suspended where it blocks.

For `SeededDispatcher`: work that waits for what its test does next must give the test its thread back. One thread runs
at a time, so nothing here needs a lock.
"""

import threading
from collections.abc import Callable
from typing import Final

from commitcast.actors.kernel.waiting import Signal, scheduled_by


class AbandonedError(BaseException):
    """Ends a fiber that will not be resumed. Not an `Exception`, so that the code in it does not handle it."""


class Fiber:
    """One call, from its start to its end.

    Attributes:
        name: for the trace.
        waits_for: the signal on which it is blocked; None while it runs.
    """

    def __init__(
        self, name: str, work: Callable[[], object], on_block: Callable[["Fiber", float | None], object]
    ) -> None:
        """Make a fiber; `work` begins with the first `resume`.

        Args:
            name: of the fiber and its thread.
            work: what it runs.
            on_block: called when it blocks, with the seconds after which it is to be resumed without its signal.
        """
        self.name: Final = name
        self.waits_for: Signal | None = None
        self._work = work
        self._on_block = on_block
        self._resumed = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._has_ended = False
        self._is_abandoned = False

    def resume(self) -> None:
        """Let it run until it blocks or ends. Raises what its work raises."""
        self.waits_for = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        else:
            self._resumed.release()
        self._paused.acquire()
        if self._has_ended:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End it where it is blocked."""
        self._is_abandoned = True
        self.resume()

    def run_until(self, signal: Signal, timeout_s: float | None) -> bool:
        """Block until the signal is given or the time is up. See `waiting.Scheduler`."""
        if not signal.is_set:
            self.waits_for = signal
            self._on_block(self, timeout_s)
            self._paused.release()
            self._resumed.acquire()
            if self._is_abandoned:
                raise AbandonedError
        return signal.is_set

    def _run(self) -> None:
        try:
            with scheduled_by(self):
                self._work()
        except AbandonedError:
            pass
        except BaseException as error:  # raised where it was resumed
            self._error = error
        finally:
            self._has_ended = True
            self._paused.release()
