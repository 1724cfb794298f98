"""Signals for the commands: those that end a program ask for an ordered stop, twice for any; SIGUSR1 shows all threads.

A thread of its own hears them: the main thread may be waiting for a reader of its output, or for another thread that
does, and runs no handler then. What is not read is given up soon after the signal, and the program ends in any case.

What the program was started with is made good: a blocked signal would not be heard, and an ignored SIGCHLD takes the
exit codes of all children. Only the commands install handlers; a host's process is its own.
"""

import asyncio
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from commitcast.actors.commands.output import note
from commitcast.actors.commands.unread import NUDGE, leave_unread
from commitcast.actors.sources.processes.registry import kill_at_once

EXIT_CODES: Final = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGQUIT: 131, signal.SIGTERM: 143}
"""128 and the signal's number, as shells have it."""

_MAY_BE_IGNORED: Final = (signal.SIGHUP, signal.SIGQUIT)
"""Left ignored if they were at the start: by `nohup`, or for a job in the background of a script."""

READ_S: Final = 2.0
"""How long after a signal the output waits for a reader."""
LOOK_S: Final = 0.1
"""Between two looks from then on."""
LIMIT_S: Final = 30.0
"""How long an ordered stop may take in all. The runtime's own limits add up to less, so this is for what has none."""


class Stopping:
    """Whether a signal asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.has_left_output = False
        """Whether nobody read standard output in time, so that it goes nowhere now."""
        self._asked = threading.Event()
        self._over = threading.Event()

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

    def end(self) -> None:
        """Note that the stop is over: what follows is not waited for either."""
        self._over.set()
        if self.signal is not None:
            self._leave_unread()
        if self.has_left_output:
            note("what was printed last was not read in time, and is left out")

    def hurry(self, limit_s: float) -> None:
        """Give up what is not read, and exit at once if the stop is not over in `limit_s` seconds. Blocks."""
        deadline, pause_s = time.monotonic() + limit_s, min(READ_S, limit_s)
        while not self._over.wait(pause_s):
            if time.monotonic() > deadline and self.signal is not None:
                _exit_at_once(EXIT_CODES[self.signal])
            self._leave_unread()
            pause_s = LOOK_S

    def _leave_unread(self) -> None:
        self.has_left_output = leave_unread() or self.has_left_output


def ending_signals() -> list[signal.Signals]:
    """Return the signals that are to end this program."""
    return [
        number
        for number in EXIT_CODES
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def stopping_on_signals(
    then: Callable[[str], object] = lambda name: None, *, limit_s: float = LIMIT_S
) -> Iterator[Stopping]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into a request to stop while inside.

    Args:
        then: called once with the signal's name, on a thread of its own, because it may block.
        limit_s: seconds after the first signal until this process exits, whatever it waits for.
    """
    stopping = Stopping()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    hearing = threading.Thread(target=_hear, args=(reading, stopping, then, limit_s), name="signals", daemon=True)
    hearing.start()
    woken_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    heard = [*ending_signals(), NUDGE]
    before: dict[signal.Signals, Any] = {number: signal.signal(number, lambda *_: None) for number in heard}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # for threads and children too
    faulthandler.register(signal.SIGUSR1)
    try:
        yield stopping
    finally:
        stopping.end()
        faulthandler.unregister(signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken_before)
        os.close(writing)
        hearing.join()


def _hear(reading: int, stopping: Stopping, then: Callable[[str], object], limit_s: float) -> None:
    """Do what signals ask for, until the pipe is closed that the interpreter writes their numbers into."""
    insisted = 0
    while told := os.read(reading, 1):
        if told[0] not in EXIT_CODES:
            continue
        number = signal.Signals(told[0])
        insisted += number != signal.SIGHUP  # that comes by itself beside others: from terminal, shell and session
        if insisted > 1:
            _exit_at_once(EXIT_CODES[number])
        if stopping.signal is None:
            stopping.ask(number)
            threading.Thread(target=then, args=(number.name,), name="stopping", daemon=True).start()
            threading.Thread(target=stopping.hurry, args=(limit_s,), name="hurrying", daemon=True).start()
    os.close(reading)


def _exit_at_once(code: int) -> None:
    """Exit because somebody asked twice, or the ordered stop has taken too long.

    Whatever holds it up (a full disk, say) is not waited for. It is like a crash, which the next start recovers
    from, but for the programs: they are killed now.
    """
    try:
        kill_at_once()
    finally:
        os._exit(code)
