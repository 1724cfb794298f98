"""What the commands print: for people, or one JSON object a line. Owns standard output and standard error."""

import asyncio
import os
import re
import select
import stat
import sys
from typing import Any, Final, TextIO

import msgspec
from rich.console import Console

from commitcast.gateway.hub.encoding import agent_view
from commitcast.gateway.hub.redaction import Redactor
from commitcast.persistence.records import AgentRecord


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command what it means that nobody reads any more."""
        raise BrokenPipeError


console: Final = _Console(highlight=False, soft_wrap=True)
notes: Final = _Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS: Final = {
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

_HARMFUL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f"  # what is not seen, but turns the direction of writing, say
    "\ud800-\udfff]"
)
"""Unicode's categories Cc, Cf and Cs: written out, because looking each character up takes longer than storing it."""


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data. That the terminal has gone changes nothing."""
    _note(printable(text), "bright_black")


def fail(text: str) -> None:
    """Say in one line what went wrong. The exit code says it too where that cannot be written."""
    _note(f"commitcast: {printable(text)}", "red")


def _note(text: str, style: str) -> None:
    try:
        notes.print(text, style=style, markup=False)
    except OSError:  # what is still held would be tried again at exit, and change the exit code
        leave(sys.stderr)


def printable(text: str) -> str:
    """Return text that cannot do anything to a terminal: control characters are shown, not sent."""
    return _HARMFUL.sub("�", text)


def leave_output() -> None:
    """Write to nowhere from now on: whoever read our output has left, and would only be complained of at exit."""
    leave(sys.stdout)


def leave(stream: TextIO) -> None:
    """Write what is said on a stream to nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


async def reader_left() -> None:
    """Wait for as long as somebody may read our output; without it that is noticed when something is written.

    Raises:
        BrokenPipeError: the other end of the pipe is closed. Of a file and a terminal nothing is ever heard.
    """
    output, gone = sys.stdout.fileno(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        poll = select.poll()
        poll.register(output, 0)  # errors are told unasked
        if poll.poll(0):
            gone.set()
        loop.remove_reader(output)

    mode = os.fstat(output).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop.add_reader(output, look)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(output)
    raise BrokenPipeError


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own, and flush it."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_agent(record: AgentRecord, *, as_json: bool) -> None:
    """Print an agent."""
    if as_json:
        print_json(agent_view(record, Redactor()))
        return
    when = (record.completed_at or record.started_at or record.created_at)[:19].replace("T", " ")
    why = f"  {record.error_name}: {record.error_message}" if record.error_name else ""
    line = printable(f"{record.id:<38} {record.status:<12} {record.head:>8} {record.type:<12} {when}{why}")
    console.print(line.split("\n")[0], style=COLOURS.get(record.status, ""), markup=False)


def print_ending(record: AgentRecord, *, as_json: bool, account: str = "") -> None:
    """Print how an agent ended: data with --json, else a note, with what is to be said of its messages."""
    if as_json:
        print_json(agent_view(record, Redactor()))
        return
    note_ending(record.id, record.status, record.head, account, record.error_message)


def note_ending(agent: str, status: str, messages: int, account: str, why: str | None) -> None:
    """Tell the person at the terminal how an agent ended, and why."""
    note(f"{agent} {status} after {messages} messages{account}{f': {why}' if why else ''}")
