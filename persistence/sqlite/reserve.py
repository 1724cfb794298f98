"""A few file descriptors kept back, so that a commit can open its journal when the process has used up all others."""

import contextlib
import os
from typing import Final

DESCRIPTORS: Final = 4
"""The journal, and some room for others who take a descriptor in the same moment."""


class Reserve:
    """Descriptors that are open for nothing. One thread."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def fill(self) -> None:
        """Take what is missing, as far as there are any."""
        with contextlib.suppress(OSError):
            while len(self._held) < DESCRIPTORS:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> bool:
        """Give all back; return whether there were any."""
        had_any = bool(self._held)
        while self._held:
            os.close(self._held.pop())
        return had_any
