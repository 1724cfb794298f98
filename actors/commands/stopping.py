"""Signals for the commands: those that end a program ask for an ordered stop, twice for any; SIGUSR1 shows all threads.

What the program was started with is made good: a blocked signal would not be heard, and an ignored SIGCHLD takes the
exit codes of all children. Only the commands install handlers; a host's process is its own.
"""

import asyncio
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from commitcast.actors.sources.processes import kill_at_once

EXIT_CODES: Final = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGQUIT: 131, signal.SIGTERM: 143}
"""128 and the signal's number, as shells have it."""

_MAY_BE_IGNORED: Final = (signal.SIGHUP, signal.SIGQUIT)
"""Left ignored if they were at the start: by `nohup`, or for a job in the background of a script."""


class Stopping:
    """Whether a signal asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = threading.Event()

    def wait(self) -> None:
        """Block until a signal comes."""
        while not self._asked.wait(3600):
            pass

    async def wait_async(self) -> None:
        """Await a signal on the main thread's event loop."""
        while not self._asked.is_set():
            await asyncio.sleep(0.05)  # a handler that Python runs cannot wake a loop; this is soon enough for a person

    def ask(self, number: int) -> None:
        """Note a signal."""
        self.signal = signal.Signals(number)
        self._asked.set()


def ending_signals() -> list[signal.Signals]:
    """Return the signals that are to end this program."""
    return [
        number
        for number in EXIT_CODES
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def stopping_on_signals(then: Callable[[str], object] = lambda name: None) -> Iterator[Stopping]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into a request to stop while inside.

    Args:
        then: called once with the signal's name, on a thread of its own, because a handler may interrupt anything.
    """
    stopping = Stopping()
    insisted: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if number != signal.SIGHUP:  # that comes by itself beside others: from the terminal, its shell and its session
            insisted.append(number)
        if len(insisted) > 1:
            _exit_at_once(EXIT_CODES[signal.Signals(number)])
        if stopping.signal is None:
            stopping.ask(number)
            threading.Thread(target=then, args=(signal.Signals(number).name,), name="stopping", daemon=True).start()

    before: dict[signal.Signals, Any] = {number: signal.signal(number, handle) for number in ending_signals()}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # for threads and children too
    faulthandler.register(signal.SIGUSR1)
    try:
        yield stopping
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_at_once(code: int) -> None:
    """Exit because somebody asked twice.

    Whatever holds the ordered stop up (a full disk, a terminal that nobody reads) is not waited for. It is like a
    crash, which the next start recovers from, but for the programs: they are killed now.
    """
    try:
        kill_at_once()
    finally:
        os._exit(code)
