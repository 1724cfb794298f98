"""Which messages form one text, which repeat a text, and which are only the bookkeeping of a stream. Pure.

A producer that streams sends a text in pieces, and often the whole of it once more. Marks in `metadata` distinguish
them; docs/protocol.md lists them for every reader, and `web/texts.js` is the same rule for the page. Owns the rule for
reading: it stores, sends and changes nothing.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from commitcast.gateway.protocol.frames import Item

BOOKKEEPING: Final = frozenset({"keep_alive", "ping", "rate_limit_event", "stream_event", "tool_progress"})
"""Events without information for people, although their messages contain the line."""
NOTICES: Final = frozenset({"api_retry", "compact_boundary", "error"})
"""Events without content that people want to see."""
BOUNDARIES: Final = frozenset({"content_block_start", "content_block_stop", "message_start", "message_stop"})
"""Events between two texts of one stream; all other bookkeeping may occur within a text."""
READING_MARKS: Final = frozenset(
    {"delta", "repeats_deltas", "partial", "continues", "overwrites", "truncated", "thinking", "parent_tool_use_id"}
)
"""Names in metadata that say how to read a message. They are not content."""

_MAX_ANSWER_CHARACTERS: Final = 1024 * 1024
"""Of an agent's last text, to recognize it in its `response`; a longer one is shown twice."""
_MAX_ANSWERS: Final = 256
"""The number of agents whose last text is remembered."""


class Marks(msgspec.Struct, frozen=True):
    """The marks in metadata that say how to read a message. Only the value `True` is a mark."""

    delta: Any = None
    repeats_deltas: Any = None
    partial: Any = None
    continues: Any = None
    overwrites: Any = None
    thinking: Any = None
    parent_tool_use_id: Any = None
    event: Any = None
    subtype: Any = None

    @classmethod
    def of(cls, item: Item) -> "Marks":
        """Return the marks of a message."""
        if isinstance(item.metadata, msgspec.Raw):
            return _decode(item.metadata)
        if isinstance(item.metadata, Mapping):
            return cls(*map(item.metadata.get, cls.__struct_fields__))
        return _NONE

    @property
    def is_piece(self) -> bool:
        """Whether it is a piece of a text, or of a line."""
        return self.delta is True or self.partial is True or self.continues is True

    @property
    def events(self) -> set[str]:
        """What the producer calls it."""
        return {name for name in (self.event, self.subtype) if isinstance(name, str)}


_NONE: Final = Marks()
_decode: Final = msgspec.json.Decoder(Marks).decode


def is_bookkeeping(item: Item, marks: Marks) -> bool:
    """Tell whether a message has nothing to read: an event of the stream itself, or an empty piece or thought."""
    if item.type != "system":
        return item.content == "" and (marks.delta is True or marks.thinking is True)
    if item.content == "":
        return not marks.events & NOTICES
    return item.content.startswith("{") and bool(marks.events & BOOKKEEPING)


class Place(Enum):
    """Where a message belongs in what a person reads."""

    NEW = "begins a text, or is one"
    JOINS = "goes on with the text before it"
    HIDDEN = "has nothing to read, or nothing new"


class Texts:
    """Places the messages of one agent, or of all, one by one in their order.

    Only the text that was shown last can continue: where streams are mixed, each change of stream begins a new text.
    """

    def __init__(self) -> None:
        self._stream: tuple[Any, ...] = ()
        """The agent and the sub-agent that spoke last."""
        self._open: tuple[Any, ...] | None = None
        """The kind of the text that was shown last, as long as it may continue."""
        self._answers: dict[str | None, _Answer] = {}

    @property
    def may_go_on(self) -> bool:
        """Whether the next message may continue the text that was shown last."""
        return self._open is not None

    def place(self, item: Item) -> Place:
        """Return where the next message belongs."""
        marks = Marks.of(item)
        stream = (item.agent, marks.parent_tool_use_id)
        repeats = marks.repeats_deltas is True
        if repeats or is_bookkeeping(item, marks):
            if stream == self._stream and (repeats or marks.events & BOUNDARIES):
                self._open = None
            return Place.HIDDEN
        kind = (stream, item.type, item.role, marks.thinking is True, marks.delta is True)
        joins = marks.is_piece and marks.overwrites is not True and kind == self._open
        self._stream = stream
        self._open = kind if marks.delta is True or marks.continues is True else None
        if self._is_known(item):
            return Place.HIDDEN
        if item.type == "assistant" and marks.thinking is not True and marks.parent_tool_use_id is None:
            self._remember(item, joins)
        return Place.JOINS if joins else Place.NEW

    def _is_known(self, item: Item) -> bool:
        """Return whether it is a response that repeats the agent's last text."""
        answer = self._answers.get(item.agent)
        return item.type == "response" and answer is not None and answer.is_said_by(item.content)

    def _remember(self, item: Item, joins: bool) -> None:
        answer = self._answers.pop(item.agent, None)
        self._answers[item.agent] = answer = answer if joins and answer is not None else _Answer()
        answer.add(item.content)
        if len(self._answers) > _MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]


class _Answer:
    """The last text of an agent, to recognize it. Bounded."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._characters = 0

    def add(self, text: str) -> None:
        self._characters += len(text)
        self._parts.append(text)
        if self._characters > _MAX_ANSWER_CHARACTERS:
            self._parts.clear()

    def is_said_by(self, text: str) -> bool:
        """Ignores white space at both ends: some CLIs trim it."""
        answer = "".join(self._parts).strip()
        return answer != "" and answer == text.strip()
