"""JSON objects that are not complete: printed over several lines, or on a line without its end.

Pure, bounded in bytes.
"""

import copy
from typing import NamedTuple

from commitcast.actors.sources.parsers.objects import Outcome, Unfinished, is_noise, objects_in


class Showable(NamedTuple):
    """How much of an unfinished line can be shown now."""

    size: int
    """That many bytes from its start: objects in them are complete. What is behind them may be or become an object."""
    is_text: bool = False
    """Whether the line is text from here on: an object in it is part of a damaged one."""


class SpreadObject:
    """The lines of one object, or of several of which each begins on the line where the one before it ends."""

    def __init__(self, max_bytes: int) -> None:
        """Make it, without lines.

        Args:
            max_bytes: over all lines. What is longer counts as broken.
        """
        self._max_bytes = max_bytes
        self.lines: list[bytes] = []
        """Empty while no object is open."""
        self._size = 0
        self._unfinished = Unfinished()

    def begin(self, line: bytes, unfinished: Unfinished) -> None:
        """Take the first line, at whose end an object is unfinished."""
        self._unfinished = unfinished
        self.lines, self._size = [line], len(line)

    def add(self, line: bytes) -> Outcome:
        """Take the next line, unless it does not belong to the object, which is then broken.

        Returns:
            COMPLETE, OPEN or BROKEN. Unless it is open, `take` the lines.
        """
        self._size += len(line) + 1
        outcome, end = self._unfinished.follow(line)
        if outcome not in (Outcome.OPEN, Outcome.COMPLETE) or self._size > self._max_bytes:
            return Outcome.BROKEN
        self.lines.append(line)
        if outcome is Outcome.COMPLETE and (unfinished := objects_in(line[end:]).unfinished) is not None:
            self._unfinished = unfinished
            return Outcome.OPEN
        return outcome

    def showable(self, tail: bytes) -> Showable:
        """Tell how much can be shown of the line that comes next, as far as it has come."""
        outcome, at = copy.deepcopy(self._unfinished).follow(tail) if self.lines else (Outcome.BROKEN, 0)
        if outcome in (Outcome.OPEN, Outcome.CUT):
            return Showable(0)
        if outcome is Outcome.BROKEN:
            at = 0
        found = objects_in(tail[at:])
        size = len(tail) if found.open_at is None else at + found.open_at
        if at > 0 or not is_noise(tail[:size]):
            return Showable(size)
        return Showable(len(tail), is_text=True) if found.is_damaged else Showable(0)

    def take(self) -> list[bytes]:
        """Return the lines, and forget them."""
        lines, self.lines = self.lines, []
        return lines
