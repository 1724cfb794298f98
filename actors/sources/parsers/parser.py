"""What every parser does: one line of a program's output in, messages out, and the program's own verdict.

A parser never raises for any bytes, never drops a line and never changes one: the first draft of a line
carries it as `raw`, byte for byte. Parsers are pure: no I/O, no threads, no clock. One parser follows one
process, on one thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import decode_json, text_of
from commitcast.persistence.writes import MAX_MESSAGE_BYTES

LARGE_LINE_BYTES: Final = 1024 * 1024
"""What is made of a shorter line is at most some thirty times as long, which always fits into a message."""

_FLAG_BYTES: Final = 64
"""Room for `{"truncated":true}` or its like."""


class Verdict(msgspec.Struct, frozen=True):
    """The program's own last word on how it went."""

    ok: bool
    message: str | None = None
    """Why not."""
    result: dict[str, Any] | None = None
    """What it said about its work: costs, counts, times."""


class Parser(ABC):
    """Turns the lines of one process into messages.

    Attributes:
        session_id: the latest that the program has named; what resuming its conversation needs.
        verdict: its last word, None while it has not spoken.
        last_error: the text of its last error event: explains a verdict that never came.
    """

    gives_verdict: ClassVar[bool] = False
    """Whether programs of this kind always end with a verdict."""
    echoes_prompt: ClassVar[bool] = False
    """Whether they print the prompt as a message of their own."""
    exit_codes: ClassVar[Mapping[int, str]] = {}
    """What their exit codes mean, where it is known."""
    plain_type: ClassVar[str] = "system"
    """The type of a message made of a line that is shown as it is."""

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.verdict: Verdict | None = None
        self.last_error: str | None = None

    def parse(self, line: bytes) -> list[Draft]:
        """Return the messages that a line makes: at least one, the first with the line as `raw`.

        Args:
            line: without its newline; any bytes at all.
        """
        drafts = self._read(line)
        drafts[0] = msgspec.structs.replace(drafts[0], raw=line)
        if len(line) > LARGE_LINE_BYTES:
            return [_fitted(draft) for draft in drafts]
        return drafts

    def parse_piece(self, piece: bytes, *, continues: bool) -> Draft:
        """Return the message for a piece of a line that is too long to be understood.

        Args:
            piece: a part of the line, kept as `raw`.
            continues: whether the next piece belongs to the same line.
        """
        metadata = {"partial": True, "continues": continues}
        return _fitted(Draft(text_of(piece), self.plain_type, metadata=metadata, raw=piece))

    @abstractmethod
    def _read(self, line: bytes) -> list[Draft]:
        """Return at least one draft, without `raw`."""


class EventParser(Parser):
    """The base for programs that print one JSON object a line, told apart by its "type"."""

    gives_verdict = True

    def _read(self, line: bytes) -> list[Draft]:
        event = decode_json(line)
        name = event.get("type") if isinstance(event, dict) else None
        if not isinstance(name, str):
            return [unparsed(line)]
        return self._read_event(name, event) or [Draft(text_of(line), "system", metadata={"event": name})]

    @abstractmethod
    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        """Return what an event says; nothing if it is unknown or not of the known shape."""


def unparsed(line: bytes) -> Draft:
    """Return the message for a line that nobody understands: nothing a program says is dropped."""
    return Draft(text_of(line), "system", metadata={"unparsed": True})


def _fitted(draft: Draft) -> Draft:
    """Cut what would make a message too large to be stored; `raw` stays whole and holds everything."""
    assert isinstance(draft.content, str)
    assert not isinstance(draft.raw, str)
    room = MAX_MESSAGE_BYTES - len(draft.raw or b"")
    metadata = draft.metadata
    metadata_bytes = len(msgspec.json.encode(metadata)) if metadata else 0
    if metadata_bytes > max(room // 4, _FLAG_BYTES):
        metadata, metadata_bytes = {"truncated": True}, 0
    content = draft.content.encode()
    room = max(0, room - metadata_bytes - _FLAG_BYTES)
    if len(content) <= room:
        return msgspec.structs.replace(draft, metadata=metadata)
    cut = content[:room].decode(errors="ignore")
    return msgspec.structs.replace(draft, content=cut, metadata={**(metadata or {}), "truncated": True})
