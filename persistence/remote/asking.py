"""Requests to the other end of a connection, and their answers. Any thread."""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import Any, Final, Protocol

from commitcast.persistence.errors import CommitcastError, StoreReadTimeoutError
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import Answer, Ask, Frame, Progress, Withdraw

Then = Callable[[Any], object]
"""Takes the answer: a value, or an error. Called once, on the thread that receives; must not block."""
OnProgress = Callable[[int, int], object]


class Asking:
    """The requests of one end that have no answer yet."""

    def __init__(self, send: Callable[[Frame], object], otherwise: type[Any]) -> None:
        """Make it.

        Args:
            send: sends a frame; drops it after the end of the connection.
            otherwise: the class of errors whose own class is not loaded here. See `failures.error_of`.
        """
        self._send = send
        self._otherwise: Final = otherwise
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Then, OnProgress | None]] = {}
        self._lost: CommitcastError | None = None

    def ask(
        self,
        method: str,
        arguments: list[Any],
        then: Then,
        *,
        timeout: float | None = None,
        progress: OnProgress | None = None,
    ) -> int:
        """Send a request; return its number.

        Args:
            method: what to do.
            arguments: of it.
            then: takes the answer.
            timeout: seconds that a read may wait at the other end; None: no limit.
            progress: takes what is done and what there is in all, of a long request.

        Raises:
            InvalidValueError: the arguments cannot be sent; `then` is not called.
        """
        number = next(self._numbers)
        with self._lock:
            lost = self._lost
            if lost is None:
                self._waiting[number] = then, progress
        if lost is not None:
            then(copy(lost))  # each has its own: the one that is raised keeps a traceback
            return number
        try:
            self._send(Ask(number, method, arguments, timeout))
        except BaseException:  # it cannot be sent: nothing will answer it
            self.forget(number)
            raise
        return number

    def begin(self) -> None:
        """Accept requests again after `lose`."""
        with self._lock:
            self._lost = None

    def forget(self, number: int) -> None:
        """Do not wait for an answer any more."""
        with self._lock:
            self._waiting.pop(number, None)

    def withdraw(self, number: int) -> None:
        """Do not wait for an answer any more, and tell the other end, if it has not come."""
        with self._lock:
            waited = self._waiting.pop(number, None)
        if waited is not None:
            self._send(Withdraw(number))

    def on_answer(self, answer: Answer) -> None:
        """Take an answer."""
        with self._lock:
            waiting = self._waiting.pop(answer.id, None)
        if waiting is not None:
            failure = answer.failure
            waiting[0](answer.value if failure is None else error_of(failure, self._otherwise))

    def on_progress(self, progress: Progress) -> None:
        """Take how far a long request is."""
        waiting = self._waiting.get(progress.id)
        if waiting is not None and waiting[1] is not None:
            waiting[1](progress.done, progress.of)

    def lose(self, error: CommitcastError) -> None:
        """Answer everything that waits, and all that comes, with an error: the connection has ended."""
        with self._lock:
            self._lost = error
            waiting, self._waiting = self._waiting, {}
        for then, _ in waiting.values():
            then(copy(error))


class Waiter(Protocol):
    """Waits for one answer."""

    def answer(self, answer: Any) -> None:
        """Take the answer. Any thread."""

    def note(self, done: int, of: int) -> None:
        """Take how far it is. Any thread."""

    def wait(self, timeout: float | None, progress: OnProgress | None = None) -> Any:
        """Wait for the answer and return it, or raise it if it is an error. Blocks.

        Args:
            timeout: seconds to wait; None: until it comes.
            progress: called on this thread with how far it is.

        Raises:
            StoreReadTimeoutError: there was no answer in time.
        """


class ThreadWaiter:
    """A thread that waits for one answer. Implements `Waiter`."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._answer: Any = None
        self._is_answered = False
        self._progress: deque[tuple[int, int]] = deque(maxlen=1)

    def answer(self, answer: Any) -> None:
        """Take the answer."""
        with self._news:
            self._answer, self._is_answered = answer, True
            self._news.notify()

    def note(self, done: int, of: int) -> None:
        """Take how far it is."""
        with self._news:
            self._progress.append((done, of))
            self._news.notify()

    def wait(self, timeout: float | None, progress: OnProgress | None = None) -> Any:
        """Wait for the answer. See `Waiter.wait`."""
        while True:
            with self._news:
                if not self._news.wait_for(lambda: self._is_answered or self._progress, timeout):
                    raise StoreReadTimeoutError
                latest = self._progress.popleft() if self._progress else None
                is_answered = self._is_answered
            if latest is not None and progress is not None:
                progress(*latest)
            if is_answered:
                break
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
