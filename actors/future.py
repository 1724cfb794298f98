"""The answer that is still to come.

A Pykka future with callbacks, cancelling, an `await` that does not block the loop, and a deadline that is total.
Completed once, by any thread; read by any number of threads and loops.

One is made for every message, so it has no lock. Whatever only one of several threads may do (complete it, begin the
request, cancel it) is settled by `dict.setdefault` on the instance's own dict, and each callback runs because one
thread took it out of the list; both are single steps of the interpreter.
"""

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pykka

from commitcast.actors.blocking import Signal
from commitcast.actors.errors import FutureCancelledError, FutureTimeoutError

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")
ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

_BEGUN: Final = object()
_CANCELLED: Final = object()


class Future(pykka.Future[T]):
    """The answer to one request."""

    if not TYPE_CHECKING:  # it would lose the type
        __init__ = object.__init__  # Pykka's own only sets what the class has below

    _get_hook: "Callable[[float | None], Any] | None" = None
    _get_hook_result: Any = pykka.Future()._get_hook_result
    _hook_lock: "threading.RLock | None" = None
    _answer: tuple[Any, BaseException | None] | None = None
    _callbacks: "list[Callable[[Future[T]], object]] | None" = None

    def done(self) -> bool:
        """Whether the answer is here."""
        return self._answer is not None

    def get(self, timeout: float | None = None) -> T:
        """Return the answer, or raise it if it is an error. Blocks.

        Args:
            timeout: seconds in all; None waits for ever.

        Raises:
            FutureTimeoutError: there was no answer in time. It may still come.
            FutureCancelledError: it was cancelled.
        """
        if self._get_hook is not None:
            assert self._hook_lock is not None
            with self._hook_lock:
                return super().get(timeout=timeout)
        if self._answer is None:
            self._wait(timeout)
        assert self._answer is not None
        value, error = self._answer
        if error is not None:
            raise error
        answer: T = value
        return answer

    def _wait(self, timeout: float | None) -> None:
        arrived = Signal()
        self.add_done_callback(lambda _: arrived.give())
        if not arrived.wait(timeout):
            assert timeout is not None
            raise FutureTimeoutError(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that is the answer, or None if the answer is a value. Blocks like `get`."""
        if self._answer is None:
            self._wait(timeout)
        assert self._answer is not None
        return self._answer[1]

    def set(self, value: Any = None) -> None:
        """Complete it with a value. Raises `queue.Full` if it is complete, as Pykka's own does."""
        self._complete(value, None)

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        """Complete it with an error: that of `exc_info`, or the one being handled."""
        assert exc_info is None or len(exc_info) == 3
        kind, error, traceback = exc_info or sys.exc_info()
        if error is None:
            assert kind is not None
            error = kind()
        self._complete(None, error.with_traceback(traceback))

    def fail(self, error: BaseException) -> None:
        """Complete it with an error as it is."""
        self._complete(None, error)

    def _complete(self, value: Any, error: BaseException | None) -> None:
        answer = (value, error)
        if self._get_hook is not None or self.__dict__.setdefault("_answer", answer) is not answer:
            raise queue.Full
        if self._callbacks is not None:
            self._run_callbacks(self._callbacks)

    def set_get_hook(self, func: "Callable[[float | None], Any]") -> None:
        """Have `get` call a function in place of waiting. For Pykka's `map`, `filter`, `join` and `reduce`."""
        if self._answer is not None:
            raise queue.Full
        self._hook_lock = threading.RLock()
        self._get_hook = func

    # Cancelling.

    def cancel(self) -> bool:
        """Take the request back if its actor has not begun with it.

        Returns:
            True: it is not carried out, and the answer is `FutureCancelledError`. False: it is too late.
        """
        if self._answer is not None or self.__dict__.setdefault("_claim", _CANCELLED) is not _CANCELLED:
            return False
        if self._answer is None:
            self._complete(None, FutureCancelledError())
        return True

    def begin(self) -> bool:
        """Claim the request for its actor, once; False if it was cancelled. Called by the actor's turn."""
        return self.__dict__.setdefault("_claim", _BEGUN) is _BEGUN

    # Being told.

    def add_done_callback(self, callback: Callable[["Future[T]"], object]) -> None:
        """Call `callback(self)` once it is complete, on the thread that completes it; at once if it is.

        That thread runs actors: a callback must not block.
        """
        callbacks: list[Callable[[Future[T]], object]] = self.__dict__.setdefault("_callbacks", [])
        callbacks.append(callback)
        if self._answer is not None:
            self._run_callbacks(callbacks)

    def _run_callbacks(self, callbacks: "list[Callable[[Future[T]], object]]") -> None:
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread has taken it
                return
            try:
                callback(self)
            except BaseException:  # a caller's mistake, SystemExit too, must not end the actor that completes it
                logger.exception("a future's callback failed")

    def __await__(self) -> Generator[Any, None, T]:
        """Wait on the running event loop without blocking it. Cancelling the wait leaves the request as it is."""
        if self._get_hook is not None:
            yield from asyncio.get_running_loop().run_in_executor(None, self.get)
        elif self._answer is None:
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
        future: Future[T] = cls()
        future._complete(value, None)
        return future

    @classmethod
    def failed(cls, error: BaseException) -> "Future[T]":
        """Return a future that is complete with an error."""
        future: Future[T] = cls()
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


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a `time.monotonic()` deadline, at least 0; None for none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
