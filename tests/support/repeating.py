"""Something that goes on in the background while a test looks at the rest."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waiting import TIMEOUT_S


@contextmanager
def repeating(step: Callable[[int], object]) -> Iterator[None]:
    """Call `step` with 1, 2, 3 … without a pause, on another thread; once at least."""
    is_over = threading.Event()

    def go_on() -> None:
        for number in itertools.count(1):
            step(number)
            if is_over.is_set():
                return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(TIMEOUT_S)
