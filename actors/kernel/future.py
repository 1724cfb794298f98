"""Futures: the results of asks and of other calls that complete later.

A Pykka future with callbacks, cancelling, an `await` that does not block the loop, and a deadline that is total.
Completed once, by the actor that was asked; read by any number of threads and loops.

One is made for every message, so it has no lock: `_done` is set last, and each callback runs because one thread took it
out of the list, which is a single step of the interpreter.
"""

import asyncio
import functools
import itertools
import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Final, Never, TypeVar

import pykka

from commitcast.actors.kernel.errors import FutureTimeoutError
from commitcast.actors.kernel.loopcalls import wake_on_loop
from commitcast.actors.kernel.waiting import Signal
from commitcast.persistence.errors import ForkedRuntimeError

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")
J = TypeVar("J")
M = TypeVar("M")
ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

_generation = 0  # how many forks lie between the first process and this one


class Future(pykka.Future[T]):
    """The answer to one request."""

    _done = False
    _value: Any = None
    _error: BaseException | None = None
    is_unwanted = False
    """It was cancelled. Set by any thread, at any time."""
    _callbacks: "list[Callable[[Future[T]], object]] | None" = None  # a list in each costs 4 % of a whole emit

    def __init__(self) -> None:
        # Pykka's own only prepares for `set_get_hook`.
        self._generation = _generation  # an answer that is on its way when a process forks reaches the parent alone

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
        if not self._done:
            self._wait(timeout)
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # or the traceback would keep the future, and the future the traceback
        answer: T = self._value
        return answer

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that is the answer, or None if the answer is a value. Blocks like `get`."""
        if not self._done:
            self._wait(timeout)
        return self._error

    def _wait(self, timeout: float | None) -> None:
        self._check_generation()
        arrived = Signal()
        self.add_done_callback(lambda _: arrived.set())
        if not arrived.wait(timeout):
            assert timeout is not None
            raise FutureTimeoutError(timeout)

    def _check_generation(self) -> None:
        if self._generation != _generation:
            raise ForkedRuntimeError

    # Completing.

    def set(self, value: Any = None) -> None:
        """Complete it with a value. Raises `queue.Full` if it is complete, as Pykka's own does."""
        if self._done:
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
        self.fail(error.with_traceback(traceback))

    def fail(self, error: BaseException) -> None:
        """Complete it with an error as it is. Raises `queue.Full` if it is complete."""
        if not self._done:
            self._error = error
        self.set()

    def complete_by(self, function: Callable[[], T]) -> None:
        """Complete it with what `function` returns or raises."""
        try:
            value = function()
        except BaseException as error:  # every kind belongs to the reader of this future
            self.fail(error)
        else:
            self.set(value)

    def set_get_hook(self, func: Callable[[float | None], Any]) -> Never:
        """Not supported: an answer that only `get` computes would never reach a callback. Use `map`."""
        raise NotImplementedError("this future has no get hook: complete it with `set`, or derive one with `map`")

    # Cancelling.

    def cancel(self) -> bool:
        """Ask that the request is not carried out. A request that its actor has begun with goes on.

        Returns:
            Whether it may have come in time. The answer tells: `FutureCancelledError` if it did, else as ever.
        """
        self.is_unwanted = True
        return not self._done

    # Callbacks.

    def add_done_callback(self, callback: Callable[["Future[T]"], object]) -> None:
        """Call `callback(self)` once it is complete, on the thread that completes it; at once if it is complete.

        That thread runs actors: a callback must not block.
        """
        callbacks = self.__dict__.setdefault("_callbacks", [])  # of two threads at once one makes the list
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
        if not self._done:
            self._check_generation()
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not arrived.done():
                    arrived.set_result(None)

            self.add_done_callback(lambda _: wake_on_loop(loop, wake))
            yield from arrived
        try:
            return self.get()
        finally:
            del self  # as in `get`

    # Making one of others. Computed on the thread that completes the last of them: the functions must not block.

    @classmethod
    def of(cls, value: T) -> "Future[T]":
        """Return a future that is complete with a value."""
        future: Future[T] = cls()
        future.set(value)
        return future

    @classmethod
    def failed(cls, error: BaseException) -> "Future[T]":
        """Return a future that is complete with an error."""
        future: Future[T] = cls()
        future.fail(error)
        return future

    def map(self, func: Callable[[T], M]) -> "Future[M]":
        """Return a future of `func(answer)`, computed once, when the answer is here; errors pass."""
        mapped: Future[M] = Future()
        self.add_done_callback(lambda done: mapped.complete_by(lambda: func(done.get())))
        return mapped

    def filter(self: "Future[Iterable[J]]", func: Callable[[J], bool]) -> "Future[Iterable[J]]":
        """Return a future of the list of those items of the answer for which `func(item)` is true."""
        return self.map(lambda items: list(filter(func, items)))

    def reduce(self: "Future[Iterable[J]]", func: Callable[[M, J], M], *args: M) -> "Future[M]":
        """Return a future of `functools.reduce(func, answer, *args)`."""
        return self.map(lambda items: functools.reduce(func, items, *args))

    def join(self: "Future[Any]", *futures: "Future[Any]") -> "Future[Iterable[Any]]":  # type: ignore[override]  # ours
        """Return a future of the list of all answers, complete when all are; the first error in order passes."""
        parts = (self, *futures)
        joined: Future[Iterable[Any]] = Future()
        left = itertools.count(len(parts) - 1, -1)  # its `next` is atomic

        def completed(_: Future[Any]) -> None:
            if next(left) == 0:
                joined.complete_by(lambda: [part.get() for part in parts])

        for part in parts:
            part.add_done_callback(completed)
        return joined


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a `time.monotonic()` deadline, at least 0; None for none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _in_child() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_in_child)
