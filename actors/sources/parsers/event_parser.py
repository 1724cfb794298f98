"""The base of parsers for programs that print JSON objects, mostly one a line. Pure.

An object may stand behind a banner, a byte order mark or terminal codes, beside another object, in an array, or on
several lines, which are kept until it is complete. Readable text around it is a message too.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Final

import msgspec

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_text, compact_json, decode_json, text_of
from commitcast.actors.sources.parsers.objects import Objects, Outcome, Showable, SpreadObject, is_noise, objects_in
from commitcast.actors.sources.parsers.parser import Parser, Verdict
from commitcast.actors.sources.parsers.shapes import begins_run, is_unmistakable

MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of one object over all its lines: as long as a line may be. Beyond it, its lines are text."""


class ObjectParser(Parser):
    """Reads JSON objects."""

    def __init__(self) -> None:
        super().__init__()
        self._spread = SpreadObject(MAX_KEPT_BYTES)

    @abstractmethod
    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        """Return the messages of an object; none if such programs are not known to print its shape."""

    def _unknown(self, value: Any, text: str) -> Draft:
        """Return the message for a line, or an element of an array, that is JSON and not understood."""
        return self._plain(text)

    def feed(self, line: bytes) -> list[Draft]:
        """See `Parser.feed`."""
        if self._spread.lines:
            return self._go_on(line)
        drafts = self._read_whole(line)
        if drafts is None:
            objects = objects_in(line)
            if objects.unfinished is not None:
                self._spread.begin(line, objects.unfinished)
                return []
            drafts = self._read_parts(line, objects) or [self._plain(text_of(line))]
        return self._finished(drafts, line)

    def flush(self) -> list[Draft]:
        """Return the messages of an object that was not completed: each line on its own."""
        return [draft for line in self._spread.take() for draft in self.parse(line)]

    def feed_piece(self, piece: bytes, *, continues: bool, overwrites: bool = False) -> list[Draft]:
        """Take a piece of a line, of which events may be complete though the line is not."""
        drafts = self.feed(piece)
        if continues:  # nothing of it is kept
            drafts += self.flush()
        last = max((index for index, draft in enumerate(drafts) if draft.raw is not None), default=None)
        if last is not None:  # its `raw` ends where the piece does
            metadata = {**(drafts[last].metadata or {}), "partial": True, "continues": continues}
            drafts[last] = msgspec.structs.replace(drafts[last], metadata=metadata)
        return drafts

    def showable(self, tail: bytes) -> Showable:
        """Tell how much of an unfinished line can be shown now: up to where an object begins that is not complete."""
        return self._spread.showable(tail)

    def _go_on(self, line: bytes) -> list[Draft]:
        """Take a line of an object that has begun on an earlier one."""
        outcome = self._spread.add(line)
        if outcome is Outcome.BROKEN:
            return [*self.flush(), *self.feed(line)]
        if outcome is Outcome.OPEN:
            return []
        lines = self._spread.take()
        whole = b"\n".join(lines)
        drafts = self._read_parts(whole, objects_in(whole))
        return self._finished(drafts, whole) if drafts else [draft for line in lines for draft in self.parse(line)]

    def _read(self, line: bytes) -> list[Draft]:
        drafts = self._read_whole(line)
        return drafts or self._read_parts(line, objects_in(line)) or [self._plain(text_of(line))]

    def _read_whole(self, line: bytes) -> list[Draft] | None:
        """Read a line that is one JSON value, as nearly all are; None if it is not, or text."""
        first = line.lstrip()[:1]
        if first != b"{" and first != b"[":
            return None if b"{" in line else [self._plain(text_of(line))]
        value = decode_json(line)
        if isinstance(value, dict):
            return self._read_object(value) or [self._unknown(value, text_of(line))]
        if isinstance(value, list) and any(isinstance(element, dict) for element in value):
            read = [self._read_object(element) for element in value]
            if any(read):
                return [
                    draft
                    for element, drafts in zip(value, read, strict=True)
                    for draft in drafts or [self._unknown(element, compact_json(element))]
                ]
        return None if value is None else [self._plain(text_of(line))]

    def _read_parts(self, data: bytes, objects: Objects) -> list[Draft]:
        """Read what stands among other things; nothing if it is all text."""
        drafts: list[Draft] = []
        end = 0
        for located in objects.located:
            if read := self._read_object(located.value):
                drafts += [*self._text_between(data[end : located.start]), *read]
                end = located.end
        return [*drafts, *self._text_between(data[end:])] if drafts else []

    def _read_object(self, value: Any) -> list[Draft] | None:
        drafts = self._understand(value) if isinstance(value, dict) else None
        if drafts:
            self.has_events = True
            self.steps += begins_run(value) or any(draft.type != "system" for draft in drafts)
            self.is_guess = self.is_guess and not begins_run(value)
            self.is_doubtful = self.is_doubtful and not is_unmistakable(value)
            self._last_text = ""
        return drafts

    def _text_between(self, data: bytes) -> list[Draft]:
        return [] if is_noise(data) else [self._plain(text_of(data))]

    def _conclude(self, error: str | None, facts: dict[str, Any] | None = None) -> None:
        """Give the verdict: good without an error."""
        self.verdict = Verdict(error is None, error, facts)

    def _plain(self, text: str) -> Draft:
        """Return the message for text that is not understood: nothing that a program prints is dropped."""
        self._note_text(text)
        return Draft(text) if self.is_doubtful else Draft(text, "system", metadata={"unparsed": True})


class EventParser(ObjectParser):
    """Reads objects that are told apart by their "type"."""

    gives_verdict = True
    session_field: ClassVar[str | None] = None
    """Where an event names its session, if that tells apart what sub-agents say."""

    def __init__(self) -> None:
        super().__init__()
        self._below: EventParser | None = None  # for sub-agents, which change nothing of the run but what it used

    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        name = value.get("type")
        if not isinstance(name, str):
            return None
        if not self._is_nested(value):
            return self._read_event(name, value)
        self._below = below = self._below or type(self)()
        below.result = self.result
        drafts = below._read_event(name, value)
        self.result = below.result
        return drafts

    def _is_nested(self, event: dict[str, Any]) -> bool:
        """Tell whether an event is a sub-agent's: it names another session than the first."""
        session = None if self.session_field is None else as_text(event.get(self.session_field))
        return session is not None and self.session_id not in (None, session)

    def _unknown(self, value: Any, text: str) -> Draft:
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str) or self.is_doubtful:
            return self._plain(text)
        self.has_events = True
        return Draft(text, "system", metadata={"event": name})

    @abstractmethod
    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        """Return the messages of an event; none if it is unknown or not of the known shape."""
