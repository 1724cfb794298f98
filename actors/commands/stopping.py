"""Signals for the commands: SIGINT and SIGTERM ask for an ordered stop, twice for any; SIGUSR1 shows all threads.

Only the commands install handlers; a host's process is its own.
"""

import asyncio
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

EXIT_CODES: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""128 and the signal's number, as shells have it."""


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


@contextmanager
def stopping_on_signals(then: Callable[[str], object] = lambda name: None) -> Iterator[Stopping]:
    """Turn SIGINT and SIGTERM into a request to stop while inside.

    Args:
        then: called once with the signal's name, on a thread of its own, because a handler may interrupt anything.
    """
    stopping = Stopping()

    def handle(number: int, _: FrameType | None) -> None:
        if stopping.signal is not None:
            # Asked twice: whatever holds the ordered stop up (a full disk, a terminal that nobody reads) is not waited
            # for. It is like a crash, which the next start recovers from.
            os._exit(EXIT_CODES[signal.Signals(number)])
        else:
            stopping.ask(number)
            threading.Thread(target=then, args=(signal.Signals(number).name,), name="stopping", daemon=True).start()

    before = {number: signal.signal(number, handle) for number in EXIT_CODES}
    faulthandler.register(signal.SIGUSR1)
    try:
        yield stopping
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in before.items():
            signal.signal(number, handler)
