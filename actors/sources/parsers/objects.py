"""JSON objects in what a program prints: several on a line, behind a banner, or printed over several lines. Pure.

Strict where it decides (RFC 8259, but for NaN and control characters), because what only begins like an object must be
let go at once, so that text is not held back. An object inside of an object is never taken for one of its own, also
when the outer one is damaged: it may be a quotation. Arrays around objects are punctuation. Takes linear
time for all bytes.
"""

import copy
import re
from enum import Enum
from typing import Any, Final, NamedTuple

from commitcast.actors.sources.parsers.decoding import decode_json

MAX_FALSE_STARTS: Final = 1_000
"""Braces of a line that turn out to begin nothing (a minified program); what stands behind the last one is text."""

MAX_OPEN: Final = 1_000
"""Objects and arrays inside of each other; Python decodes no deeper ones."""

_CODE: Final = rb"""
    \x1b\[ [0-?]* [ -/]* [@-~]                  # CSI: colours, the cursor
  | \x1b\] [^\x07\x1b]* (?: \x07 | \x1b\\ )      # OSC: the window's title, links
  | \x1b [PX^_] [^\x1b]* \x1b\\                  # DCS and its like
  | \x1b [ -/]* [0-~]                           # all other escape sequences (ECMA-48)
"""
_NOISE: Final = re.compile(rb"(?:" + _CODE + rb"| \xef\xbb\xbf | [\x00-\x20\x7f] | [\[\],] )*+", re.VERBOSE)
_START: Final = re.compile(rb"(?P<code>" + _CODE + rb') | \{ [ \t\r\n]*+ (?: ["}] | \Z )', re.VERBOSE)

_UNREADABLE: Final = re.compile("(?:" + _CODE.decode() + r"| \ufeff | [\x00-\x08\x0b-\x1f\x7f] )", re.VERBOSE)

_SPACE: Final = rb"[ \t\r\n]*+"
_STRING: Final = rb'"(?:[^"\\\n]++|\\["\\/bfnrtu])*+"'
_SCALAR: Final = rb"(?:-?(?:[0-9][0-9.eE+-]*+|Infinity)|true|false|null|NaN)(?![\w.])"
_TOKEN: Final = re.compile(
    _SPACE + rb"(?:(?P<string>" + _STRING + rb")|(?P<scalar>" + _SCALAR + rb")|(?P<sign>[{}\[\]:,]))"
)
_ELEMENT: Final = _SPACE + rb"(?:" + _STRING + rb"|" + _SCALAR + rb")" + _SPACE + rb","
_ELEMENTS: Final = re.compile(rb"(?:" + _ELEMENT + rb")*+")
_MEMBERS: Final = re.compile(rb"(?:" + _SPACE + _STRING + _SPACE + rb":" + _ELEMENT + rb")*+")
"""Simple values in a row, each with the comma behind it, are passed over at once: most of a large object is that."""

_REST: Final = re.compile(rb'[ \t\r\n]*+(?P<cut>"(?:[^"\\\n]++|\\["\\/bfnrtu])*+\\?|[-+.0-9A-Za-z]++)?\Z')
"""What stands behind the last token: white space, and perhaps the beginning of a string or a number."""

_PUSH, _POP, _DONE = "(", ")", "."
_VALUES: Final = {b'"': _DONE, b"0": _DONE, b"{": _PUSH, b"[": _PUSH}
_GRAMMAR: Final[dict[str, dict[bytes, str]]] = {
    "first key": {b'"': "colon", b"}": _POP},
    "key": {b'"': "colon"},
    "colon": {b":": "value"},
    "value": _VALUES,
    "first value": {**_VALUES, b"]": _POP},
    "{": {b",": "key", b"}": _POP},
    "[": {b",": "value", b"]": _POP},
}
"""What may come in each state, and the state or step that it leads to; "{" and "[" are behind a value in one."""


class Outcome(Enum):
    """What became of an object in some bytes."""

    COMPLETE = "complete"
    OPEN = "open"
    """Not complete; it may go on with the next line."""
    CUT = "cut"
    """Not complete, and the bytes end inside of a string or a number: no new line may follow."""
    BROKEN = "broken"
    """It is not JSON."""


