"""The output of one process, on its way from chunks of bytes to messages of its agent.

Owns the unfinished line, the parser, and the drafts that are not delivered yet. Must never keep text back for longer
than `PARTIAL_AFTER_S`: a line without its newline is shown in pieces, and the events in it that are complete are
parsed. What may become an event waits, because it cannot be parsed in parts. Used on the source's thread, except
`last_words`, which the agent's actor calls when it ends the agent, so that nothing that was read is lost.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.lines import Line, LineSplitter
from commitcast.actors.sources.parsers import Parser
from commitcast.actors.sources.parsers.objects import Showable

PARTIAL_AFTER_S: Final = 0.5
"""How long a line waits for its newline. People notice a pause of a second; the words of a program that prints no
newlines become two messages a second."""

SCANNED_BYTES: Final = 1024 * 1024
"""Of an unfinished line that are scanned every `PARTIAL_AFTER_S`: a longer line is scanned less often, which limits
the cost to a few percent of the time."""


class OutputReader:
    """Reads what one process prints.

    Attributes:
        parser: the current one; it changes when the program turns out to be of another kind.
    """

    def __init__(self, parser: Parser, context: AgentContext, now: Callable[[], float] = time.monotonic) -> None:
        """Make a reader, and have the agent ask it for its last words."""
        self.parser = parser
        self._context = context
        self._now = now
        self._splitter = LineSplitter()
        self._session_id = parser.session_id
        self._work = (parser, parser.steps)  # that was seen last,
        self._worked_at = now()  # and when
        self._due_at: float | None = None  # when the unfinished line is to be shown
        self._is_text = False  # the unfinished line: too long for an event, or damaged; no piece of it is parsed
        self._has_returned = False  # the unfinished line: its last piece ended with a carriage return
        self._lock = threading.Lock()  # of all that is above, and of:
        self._drafts: list[Draft] = []  # that are being delivered
        self._delivered = 0  # before them
        self._is_muted = False
        context.last_words = self.last_words

    def feed(self, chunk: bytes) -> None:
        """Put the messages that a chunk completes. Blocks while the agent is at its bound."""
        with self._lock:
            lines = self._splitter.feed(chunk)
            for line in lines:
                if line.continues:
                    self._is_text = True
                self._parse(line)
            if lines:
                self._due_at = None
            if self._splitter.held_bytes and self._due_at is None:
                self._due_at = self._now() + PARTIAL_AFTER_S * max(1, self._splitter.held_bytes / SCANNED_BYTES)
        began = self._now()
        self._deliver()
        with self._lock:
            if self._due_at is not None:
                self._due_at += self._now() - began  # the program was not read for as long as that blocked

    def due_in_s(self) -> float | None:
        """Return the seconds until `show_due` has something to do; None: not before more output comes."""
        return None if self._due_at is None else max(0.0, self._due_at - self._now())

    def idle_s(self) -> float:
        """Return the seconds since the program last printed that it did something; signs of life do not count."""
        return self._now() - self._worked_at

    def show_due(self) -> None:
        """Put what has come of a line that has waited for its newline too long. Blocks like `feed`."""
        if self._due_at is None or self._now() < self._due_at:
            return
        with self._lock:
            self._due_at = None
            while pieces := self._splitter.give(self._showable_bytes()):
                for piece in pieces:
                    self._parse(piece)
        self._deliver()

    def mute(self) -> None:
        """Go on parsing and put no more messages: the agent has ended, and the program's account of its work counts."""
        self._is_muted = True
        self._drop()

    def end(self) -> None:
        """Put the rest: the last line if it had no newline, and what could have become an event."""
        with self._lock:
            self._parse_rest()
        self._deliver()

    def last_words(self, delivered: int) -> list[Draft]:
        """Return all that was read and not delivered. From then on nothing more is delivered.

        Args:
            delivered: how many messages the agent has got.

        Threads: any; blocks for as long as it takes to parse a line.
        """
        with self._lock:
            self._parse_rest()
            return self._drafts[delivered - self._delivered :]

    def _showable_bytes(self) -> int:
        held = self._splitter.held
        shown = Showable(len(held), is_text=True) if self._is_text else self.parser.showable(held)
        self._is_text = shown.is_text
        return shown.size

    def _parse_rest(self) -> None:
        self._due_at = None
        for line in self._splitter.end():
            self._parse(line)
        self._drafts += self.parser.flush()

    def _parse(self, line: Line) -> None:
        if line.partial or (b"\r" in line.data and self.parser.shows_steps):
            self._parse_pieces(line)
        else:
            self.parser = self.parser.successor(line.data) or self.parser
            self._drafts += self.parser.feed(line.data)
            self._is_text = False

    def _parse_pieces(self, line: Line) -> None:
        for step in line.steps() if self.parser.shows_steps else [line]:
            overwrites = step.overwrites or (self._has_returned and step.data != b"")
            marks = {"continues": step.continues, "overwrites": overwrites}
            self._has_returned = step.data.endswith(b"\r")
            if self._is_text:
                self._drafts += [*self.parser.flush(), self.parser.parse_piece(step.data, **marks)]
            else:
                self.parser = self.parser.successor(step.data) or self.parser
                self._drafts += self.parser.feed_piece(step.data, **marks)
        if not line.continues:
            self._is_text = self._has_returned = False

    def _drop(self) -> None:
        with self._lock:
            self._drafts = []

    def _deliver(self) -> None:
        if self._is_muted:
            return self._drop()
        if self.parser.session_id != self._session_id:
            self._session_id = self.parser.session_id
            self._context.patch(configuration={"session_id": self._session_id})
        for draft in self._drafts:
            self._context.put(draft)
        with self._lock:
            self._delivered += len(self._drafts)
            self._drafts = []
        if self._work != (self.parser, self.parser.steps):
            self._work = (self.parser, self.parser.steps)
            self._worked_at = self._now()  # the time that the agent was at its bound does not count as idle
