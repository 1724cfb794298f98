"""The answer that is still to come: `Future` for whoever asked, `Reply` for the actor that answers later.

A Pykka future with callbacks, an `await` that does not block the loop, and a deadline that is total. Completed once,
by any thread; read by any number of threads and loops.
"""

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import pykka

from commitcast.actors.errors import FutureTimeoutError

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")
ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Future(pykka.Future[T]):
    """The answer to one request."""

    # One is made for every message, so what most of them never change is kept by the class.
    _get_hook = None
    _get_hook_result: Any = pykka.Future()._get_hook_result
    _done = False
    _value: Any = None
    _error: BaseException | None = None
    _callbacks: "list[Callable[[Future[T]], object]] | None" = None

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def done(self) -> bool:
        """Whether the answer is here."""
        return self._done

    def get(self, timeout: float | None = None) -> T:
        """Return the answer, or raise it if it is an error. Blocks.

        Args:
            timeout: seconds in all; None waits for ever.

        Raises:
            FutureTimeoutError: there was no answer in time. It may still come.
        """
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self._done:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def _wait(self, timeout: float | None) -> None:
        arrived = threading.Lock()
        arrived.acquire()
        self.add_done_callback(lambda _: arrived.release())
        if not arrived.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            assert timeout is not None
            raise FutureTimeoutError(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that is the answer, or None if the answer is a value. Blocks like `get`."""
        if not self._done:
            self._wait(timeout)
        return self._error

    def set(self, value: Any = None) -> None:
        """Complete it with a value; with a `Reply`, when that is completed. Raises if it is complete."""
        if isinstance(value, Reply):
            value.attach(self)
        else:
            self._complete(value, None)

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        """Complete it with an error: that of `exc_info`, or the one being handled."""
        kind, error, traceback = exc_info or sys.exc_info()
        if error is None:
            assert kind is not None
            error = kind()
        self._complete(None, error.with_traceback(traceback))

    def _complete(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._done or self._get_hook is not None:
                raise queue.Full  # what Pykka's own future raises
            self._value = value
            self._error = error
            self._done = True
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def add_done_callback(self, callback: Callable[["Future[T]"], object]) -> None:
        """Call `callback(self)` once it is complete, on the thread that completes it; at once if it is."""
        with self._lock:
            if not self._done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        self._call(callback)

    def _call(self, callback: Callable[["Future[T]"], object]) -> None:
        try:
            callback(self)
        except BaseException:  # a caller's mistake, SystemExit too, must not end the actor that completes the future
            logger.exception("a future's callback failed")

    def __await__(self) -> Generator[Any, None, T]:
        """Wait on the running event loop without blocking it. Cancelling the wait leaves the request as it is."""
        if not self._done and self._get_hook is None:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not arrived.done():
                    arrived.set_result(None)

            def completed(_: Future[T]) -> None:
                try:
                    loop.call_soon_threadsafe(wake)
                except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                    pass

            self.add_done_callback(completed)
            yield from arrived
        return self.get()

    @classmethod
    def of(cls, value: T) -> "Future[T]":
        """Return a future that is complete with a value."""
        future = cls()
        future._complete(value, None)
        return future

    @classmethod
    def failed(cls, error: BaseException) -> "Future[T]":
        """Return a future that is complete with an error."""
        future = cls()
        future._complete(None, error)
        return future

    def map_result(self, function: Callable[[T], Any]) -> "Future[Any]":
        """Return a future of `function(answer)`, computed on the thread that completes this one; errors pass."""
        mapped: Future[Any] = Future()

        def completed(done: Future[T]) -> None:
            try:
                mapped._complete(function(done.get()), None)
            except Exception as error:  # whatever went wrong belongs to the one who waits
                mapped._complete(None, error)

        self.add_done_callback(completed)
        return mapped


class Reply(Generic[T]):
    """What a handler returns when it will answer later; the asker's future is completed with it.

    Made, attached and completed on the actor's thread, in either order; a `tell` attaches nothing.
    """

    __slots__ = ("_done", "_error", "_future", "_value")

    def __init__(self) -> None:
        self._future: Future[T] | None = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def attach(self, future: Future[T]) -> None:
        """Name the future to be completed."""
        if self._done:
            future._complete(self._value, self._error)
        else:
            self._future = future

    def resolve(self, value: T) -> None:
        """Answer with a value."""
        self._complete(value, None)

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        self._complete(None, error)

    def _complete(self, value: Any, error: BaseException | None) -> None:
        self._done, self._value, self._error = True, value, error
        if self._future is not None:
            self._future._complete(value, error)


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a `time.monotonic()` deadline, at least 0; None for none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
