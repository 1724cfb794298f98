"""Signals for the commands: those that end a program ask for an ordered stop, twice for any; SIGUSR1 shows all threads.

A thread of its own receives them: the main thread may wait for the reader of its output, or for a thread that does, and
then runs no handler. Output that is not read is discarded soon after the signal, so the program ends in any case.

Inherited settings are corrected: a blocked signal would not arrive, and an ignored SIGCHLD discards the exit codes of
all children. Only the commands install handlers, never a host's process.
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

from commitcast.actors.commands.output import NUDGE, leave_unread, note
from commitcast.actors.sources.processes.registry import kill_at_once

EXIT_CODES: Final = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGQUIT: 131, signal.SIGTERM: 143}
"""128 plus the signal's number, as in shells."""

_MAY_BE_IGNORED: Final = (signal.SIGHUP, signal.SIGQUIT)
"""Stay ignored if they were ignored at the start: by `nohup`, or for a background job of a script."""

READ_S: Final = 2.0
"""How long after a signal the output waits for a reader."""
LOOK_S: Final = 0.1
"""The seconds between two checks from then on, and whether what the program does has failed."""
LIMIT_S: Final = 30.0
"""How long an ordered stop may take in all. The runtime's own limits add up to less; this covers everything else."""


class Stopping:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.has_left_output = False
        """Whether standard output was not read in time and is discarded."""
        self._asked = threading.Event()
        self._over = threading.Event()

    def wait(self, has_failed: Callable[[], bool] = lambda: False) -> None:
        """Block until a signal comes, or what the program does has failed."""
        while not self._asked.wait(LOOK_S) and not has_failed():
            pass

    async def wait_async(self) -> None:
        """Await a signal on the main thread's event loop."""
        while not self._asked.is_set():
            await asyncio.sleep(0.05)  # Python's handlers cannot wake a loop; people do not notice this delay

    def ask(self, number: int) -> None:
        """Note a signal."""
        self.signal = signal.Signals(number)
        self._asked.set()

    def end(self) -> None:
        """Note that the stop is over; from now on output that is not read is discarded too."""
        self._over.set()
        if self.signal is not None:
            self._leave_unread()
        if self.has_left_output:
            note("the last output was not read in time and was discarded")

    def hurry(self, limit_s: float) -> None:
        """Discard unread output, and exit at once if the stop is not over in `limit_s` seconds. Blocks."""
        deadline, pause_s = time.monotonic() + limit_s, min(READ_S, limit_s)
        while not self._over.wait(pause_s):
            if time.monotonic() > deadline and self.signal is not None:
                _exit_at_once(EXIT_CODES[self.signal])
            self._leave_unread()
            pause_s = LOOK_S

    def _leave_unread(self) -> None:
        self.has_left_output = leave_unread() or self.has_left_output


@contextmanager
def stopping_on_signals(
    then: Callable[[str], object] = lambda name: None, *, limit_s: float = LIMIT_S
) -> Iterator[Stopping]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into a request to stop while inside.

    Args:
        then: called once with the signal's name, on a thread of its own, because it may block.
        limit_s: seconds after the first signal until this process exits in any case.
    """
    stopping = Stopping()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    hearing = threading.Thread(target=_hear, args=(reading, stopping, then, limit_s), name="signals", daemon=True)
    hearing.start()
    woken_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ignored = [number for number in _MAY_BE_IGNORED if signal.getsignal(number) is signal.SIG_IGN]
    heard = [*(number for number in EXIT_CODES if number not in ignored), NUDGE]
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
    """Obey signals until the pipe closes into which the interpreter writes their numbers."""
    insisted = 0
    while data := os.read(reading, 1):
        if data[0] not in EXIT_CODES:
            continue
        number = signal.Signals(data[0])
        insisted += number != signal.SIGHUP  # terminal, shell and session send it beside another signal
        if insisted > 1:
            _exit_at_once(EXIT_CODES[number])
        if stopping.signal is None:
            stopping.ask(number)
            threading.Thread(target=then, args=(number.name,), name="stopping", daemon=True).start()
            threading.Thread(target=stopping.hurry, args=(limit_s,), name="hurrying", daemon=True).start()
    os.close(reading)


def _exit_at_once(code: int) -> None:
    """Exit after a second signal, or when the ordered stop has taken too long.

    Nothing is waited for, not even a full disk. For the database this is a crash, from which the next start recovers;
    the programs are killed now.
    """
    try:
        kill_at_once()
    finally:
        os._exit(code)
