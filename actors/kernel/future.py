"""The answer that is still to come.

A Pykka future with callbacks, cancelling, an `await` that does not block the loop, and a deadline that is total.
Completed once, by the actor that was asked; read by any number of threads and loops.

One is made for every message, so it has no lock and no dict of its own until it needs them. `_done` is set last, and
each callback runs because one thread took it out of the list, which is a single step of the interpreter.
"""

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pykka

from commitcast.actors.errors import FutureCancelledError, FutureTimeoutError
from commitcast.actors.kernel.waiting import Signal
from commitcast.persistence import fork
from commitcast.persistence.errors import ForkedRuntimeError

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")
ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Future(pykka.Future[T]):
    """The answer to one request."""

    if not TYPE_CHECKING:  # it would lose the type
        __init__ = object.__init__  # Pykka's own only sets what the class has below

    _get_hook: "Callable[[float | None], Any] | None" = None
    _get_hook_result: Any = pykka.Future()._get_hook_result
    _hook_lock: "threading.RLock | None" = None
    _done = False
    _value: Any = None
    _error: BaseException | None = None
    is_unwanted = False
    """Somebody has cancelled it; set at any time."""
    _callbacks: "list[Callable[[Future[T]], object]] | None" = None
    _generation = 0
    """Of the process that made it: an answer that is on its way when a process forks reaches the parent alone."""

    def done(self) -> bool:
        """Whether the answer is here."""
        return self._done

    def get(self, timeout: float | None = None) -> T:
        """Return the answer, or raise it if it is an error. Blocks.

        Args:
            timeout: seconds in all; None waits for ever.

        Raises:
            FutureTimeoutError: there was no answer in time. It may still come.
            FutureCancelledError: it was cancelled.
            ForkedRuntimeError: it was made before this process was forked, and had no answer then.
        """
        if self._get_hook is not None:
            assert self._hook_lock is not None
            with self._hook_lock:
                return super().get(timeout=timeout)
        if not self._done:
            self._wait(timeout)
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # or the traceback would keep the future, and the future the traceback
        answer: T = self._value
        return answer

    def _wait(self, timeout: float | None) -> None:
        self._check_generation()
        arrived = Signal()
        self.add_done_callback(lambda _: arrived.give())
        if not arrived.wait(timeout):
            assert timeout is not None
            raise FutureTimeoutError(timeout)

    def _check_generation(self) -> None:
        if self._generation != fork.generation():
            raise ForkedRuntimeError

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that is the answer, or None if the answer is a value. Blocks like `get`."""
        if self._get_hook is not None:
            try:
                self.get(timeout)
            except FutureTimeoutError:
                raise
            except BaseException as error:
                return error
            return None
        if not self._done:
            self._wait(timeout)
        return self._error

    def set(self, value: Any = None) -> None:
        """Complete it with a value. Raises `queue.Full` if it is complete, as Pykka's own does."""
        if self._done or self._get_hook is not None:
            raise queue.Full
        self._value = value
        self._done = True
        if self._callbacks is not None:
            self._run_callbacks(self._callbacks)

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
        if self._done or self._get_hook is not None:
            raise queue.Full
        self._value = value
        self._error = error
        self._done = True
        if self._callbacks is not None:
            self._run_callbacks(self._callbacks)

    def set_get_hook(self, func: "Callable[[float | None], Any]") -> None:
        """Have `get` call a function in place of waiting. For Pykka's `map`, `filter`, `join` and `reduce`."""
        if self._done:
            raise queue.Full
        self._hook_lock = threading.RLock()
        self._get_hook = func

    # Cancelling.

    def cancel(self) -> bool:
        """Ask that the request is not carried out. What the actor has begun with goes on.

        Returns:
            Whether it may have come in time. The answer tells: `FutureCancelledError` if it did, else as ever.
        """
        self.is_unwanted = True
        return not self._done

    def begin(self) -> bool:
        """Begin with the request; False, and it is answered, if it was cancelled. Called in the actor's turn."""
        if self.is_unwanted:
            self._complete(None, FutureCancelledError())
            return False
        return True

    # Being told.

    def add_done_callback(self, callback: Callable[["Future[T]"], object]) -> None:
        """Call `callback(self)` once it is complete, on the thread that completes it; at once if it is.

        That thread runs actors: a callback must not block.
        """
        callbacks: list[Callable[[Future[T]], object]] = self.__dict__.setdefault("_callbacks", [])
        callbacks.append(callback)
        if self._done:
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
        elif not self._done:
            self._check_generation()
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
        try:
            return self.get()
        finally:
            del self  # as in `get`

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
            except BaseException as error:  # whatever went wrong belongs to the one who waits
                mapped._complete(None, error)

        self.add_done_callback(completed)
        return mapped


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a `time.monotonic()` deadline, at least 0; None for none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _note_generation(future: Future[Any]) -> None:
    future._generation = fork.generation()


def _in_child() -> None:
    """Note from now on which process makes a future; one that was never forked need not pay for that."""
    Future.__init__ = _note_generation  # type: ignore[method-assign, assignment]


os.register_at_fork(after_in_child=_in_child)
