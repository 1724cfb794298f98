"""The flag that tells a source to stop: set once, polled, waited for, or called back."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from commitcast.actors.kernel.waiting import Signal

logger: Final = logging.getLogger(__name__)


class Cancelled:
    """Set once when the agent has ended. Any thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Whether the source should stop."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the source should stop, or for `timeout` seconds; return whether it should."""
        signal = Signal()
        with self._lock:
            if not self._is_set:
                self._callbacks.append(signal.set)
        if not self._is_set:
            signal.wait(timeout)
            self.forget(signal.set)
        return self._is_set

    def on_set(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when it is set, on the thread that sets it; at once if it is set already."""
        with self._lock:
            if not self._is_set:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], object]) -> None:
        """Do not call `callback` any more, if it has not been called yet."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def set(self) -> None:
        """Set it. Idempotent."""
        with self._lock:
            self._is_set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # a source's mistake must not keep its agent from ending
                logger.exception("a callback of a cancelled source failed")

    def _drop_in_child(self) -> None:
        self._lock, self._is_set, self._callbacks = threading.Lock(), True, []
