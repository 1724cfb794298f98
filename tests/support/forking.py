"""A process that is forked from the test's, does something, says what came of it, and lives until it is let go."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import select

from waiting import TIMEOUT_S


class Forked:
    """A forked child that is alive."""

    def __init__(self, pid: int, answers: int) -> None:
        self.pid = pid
        self._answers = answers

    def answer(self) -> str:
        """Wait for what the child's work has returned, or for the traceback of what it has raised."""
        readable, _, _ = select([self._answers], [], [], TIMEOUT_S)
        assert readable, "the forked child says nothing: it hangs"
        return os.read(self._answers, 65_536).decode()


@contextmanager
def forked(work: Callable[[], object] = lambda: None) -> Iterator[Forked]:
    """Fork; the child does its work, answers with its text, and stays until the test leaves the context."""
    answers, answering = os.pipe()
    staying, leaving = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on, when there are other threads
        pid = os.fork()
    if pid == 0:
        os.close(leaving)
        os.write(answering, _said(work).encode())
        os.read(staying, 1)  # ends also if the test's process does
        os._exit(0)
    os.close(answering)
    os.close(staying)
    try:
        yield Forked(pid, answers)
    finally:
        os.kill(pid, signal.SIGKILL)  # its work may hang
        os.waitpid(pid, 0)
        os.close(leaving)
        os.close(answers)


def _said(work: Callable[[], object]) -> str:
    try:
        return str(work())
    except BaseException:  # of a child nothing else is heard
        return traceback.format_exc()


def refused(*uses: Callable[[], object]) -> str:
    """Return the names of the errors that uses of something raise, one for each."""
    return " ".join(_error_of(use) for use in uses)


def _error_of(use: Callable[[], object]) -> str:
    try:
        use()
    except Exception as error:
        return type(error).__name__
    return "-"


def in_a_child(work: Callable[[], object]) -> int:
    """Do something in a forked process that dies then, and return its status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]
