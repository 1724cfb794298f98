"""Dead letters: messages that reached no actor. Counted, and the latest kept by name, so that a silent loss shows.

One for each dispatcher. Any thread. Only what was sent by `tell` is counted: an `ask` has its future failed.
"""

import threading
from collections import deque
from typing import Final

import msgspec

REMEMBERED: Final = 64
"""How many of the latest are kept. Names only: a message could be large, or confidential."""


class DeadLetter(msgspec.Struct, frozen=True):
    """One message that reached no actor."""

    actor: str
    message: str
    """The name of its type."""
    reason: str


class DeadLetters:
    """The dead letters of one dispatcher."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._latest: deque[DeadLetter] = deque(maxlen=REMEMBERED)

    def add(self, actor: str, message: object, reason: str) -> None:
        """Count one."""
        with self._lock:
            self._count += 1
            self._latest.append(DeadLetter(actor, type(message).__name__, reason))

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    @property
    def latest(self) -> tuple[DeadLetter, ...]:
        """The latest of them, oldest first."""
        with self._lock:
            return tuple(self._latest)
