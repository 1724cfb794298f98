"""A JSON object that is printed over several lines: its lines until it is complete. Pure, bounded in bytes."""

from commitcast.actors.sources.parsers.objects import Outcome, Unfinished, objects_in


class SpreadObject:
    """The lines of one object, or of several of which each begins on the line where the one before it ends."""

    def __init__(self, max_bytes: int) -> None:
        """Make it; there are no lines yet.

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

    def take(self) -> list[bytes]:
        """Return the lines, and forget them."""
        lines, self.lines = self.lines, []
        return lines
