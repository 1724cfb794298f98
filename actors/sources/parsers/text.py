"""Plain text: each line is a message of the assistant. Pure.

Programs whose name is not known, and those that print plain text unless an option makes them print events, may turn
out to print the events of a known kind. An event that is printed over several lines is shown as the text that it is,
and believed.
"""

from collections.abc import Callable
from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, decode_json, text_of
from commitcast.actors.sources.parsers.objects import Outcome, Showable, SpreadObject, is_noise, objects_in
from commitcast.actors.sources.parsers.parser import Parser

_LOOKED_AT_BYTES: Final = 1024 * 1024
"""Of a line, or of an event over several: no program begins with a longer one. Longer text is not searched."""


class TextParser(Parser):
    """For any program: one message a line."""

    plain_type = "assistant"
    shows_steps = True

    def _read(self, line: bytes) -> list[Draft]:
        text = text_of(line)
        self._note_text(text)
        return [Draft(text)]


class UndecidedParser(TextParser):
    """Reads text, and checks whether a line is an event."""

    def __init__(self, recognize: Callable[[dict[str, Any]], Parser | None]) -> None:
        """Make a parser; `recognize` returns the one that reads on from an event, or None."""
        super().__init__()
        self._recognize = recognize
        self._spread = SpreadObject(_LOOKED_AT_BYTES)

    def feed(self, line: bytes) -> list[Draft]:
        """Take the next line; return its message."""
        self._follow(line)
        return super().feed(line)

    def feed_piece(self, piece: bytes, *, continues: bool, overwrites: bool = False) -> list[Draft]:
        """Take a piece of a line; return its message."""
        self._follow(piece)
        return super().feed_piece(piece, continues=continues, overwrites=overwrites)

    def flush(self) -> list[Draft]:
        """Forget an event over several lines that was not completed: its lines were shown."""
        self._spread.take()
        return []

    def showable(self, tail: bytes) -> Showable:
        """Tell how much of an unfinished line can be shown now: up to where an event may begin."""
        if len(tail) > _LOOKED_AT_BYTES:
            return Showable(len(tail), is_text=True)
        return self._spread.showable(tail) if self._spread.lines or b"{" in tail else Showable(len(tail))

    def successor(self, line: bytes) -> Parser | None:
        """Return the parser that reads on from this line, if it is an event of a known kind."""
        if b"{" not in line or len(line) > _LOOKED_AT_BYTES:
            return None
        return next(filter(None, map(self._recognize, _objects_of(line))), None)

    def _follow(self, line: bytes) -> None:
        """Follow an event that stands on several lines."""
        if self._spread.lines:
            outcome = self._spread.add(line)
            if outcome is Outcome.OPEN:
                return
            lines = self._spread.take()
            if outcome is Outcome.COMPLETE:
                return self._believe(b"\n".join(lines))
        if b"{" in line and len(line) <= _LOOKED_AT_BYTES:
            unfinished = objects_in(line).unfinished
            if unfinished is not None:
                self._spread.begin(line, unfinished)

    def _believe(self, whole: bytes) -> None:
        parser = self.successor(whole)
        if parser is not None:
            parser.parse(whole)
            self.verdict, self.result, self.has_events = parser.verdict, parser.result, parser.has_events
            self.is_doubtful, self.steps = parser.is_doubtful, self.steps + parser.steps
            self.session_id, self.last_error = parser.session_id, parser.last_error


def _objects_of(line: bytes) -> list[dict[str, Any]]:
    """Return the objects that a line consists of, perhaps behind a banner; none if text follows one of them."""
    whole = decode_json(line) if line.lstrip()[:1] in (b"{", b"[") else None
    if whole is not None:
        return [value for value in [whole, *as_list(whole)] if isinstance(value, dict)]
    objects = objects_in(line).located
    starts = [*(located.start for located in objects[1:]), len(line)]
    is_all = all(is_noise(line[located.end : start]) for located, start in zip(objects, starts, strict=False))
    return [located.value for located in objects] if is_all else []
