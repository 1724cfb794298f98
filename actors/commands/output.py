"""What the commands print: for people, or one JSON object a line. Owns standard output and standard error.

Output that is not read (a full pipe, a socket, a stopped terminal) must not keep a command from ending. From then on
output is discarded: `/dev/null` takes the place of the stream. Writes that already block are interrupted by a signal
that has no other meaning; the interpreter then repeats them, into `/dev/null`. So every thread continues, and the stop
stays an ordered one.
"""

import os
import re
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, Final, TextIO

import msgspec

NUDGE: Final = signal.SIGURG
"""Interrupts a system call of a thread. Ignored where it has no handler, and nothing else sends it here."""

_CODES: Final = {
    "bold": 1,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "blue": 34,
    "magenta": 35,
    "cyan": 36,
    "bright_black": 90,
}
"""ECMA-48, 8.3.117: the parameters that select a style. Written here, because a library for them takes a fifth of the
time of a short command to load."""

_HARMFUL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls except tab and newline
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f"  # invisible, for example marks that change the direction of writing
    "\ud800-\udfff]"
)
"""Unicode's categories Cc, Cf and Cs: written out, because looking up each character takes longer than storing it."""


def say(text: str, style: str = "") -> None:
    """Print a line in a style, and flush it; control characters are replaced.

    Raises:
        BrokenPipeError: the reader has closed the output.
    """
    _write(sys.stdout, text, style)


def note(text: str) -> None:
    """Write a line for people to standard error. Errors of writing it are ignored."""
    _note(text, "bright_black")


def fail(text: str) -> None:
    """Write an error to standard error, in one line. Errors of writing it are ignored: the exit code says it too."""
    _note(f"commitcast: {text}", "red")


def _note(text: str, style: str) -> None:
    try:
        _write(sys.stderr, text, style)
    except OSError:  # buffered text would be written again at exit, and change the exit code
        leave(sys.stderr)


def _write(stream: TextIO, text: str, style: str) -> None:
    text = printable(text)
    stream.write((painted(text, style) if shows_colours(stream) else text) + "\n")
    stream.flush()


def painted(text: str, style: str) -> str:
    """Return text with the codes for a style around it, if there is anything to style."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text


def shows_colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with colours, or the environment says so (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def printable(text: str) -> str:
    """Return text that is safe for a terminal: control characters are replaced."""
    return _HARMFUL.sub("�", text)


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


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own, and flush it."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def note_ending(agent: str, status: str, messages: int, account: str, why: str | None) -> None:
    """Write for people how an agent ended, and why."""
    note(f"{agent} {status} after {counted(messages, 'message')}{account}{f': {why}' if why else ''}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is exactly one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