class Unfinished:
    """An object that has begun and is not complete; followed from line to line."""

    def __init__(self) -> None:
        self.has_key = False
        """Whether it has got as far as the colon behind a key, which text in braces seldom does."""
        self._brackets = bytearray(b"{")  # that are open
        self._expects = "first key"

    def follow(self, data: bytes, start: int = 0) -> tuple[Outcome, int]:
        """Read on; return what became of it, and the offset behind what was read of it."""
        at = self._pass_over(data, start)
        while token := _TOKEN.match(data, at):
            kind = token["sign"] or (b'"' if token["string"] is not None else b"0")
            if not self._take(kind):
                return Outcome.BROKEN, at
            at = token.end()
            if not self._brackets:
                return Outcome.COMPLETE, at
            if kind in b"{[,":
                at = self._pass_over(data, at)
        rest = _REST.match(data, at)
        if rest is None:
            return Outcome.BROKEN, at
        return Outcome.OPEN if rest["cut"] is None else Outcome.CUT, len(data)

    def _pass_over(self, data: bytes, start: int) -> int:
        """Take the simple values that stand here; return the offset behind them."""
        is_object = self._brackets[-1:] == b"{"
        if self._expects not in (("first key", "key") if is_object else ("first value", "value")):
            return start
        run = (_MEMBERS if is_object else _ELEMENTS).match(data, start)
        assert run is not None  # it may be empty
        if run.end() > start:
            self._expects = "key" if is_object else "value"
            self.has_key |= is_object
        return run.end()

    def _take(self, kind: bytes) -> bool:
        step = _GRAMMAR[self._expects].get(kind)
        if step is None:
            return False
        if step is _PUSH:
            if len(self._brackets) == MAX_OPEN:
                return False
            self._brackets += kind
            self._expects = "first key" if kind == b"{" else "first value"
            return True
        if step is _POP:
            self._brackets.pop()
        self.has_key |= step == "value"
        self._expects = chr(self._brackets[-1]) if step in (_POP, _DONE) and self._brackets else step
        return True


class Located(NamedTuple):
    """An object and where it stands."""

    start: int
    end: int
    value: dict[str, Any]


class Objects(NamedTuple):
    """The objects in some bytes."""

    located: list[Located]
    open_at: int | None = None
    """Where an object begins that is not complete at the end, or damaged: all that follows may be inside of it."""
    unfinished: Unfinished | None = None
    """An object that is not complete and may go on with another line."""
    is_damaged: bool = False
    """Whether what begins at `open_at` cannot become an object any more."""


def objects_in(data: bytes) -> Objects:
    """Find the JSON objects that stand in a line, or in several."""
    objects: list[Located] = []
    at = false_starts = 0
    while false_starts < MAX_FALSE_STARTS and (start := _START.search(data, at)):
        if start["code"] is not None:
            at = start.end()
            continue
        unfinished = Unfinished()
        outcome, at = unfinished.follow(data, start.start() + 1)
        if outcome is Outcome.OPEN or outcome is Outcome.CUT:
            return Objects(objects, start.start(), unfinished if outcome is Outcome.OPEN else None)
        value = decode_json(data[start.start() : at]) if outcome is Outcome.COMPLETE else None
        if isinstance(value, dict):
            objects.append(Located(start.start(), at, value))
        elif unfinished.has_key:
            return Objects(objects, start.start(), is_damaged=True)
        else:
            false_starts += 1
    return Objects(objects)


def is_noise(data: bytes) -> bool:
    """Tell whether bytes say nothing to a reader: terminal codes, a byte order mark, an array's punctuation."""
    return _NOISE.fullmatch(data) is not None


def without_codes(text: str) -> str:
    """Return a text without its terminal codes and control characters."""
    return _UNREADABLE.sub("", text)


class Showable(NamedTuple):
    """How much of an unfinished line can be shown now."""

    size: int
    """That many bytes from its start: objects in them are complete. What is behind them may be or become an object."""
    is_text: bool = False
    """Whether the rest of the line is text: an object in it is part of a damaged object."""


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
        objects = objects_in(tail[at:])
        size = len(tail) if objects.open_at is None else at + objects.open_at
        if at > 0 or not is_noise(tail[:size]):
            return Showable(size)
        return Showable(len(tail), is_text=True) if objects.is_damaged else Showable(0)

    def take(self) -> list[bytes]:
        """Return the lines, and forget them."""
        lines, self.lines = self.lines, []
        return lines
