"""Messages on a terminal: a text that arrives in pieces is written piece by piece, once; or one JSON object a line.

Owns the line that has not ended yet. Must never send control characters of an agent to the terminal. One thread.
"""

import sys
import zlib
from typing import Any, Final

import msgspec

from commitcast.actors.commands.output import note_ending, painted, print_json, printable, say, shows_colours
from commitcast.gateway.hub.encoding import agent_view, message_item
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.texts import READING_MARKS, Place, Texts
from commitcast.persistence.records import AgentRecord, MessageRecord

_COLOURS: Final = {
    "user": "cyan",
    "system": "bright_black",
    "error": "red",
    "tool": "yellow",
    "response": "green",
    "completed": "green",
    "failed": "red",
    "terminated": "yellow",
    "running": "cyan",
}
_AGENT_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_black")
_MAX_AGENT_WIDTH: Final = 38
"""That of a UUID, and two spaces."""


class Printer:
    """Prints messages in the order of the calls.

    Attributes:
        hidden: how many messages were left out: bookkeeping, and repeats of text that was printed.
    """

    def __init__(self, *, as_json: bool, all: bool = False, names_agents: bool = False) -> None:
        """Make a printer.

        Args:
            as_json: print every message complete, as JSON.
            all: print every message on a line of its own.
            names_agents: put the agent's id before each line.
        """
        self.hidden = 0
        self._as_json = as_json
        self._texts = None if all else Texts()
        self._names_agents = names_agents
        self._width = 0
        self._style = ""
        self._indent = ""
        self._painted = painted if shows_colours(sys.stdout) else lambda text, style: text
        self._is_open = False
        """Whether the last line may continue, and so has no newline yet."""
        self._newlines = ""
        """Newlines at the end of a text, which are written only when the text continues."""

    def record(self, record: MessageRecord) -> None:
        """Print a message that is durable."""
        self.item(message_item(record, raw=self._as_json, with_agent=True))

    def item(self, item: frames.Item) -> None:
        """Print a message of a subscriber, and flush it.

        Raises:
            BrokenPipeError: the reader has closed the output.
        """
        if self._as_json:
            print_json(item)
            return
        place = Place.NEW if self._texts is None else self._texts.place(item)
        if place is Place.NEW:
            self._begin(item)
        if place is Place.HIDDEN:
            self.hidden += 1
        else:
            self._write(item.content or _summary(item.metadata))
        if self._is_open and (self._texts is None or not self._texts.may_go_on):
            self._is_open = False  # at once: a reader of lines must not wait for the next message
            sys.stdout.write("\n")
        sys.stdout.flush()

    def end(self) -> None:
        """End the line before other output."""
        if self._is_open:
            self._is_open = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def account(self) -> str:
        """Return how many messages were left out, as the end of a sentence."""
        return f" ({self.hidden} not shown: --all)" if self.hidden else ""

    def _begin(self, item: frames.Item) -> None:
        agent = self._agent(item.agent or "") if self._names_agents else ""
        place = f"{item.sequence:>6}  {printable(item.type):<9}  "
        self._indent = " " * (self._width + len(place))
        self._style = _COLOURS.get(item.type, "")
        line_before = "\n" if self._is_open else ""
        sys.stdout.write(line_before + agent + self._painted(place, self._style))
        self._is_open = True
        self._newlines = ""

    def _agent(self, name: str) -> str:
        """Return the prefix of an agent's lines: as wide as the longest name so far."""
        self._width = max(self._width, min(len(name), _MAX_AGENT_WIDTH) + 2)
        colour = _AGENT_COLOURS[zlib.crc32(name.encode()) % len(_AGENT_COLOURS)]
        return self._painted(printable(name).ljust(self._width), colour)

    def _write(self, text: str) -> None:
        text = self._newlines + printable(text)
        shown = text.rstrip("\n")
        self._newlines = text[len(shown) :]
        sys.stdout.write(self._painted(shown.replace("\n", f"\n{self._indent}"), self._style))


def print_agent(record: AgentRecord, *, as_json: bool) -> None:
    """Print an agent."""
    if as_json:
        print_json(agent_view(record, Redactor()))
        return
    when = (record.completed_at or record.started_at or record.created_at)[:19].replace("T", " ")
    why = f"  {record.error_name}: {record.error_message}" if record.error_name else ""
    line = f"{record.id:<38} {record.status:<12} {record.head:>8} {record.type:<12} {when}{why}"
    say(line.split("\n")[0], _COLOURS.get(record.status, ""))


def print_ending(record: AgentRecord, *, as_json: bool, account: str = "") -> None:
    """Print how an agent ended: as data, or as a note that ends with `account` of its messages."""
    if as_json:
        print_json(agent_view(record, Redactor()))
        return
    note_ending(record.id, record.status, record.head, account, record.error_message)


def _summary(metadata: Any) -> str:
    """Return the first fields of the metadata, for a message without content; marks for the reader are left out."""
    if isinstance(metadata, msgspec.Raw):
        metadata = msgspec.json.decode(metadata)
    if not isinstance(metadata, dict):
        return ""
    fields = [(name, value) for name, value in metadata.items() if name not in READING_MARKS]
    return f"({', '.join(f'{name}={_short(value)}' for name, value in fields[:4])})" if fields else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:39] + "…"
