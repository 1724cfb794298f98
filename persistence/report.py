"""What a verification of a store returns. Shared by every store and by `commitcast.persistence.verify`."""

from collections.abc import Callable
from typing import Final

import msgspec

MAX_PROBLEMS: Final = 1_000
"""Further problems are counted, not listed."""

Progress = Callable[[int, int], object]
"""Called during a long operation with the units done and the units in all."""


class Report(msgspec.Struct):
    """What `verify` found."""

    path: str
    """Display name of the store."""
    agents: int = 0
    messages: int = 0
    transitions: int = 0
    """Changes of status."""
    position: int = 0
    """The last position that was given out."""
    problems: list[str] = []
    """One sentence each; empty for a sound store."""
    more_problems: int = 0
    """Problems beyond the first `MAX_PROBLEMS`."""
    notes: list[str] = []
    """What is not a problem, but was not checked or will change at the next start."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1
