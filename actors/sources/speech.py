"""What one process says, on its way from chunks of bytes to messages of its agent.

Owns the unfinished line, the parser, and the messages that the agent has not got yet. Must never keep text back for
longer than `PIECE_AFTER_S`: a line without its newline is shown in pieces, and the events in it that are complete are
heard. What may become an event waits, because it cannot be understood in parts. Used on the source's thread, but for
`last_words`, which the agent's actor calls when it ends the agent: nothing that was read is lost then.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.lines import Line, LineSplitter
from commitcast.actors.sources.parsers import Parser
from commitcast.actors.sources.parsers.spread import Showable

PIECE_AFTER_S: Final = 0.5
"""How long a line waits for its newline. People notice a pause of a second; a program that prints word by word
without newlines makes two messages a second of it."""

LOOKED_AT_BYTES: Final = 1024 * 1024
"""Of an unfinished line, in `PIECE_AFTER_S`: a longer one is looked at less often, which keeps that to a few percent
of the time."""


class Speech:
    """What one process says.

    Attributes:
        parser: the one that reads now; it changes when the program turns out to be of another kind.
    """

    def __init__(self, parser: Parser, context: AgentContext, now: Callable[[], float] = time.monotonic) -> None:
        """Make it, and have the agent ask it for its last words."""
        self.parser = parser
        self._context = context
        self._now = now
        self._splitter = LineSplitter()
        self._session_id = parser.session_id
        self._work = (parser, parser.steps)  # that was seen last,
        self._worked_at = now()  # and when
        self._due_at: float | None = None  # when to show what there is of the unfinished line
        self._is_text = False  # the unfinished line: too long for an event, or damaged; its pieces are none
        self._has_returned = False  # the unfinished line: its last piece ended with a carriage return
        self._lock = threading.Lock()  # of all that is above, and of:
        self._waiting: list[Draft] = []  # what is being delivered
        self._delivered = 0  # before that
        self._is_hushed = False
        context.last_words = self.last_words

    def feed(self, chunk: bytes) -> None:
        """Put the messages that a chunk completes. Blocks while the agent is at its bound."""
        with self._lock:
            lines = self._splitter.feed(chunk)
            for line in lines:
                if line.continues:
                    self._is_text = True
                self._say(line)
            if lines:
                self._due_at = None
            if self._splitter.held_bytes and self._due_at is None:
                self._due_at = self._now() + PIECE_AFTER_S * max(1, self._splitter.held_bytes / LOOKED_AT_BYTES)
        began = self._now()
        self._deliver()
        with self._lock:
            if self._due_at is not None:
                self._due_at += self._now() - began  # for how long that blocked, the program was not heard

    def patience_s(self) -> float | None:
        """Return in how many seconds `show_due` has something to do; None: when more has come."""
        return None if self._due_at is None else max(0.0, self._due_at - self._now())

    def idle_s(self) -> float:
        """Return for how long the program has done nothing, as far as it says; signs of life do not count."""
        return self._now() - self._worked_at

    def show_due(self) -> None:
        """Put what there is of a line that has waited for its newline too long. Blocks like `feed`."""
        if self._due_at is None or self._now() < self._due_at:
            return
        with self._lock:
            self._due_at = None
            while pieces := self._splitter.give(self._showable_bytes()):
                for piece in pieces:
                    self._say(piece)
        self._deliver()

    def hush(self) -> None:
        """Understand what is said from now on, and put no more of it: the agent has ended, its account has not."""
        self._is_hushed = True
        self._drop()

    def end(self) -> None:
        """Put all that is left: the last line if it had no newline, and what may have become an event."""
        with self._lock:
            self._say_rest()
        self._deliver()

    def last_words(self, delivered: int) -> list[Draft]:
        """Return all that was read and not delivered. From then on nothing more is.

        Args:
            delivered: how many messages the agent has got.

        Threads: any; blocks for as long as a line takes to be understood.
        """
        with self._lock:
            self._say_rest()
            return self._waiting[delivered - self._delivered :]

    def _showable_bytes(self) -> int:
        held = self._splitter.held
        shown = Showable(len(held), is_text=True) if self._is_text else self.parser.showable(held)
        self._is_text = shown.is_text
        return shown.size

    def _say_rest(self) -> None:
        self._due_at = None
        for line in self._splitter.end():
            self._say(line)
        self._waiting += self.parser.flush()

    def _say(self, line: Line) -> None:
        if line.partial or (b"\r" in line.data and self.parser.shows_steps):
            self._say_pieces(line)
        else:
            self.parser = self.parser.successor(line.data) or self.parser
            self._waiting += self.parser.feed(line.data)
            self._is_text = False

    def _say_pieces(self, line: Line) -> None:
        for step in line.steps() if self.parser.shows_steps else [line]:
            overwrites = step.overwrites or (self._has_returned and step.data != b"")
            marks = {"continues": step.continues, "overwrites": overwrites}
            self._has_returned = step.data.endswith(b"\r")
            if self._is_text:
                self._waiting += [*self.parser.flush(), self.parser.parse_piece(step.data, **marks)]
            else:
                self.parser = self.parser.successor(step.data) or self.parser
                self._waiting += self.parser.feed_piece(step.data, **marks)
        if not line.continues:
            self._is_text = self._has_returned = False

    def _drop(self) -> None:
        with self._lock:
            self._waiting = []

    def _deliver(self) -> None:
        if self._is_hushed:
            return self._drop()
        if self.parser.session_id != self._session_id:
            self._session_id = self.parser.session_id
            self._context.patch(configuration={"session_id": self._session_id})
        for draft in self._waiting:
            self._context.put(draft)
        with self._lock:
            self._delivered += len(self._waiting)
            self._waiting = []
        if self._work != (self.parser, self.parser.steps):
            self._work = (self.parser, self.parser.steps)
            self._worked_at = self._now()  # how long the agent was at its bound is no idleness
