"""The base of all parsers: a line of a program's output becomes messages, and the program's own verdict is kept.

A parser never raises for any bytes, never drops a line and never changes one: the first draft of a line
carries it as `raw`, byte for byte. Parsers are pure: no I/O, no threads, no clock. One parser follows one
process, on one thread at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import text_of
from commitcast.actors.sources.parsers.objects import Showable, without_codes
from commitcast.persistence.writes import MAX_MESSAGE_BYTES

LARGE_LINE_BYTES: Final = 1024 * 1024
"""What is made of a shorter line is at most some thirty times as long, which always fits into a message."""

LAST_TEXT_CHARACTERS: Final = 1_000
"""Of plain text that is kept to explain a failure."""

_FLAG_BYTES: Final = 64
"""Room for `{"truncated":true}` or its like."""


class Verdict(msgspec.Struct, frozen=True):
    """The program's own report of whether it succeeded."""

    ok: bool
    message: str | None = None
    """The error, if it did not succeed."""
    result: dict[str, Any] | None = None
    """What it reported beside `Parser.result`."""


class Parser(ABC):
    """Turns the lines of one process into messages.

    Attributes:
        session_id: the latest that the program has named; needed to resume its conversation.
        verdict: its latest; None before the first, and again when a new turn has begun.
        needs_verdict: whether an end without a verdict is a failure.
        is_guess: whether it was chosen by the shape of what was printed, and no event said that a run begins. That may
            be a copy of a part of a run, so no verdict is needed then, unless an error was printed.
        is_doubtful: whether it was chosen by a shape that other programs print too, and nothing more particular came:
            what looks like an error does not count as one then, and plain text is an answer.
        result: what it has reported about its work so far, over all turns and for every verdict: usage, costs.
        last_error: the text of its last error event: explains a verdict that never came.
        has_events: whether any of its lines was understood as an event.
        steps: how many events showed work: text, a call, a beginning. Keep-alives and plain text do not count.
    """

    gives_verdict: ClassVar[bool] = False
    """Whether programs of this kind always end with a verdict."""
    echoes_prompt: ClassVar[bool] = False
    """Whether they print the prompt as a message of their own."""
    json_option: ClassVar[str | None] = None
    """What makes them print events; without it they print plain text."""
    exit_codes: ClassVar[Mapping[int, str]] = {}
    """What their exit codes mean, where it is known."""
    plain_type: ClassVar[str] = "system"
    """The type of a message made of a line that is shown as it is."""
    shows_steps: ClassVar[bool] = False
    """Whether what stands between two carriage returns is a message of its own: a step of a progress bar."""

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.verdict: Verdict | None = None
        self.needs_verdict = self.gives_verdict
        self.is_guess = self.is_doubtful = False
        self.result: dict[str, Any] = {}
        self.last_error: str | None = None
        self.has_events = False
        self.steps = 0
        self._last_text = ""

    @property
    def believed_verdict(self) -> Verdict | None:
        """The verdict, if the program is certainly of this kind."""
        return None if self.is_doubtful else self.verdict

    @property
    def last_text(self) -> str | None:
        """The end of the plain text that came after the last event, without terminal codes: often a reason to stop."""
        lines = without_codes(self._last_text).split("\n")
        return "\n".join(line for line in lines if line.strip("[], \t")).strip() or None

    def parse(self, line: bytes) -> list[Draft]:
        """Return the messages that a line makes: at least one, the first with the line as `raw`.

        Args:
            line: without its newline; any bytes at all. Several lines, with the newlines between them, if an event
                stands on all of them.
        """
        return self._finished(self._read(line), line)

    def feed(self, line: bytes) -> list[Draft]:
        """Take the next line; return the messages that it completes: none while an event goes on with the next one."""
        return self.parse(line)

    def flush(self) -> list[Draft]:
        """Return the messages of lines that `feed` has kept; no further line belongs to them."""
        return []

    def showable(self, tail: bytes) -> Showable:
        """Tell how much of an unfinished line can be shown now: what may become an event waits until it is one."""
        return Showable(len(tail))

    def successor(self, line: bytes) -> "Parser | None":
        """Return the parser that reads on from this line, if the program turns out to be of another kind."""
        return None

    def parse_piece(self, piece: bytes, *, continues: bool, overwrites: bool = False) -> Draft:
        """Return the message for a piece of a line, which is text even if it holds an object.

        Args:
            piece: a part of the line, kept as `raw`.
            continues: whether the next piece belongs to the same line.
            overwrites: whether it begins with a carriage return: on a terminal it covers what stood there.
        """
        metadata = {"partial": True, "continues": continues, **({"overwrites": True} if overwrites else {})}
        shown = text_of(piece.lstrip(b"\r") if overwrites else piece)
        self._note_text(f"\n{shown}" if overwrites else shown, ends=not continues)
        return _fitted(Draft(shown, self.plain_type, metadata=metadata, raw=piece))

    def feed_piece(self, piece: bytes, *, continues: bool, overwrites: bool = False) -> list[Draft]:
        """Take a piece of a line that was not finished for a while; return the messages that it completes.

        Args:
            piece: as much as was `showable`, or the rest of the line.
            continues: whether more of the line may follow.
            overwrites: as for `parse_piece`.
        """
        return [self.parse_piece(piece, continues=continues, overwrites=overwrites)]

    @abstractmethod
    def _read(self, line: bytes) -> list[Draft]:
        """Return at least one draft, without `raw`."""

    def _note_text(self, text: str, *, ends: bool = True) -> None:
        """Remember the end of what was printed as text; `ends` says whether a new line follows."""
        self._last_text = (self._last_text + text[-LAST_TEXT_CHARACTERS:] + "\n" * ends)[-LAST_TEXT_CHARACTERS:]

    def _finished(self, drafts: list[Draft], line: bytes) -> list[Draft]:
        """Give the drafts of a line its `raw`, and make them fit."""
        drafts[0] = msgspec.structs.replace(drafts[0], raw=line)
        if len(line) > LARGE_LINE_BYTES:
            return [_fitted(draft) for draft in drafts]
        return drafts


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
