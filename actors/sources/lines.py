"""A byte stream cut into lines. Pure; one splitter for one pipe.

Cuts at the byte 0x0A only: a carriage return, U+2028 and the like are part of a line, because JSON may hold
them. Nothing is lost or changed: the lines, with a newline after each that does not continue, are the stream.
"""

from typing import Final

import msgspec

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A line is kept as `raw` and shown as content and metadata beside it, all in one message of 64 MiB at most.
CLIs print whole files in a line; the limits of 64 KiB and 1 MiB that others chose have all been hit."""

_MIN_LINE_BYTES: Final = 4
"""The longest UTF-8 character, which is never cut in two."""


class Line(msgspec.Struct, frozen=True):
    """A line without its newline, or a piece of one that is too long."""

    data: bytes
    partial: bool = False
    """Whether it is a piece of a line that was too long; the last piece of it is one too."""
    continues: bool = False
    """Whether the next piece belongs to the same line."""


class LineSplitter:
    """Holds the unfinished line between two reads: at most `max_line_bytes` and one chunk."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        """Make a splitter.

        Args:
            max_line_bytes: at least 4; longer lines come in pieces of at most so many bytes.
        """
        if max_line_bytes < _MIN_LINE_BYTES:
            raise ValueError(f"max_line_bytes must be at least {_MIN_LINE_BYTES}, not {max_line_bytes}")
        self._max_line_bytes = max_line_bytes
        self._held = bytearray()
        self._partial = False

    def feed(self, chunk: bytes) -> list[Line]:
        """Take the next bytes of the stream and return what they complete."""
        lines: list[Line] = []
        start = 0
        while (newline := chunk.find(b"\n", start)) >= 0:
            self._held += memoryview(chunk)[start:newline]
            self._cut(lines)
            lines.append(self._take())
            start = newline + 1
        self._held += memoryview(chunk)[start:]
        self._cut(lines)
        return lines

    def end(self) -> list[Line]:
        """Return the last line if the stream did not end with a newline."""
        return [self._take()] if self._held else []

    def _take(self) -> Line:
        line = Line(bytes(self._held), self._partial)
        self._held.clear()
        self._partial = False
        return line

    def _cut(self, lines: list[Line]) -> None:
        """Give out pieces until what is held is no longer too long. What is left is never empty."""
        while len(self._held) > self._max_line_bytes:
            size = self._piece_bytes()
            lines.append(Line(bytes(self._held[:size]), partial=True, continues=True))
            del self._held[:size]  # moves a pointer, not the bytes
            self._partial = True

    def _piece_bytes(self) -> int:
        """Return the most bytes that do not end inside a character; all if they are not UTF-8."""
        for size in range(self._max_line_bytes, self._max_line_bytes - _MIN_LINE_BYTES, -1):
            if self._held[size] & 0xC0 != 0x80:  # the next piece begins with no continuation byte
                return size
        return self._max_line_bytes
