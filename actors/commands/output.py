"""What the commands print: for people, or one JSON object a line. Owns standard output and standard error."""

import errno
import os
import sys
import unicodedata
from contextlib import suppress
from typing import Any, Final

import msgspec
from rich.console import Console

from commitcast.gateway import frames, views
from commitcast.persistence.records import AgentRecord, MessageRecord


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command what it means that nobody reads any more."""
        raise BrokenPipeError


console: Final = _Console(highlight=False, soft_wrap=True)
notes: Final = _Console(stderr=True, highlight=False, soft_wrap=True)

_COLOURS: Final = {
    "assistant": "default",
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


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data. That the terminal has gone changes nothing."""
    with suppress(OSError):
        notes.print(printable(text), style="bright_black", markup=False)


def fail(text: str) -> None:
    """Say in one line what went wrong. The exit code says it too where that cannot be written."""
    with suppress(OSError):
        notes.print(f"commitcast: {printable(text)}", style="red", markup=False)


def printable(text: str) -> str:
    """Return text that cannot do anything to a terminal: control characters are shown, not sent."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs") else "�"
        for character in text
    )


def has_left(error: OSError) -> bool:
    """Tell whether writing failed because the reader of our output has left: closed its pipe, or the terminal."""
    return error.errno == errno.EIO or isinstance(error, BrokenPipeError)


def leave_output() -> None:
    """Write to nowhere from now on: whoever read our output has left, and would only be complained of at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own, and flush it."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_message(record: MessageRecord, *, as_json: bool) -> None:
    """Print a message that is durable."""
    print_item(views.item(record, raw=True, with_agent=True), as_json=as_json)


def print_item(item: frames.Item, *, as_json: bool) -> None:
    """Print a message as a subscriber has it."""
    if as_json:
        print_json(item)
        return
    metadata = item.metadata
    if isinstance(metadata, msgspec.Raw):
        metadata = msgspec.json.decode(metadata)
    content = item.content or _summary(metadata)
    lines = printable(content).split("\n")
    text = ("\n" + " " * 19).join(lines)
    console.print(f"{item.sequence:>6}  {item.type:<9}  {text}", style=_COLOURS.get(item.type, ""), markup=False)


def _summary(metadata: Any) -> str:
    if not isinstance(metadata, dict) or not metadata:
        return ""
    shown = ", ".join(f"{name}={_short(value)}" for name, value in list(metadata.items())[:4])
    return f"({shown})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:39] + "…"


def print_agent(record: AgentRecord, *, as_json: bool) -> None:
    """Print an agent."""
    if as_json:
        print_json(views.agent_view(record))
        return
    when = (record.completed_at or record.started_at or record.created_at)[:19].replace("T", " ")
    why = f"  {record.error_name}: {record.error_message}" if record.error_name else ""
    line = printable(f"{record.id:<38} {record.status:<12} {record.head:>8} {record.type:<12} {when}{why}")
    console.print(line.split("\n")[0], style=_COLOURS.get(record.status, ""), markup=False)


def print_ending(record: AgentRecord, *, as_json: bool) -> None:
    """Print how an agent ended: data with --json, else a note."""
    if as_json:
        print_json(views.agent_view(record))
        return
    why = f": {record.error_message}" if record.error_message else ""
    note(f"{record.id} {record.status} after {record.head} messages{why}")
