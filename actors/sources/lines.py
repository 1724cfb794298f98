"""Splits a byte stream into lines. Pure; one splitter for each pipe.

Cuts at the byte 0x0A only: a carriage return, U+2028 and the like are part of a line, because JSON may hold
them. A piece of a line comes before its end if the line is too long, or when it is asked for. Nothing is lost or
changed: the lines, with a newline after each that does not continue, are the stream.
"""

import re
from typing import Final

import msgspec

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A line is kept as `raw` and shown as content and metadata beside it, all in one message of 64 MiB at most.
CLIs print whole files in a line; the limits of 64 KiB and 1 MiB that others chose have all been hit."""

_MIN_LINE_BYTES: Final = 4
"""The longest UTF-8 character, which is never cut in two."""

MAX_STEPS: Final = 10_000
"""Of one line or piece: what comes with more carriage returns was not printed for people to see it step by step."""

_STEP: Final = re.compile(rb"(?<=[^\r])(?=\r+[^\r])")
"""Before the carriage returns with which a program goes back to write over what it has written."""


class Line(msgspec.Struct, frozen=True):
    """A line without its newline, or a piece of one."""

    data: bytes
    partial: bool = False
    """Whether it is a piece of a line; the last piece is one too, and may be empty."""
    continues: bool = False
    """Whether the next piece belongs to the same line."""

    @property
    def overwrites(self) -> bool:
        """Whether it begins with a carriage return."""
        return self.data.startswith(b"\r")

    def steps(self) -> "list[Line]":
        """Return the line in pieces, each as a terminal shows it after a carriage return; itself if there is none."""
        if b"\r" not in self.data or self.data.count(b"\r") > MAX_STEPS:
            return [self]
        *before, last = _STEP.split(self.data)
        if not before:
            return [self]
        return [*(Line(step, partial=True, continues=True) for step in before), Line(last, True, self.continues)]


class LineSplitter:
    """Holds the unfinished line between two reads: at most `max_line_bytes` and one chunk."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        """Make a splitter.

        Args:
            max_line_bytes: at least 4; longer lines come in pieces of at most that many bytes.
        """
        if max_line_bytes < _MIN_LINE_BYTES:
            raise ValueError(f"max_line_bytes must be at least {_MIN_LINE_BYTES}, not {max_line_bytes}")
        self._max_line_bytes = max_line_bytes
        self._held = bytearray()
        self._partial = False

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished line has come that was not given out as a piece."""
        return len(self._held)

    @property
    def held(self) -> bytes:
        """What that is. Copies it."""
        return bytes(self._held)

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

    def give(self, size: int) -> list[Line]:
        """Return the first bytes of the unfinished line as a piece: at most `size`, and only whole characters.

        Carriage returns alone, which may be half of the line's end, are kept.
        """
        held = self.held[:size]
        if len(held) == len(self._held):
            held = _whole_characters(held)
        if not held.strip(b"\r"):
            return []
        del self._held[: len(held)]
        self._partial = True
        return [Line(held, partial=True, continues=True)]

    def end(self) -> list[Line]:
        """Return the last line if the stream did not end with a newline."""
        return [self._take()] if self._held else []

    def _take(self) -> Line:
        line = Line(bytes(self._held), self._partial)
        self._held.clear()
        self._partial = False
        return line

    def _cut(self, lines: list[Line]) -> None:
        """Append pieces until the rest is not too long. The rest is never empty."""
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


def _whole_characters(data: bytes) -> bytes:
    """Return the bytes without a UTF-8 character at their end of which more bytes may come."""
    for size in range(1, min(_MIN_LINE_BYTES, len(data) + 1)):
        byte = data[-size]
        if byte & 0xC0 != 0x80:  # the first byte of the last character, which says how long it is
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-size] if size < length else data
    return data
