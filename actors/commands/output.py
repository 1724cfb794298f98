"""What the commands print: for people, or one JSON object a line. Owns standard output and standard error.

Output that is not read (a full pipe, a socket, a stopped terminal) must not keep a command from ending. From then on
output is discarded: `/dev/null` takes the place of the stream. Writes that already block are interrupted by a signal
that has no other meaning; the interpreter then repeats them, into `/dev/null`. So every thread continues, and the stop
stays an ordered one.
"""

import asyncio
import os
import re
import select
import signal
import stat
import sys
import threading
from contextlib import suppress
from typing import Any, Final, TextIO

import msgspec
from rich.console import Console

from commitcast.gateway.hub.encoding import agent_view
from commitcast.gateway.hub.redaction import Redactor
from commitcast.persistence.records import AgentRecord


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command decide what a closed pipe means."""
        raise BrokenPipeError


console: Final = _Console(highlight=False, soft_wrap=True)
notes: Final = _Console(stderr=True, highlight=False, soft_wrap=True)

NUDGE: Final = signal.SIGURG
"""Interrupts a system call of a thread. Ignored where it has no handler, and nothing else sends it here."""

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
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls except tab and newline
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f"  # invisible, for example marks that change the direction of writing
    "\ud800-\udfff]"
)
"""Unicode's categories Cc, Cf and Cs: written out, because looking up each character takes longer than storing it."""


def note(text: str) -> None:
    """Write a line for people to standard error. Errors of writing it are ignored."""
    _note(printable(text), "bright_black")


def fail(text: str) -> None:
    """Write an error to standard error, in one line. Errors of writing it are ignored: the exit code says it too."""
    _note(f"commitcast: {printable(text)}", "red")


def _note(text: str, style: str) -> None:
    try:
        notes.print(text, style=style, markup=False)
    except OSError:  # buffered text would be written again at exit, and change the exit code
        leave(sys.stderr)


def printable(text: str) -> str:
    """Return text that is safe for a terminal: control characters are replaced."""
    return _HARMFUL.sub("�", text)


def leave_output() -> None:
    """Discard standard output from now on: the reader has closed it, and the interpreter would report that at exit."""
    leave(sys.stdout)


def leave(stream: TextIO) -> None:
    """Discard what is written to a stream from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def leave_unread() -> bool:
    """Discard from now on what is written to a stream that cannot be written to now. Any thread; does not block.

    Returns:
        Whether standard output is discarded.
    """
    unread = [stream for stream in (sys.stdout, sys.stderr) if not _is_writable(stream)]
    for stream in unread:
        leave(stream)
    if unread:
        _interrupt_writes()
    return sys.stdout in unread


def _is_writable(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def _interrupt_writes() -> None:
    for thread in threading.enumerate():
        if thread.ident is not None and thread.is_alive():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                signal.pthread_kill(thread.ident, NUDGE)


async def reader_left() -> None:
    """Wait until the reader of standard output closes it. Otherwise that would be noticed at the next write only.

    Raises:
        BrokenPipeError: the other end of the pipe is closed. For a file and a terminal this never happens.
    """
    output, gone = sys.stdout.fileno(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        poll = select.poll()
        poll.register(output, 0)  # errors are always reported
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
    """Print how an agent ended: as data, or as a note that ends with `account` of its messages."""
    if as_json:
        print_json(agent_view(record, Redactor()))
        return
    note_ending(record.id, record.status, record.head, account, record.error_message)


def note_ending(agent: str, status: str, messages: int, account: str, why: str | None) -> None:
    """Write for people how an agent ended, and why."""
    note(f"{agent} {status} after {counted(messages, 'message')}{account}{f': {why}' if why else ''}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is exactly one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
