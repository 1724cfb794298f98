"""Messages on a terminal: a text that comes in pieces is written as it comes, and once; or one JSON object a line.

Owns the line that is not ended yet. Must never send what an agent says to the terminal but as text. One thread.
"""

import sys
import zlib
from functools import cache
from typing import Any, Final

import msgspec

from commitcast.actors.commands.output import COLOURS, console, print_json, printable
from commitcast.gateway.hub.encoding import message_item
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.texts import READING_MARKS, Place, Texts
from commitcast.persistence.records import MessageRecord

_AGENT_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_black")
_MAX_AGENT_WIDTH: Final = 38
"""That of a UUID, and two spaces."""


class Printer:
    """Prints messages in the order in which it is given them.

    Attributes:
        hidden: how many were left out, as bookkeeping or because they say again what was printed.
    """

    def __init__(self, *, as_json: bool, all: bool = False, names_agents: bool = False) -> None:
        """Make a printer.

        Args:
            as_json: print every message whole, as data.
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
        self._is_terminal = console.is_terminal  # asked once: it looks at the environment each time
        self._is_open = False
        """Whether the last line may go on, and so has no newline yet."""
        self._newlines = ""
        """Owed: that a text ends with is written when it goes on."""

    def record(self, record: MessageRecord) -> None:
        """Print a message that is durable."""
        self.item(message_item(record, raw=self._as_json, with_agent=True))

    def item(self, item: frames.Item) -> None:
        """Print a message as a subscriber has it, and flush it.

        Raises:
            BrokenPipeError: nobody reads any more.
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
            self._is_open = False  # at once: what reads line by line must not have to wait for the next message
            sys.stdout.write("\n")
        sys.stdout.flush()

    def end(self) -> None:
        """End the line: something else is going to be written."""
        if self._is_open:
            self._is_open = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def account(self) -> str:
        """Say how much was left out, as the end of a sentence."""
        return f" ({self.hidden} not shown: --all)" if self.hidden else ""

    def _begin(self, item: frames.Item) -> None:
        agent = self._agent(item.agent or "") if self._names_agents else ""
        place = f"{item.sequence:>6}  {printable(item.type):<9}  "
        self._indent = " " * (self._width + len(place))
        self._style = COLOURS.get(item.type, "")
        line_before = "\n" if self._is_open else ""
        sys.stdout.write(line_before + agent + self._painted(place, self._style))
        self._is_open = True
        self._newlines = ""

    def _agent(self, name: str) -> str:
        """Return what stands before an agent's lines: as wide as the longest name so far."""
        self._width = max(self._width, min(len(name), _MAX_AGENT_WIDTH) + 2)
        colour = _AGENT_COLOURS[zlib.crc32(name.encode()) % len(_AGENT_COLOURS)]
        return self._painted(printable(name).ljust(self._width), colour)

    def _write(self, text: str) -> None:
        text = self._newlines + printable(text)
        shown = text.rstrip("\n")
        self._newlines = text[len(shown) :]
        sys.stdout.write(self._painted(shown.replace("\n", f"\n{self._indent}"), self._style))

    def _painted(self, text: str, style: str) -> str:
        """Return text in a colour, where there are colours. Not by `console.print`: it takes long texts apart."""
        if not style or not text:
            return text
        before, after = _codes(style, self._is_terminal)
        return before + text + after


@cache
def _codes(style: str, is_terminal: bool) -> tuple[str, str]:  # where there is another output, ask anew
    """Return what rich writes before and after a text; nothing where the output has no colours."""
    with console.capture() as capture:
        console.print("x", style=style, markup=False, end="")
    before, _, after = capture.get().partition("x")
    return before, after


def _summary(metadata: Any) -> str:
    """Return the first of the metadata, for a message that has nothing else; marks of how to read it are not shown."""
    if isinstance(metadata, msgspec.Raw):
        metadata = msgspec.json.decode(metadata)
    if not isinstance(metadata, dict):
        return ""
    told = [(name, value) for name, value in metadata.items() if name not in READING_MARKS]
    return f"({', '.join(f'{name}={_short(value)}' for name, value in told[:4])})" if told else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:39] + "…"
