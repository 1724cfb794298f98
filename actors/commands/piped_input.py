"""What is piped into `commitcast run`, on its way to the program's standard input.

Copied by a thread of its own into a pipe of its own: whatever standard input is (a file, a socket, a pipe that other
processes read too) and however long it says nothing, the program's start, its end and a signal never wait for it.
"""

import fcntl
import os
import select
import stat
import sys
import termios
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from commitcast.actors.commands.output import note

PATIENCE_S: Final = 5.0
"""How long a pipe may say nothing at first when the program has a prompt: what CI, ssh or another program leaves open
never says anything, and a program that reads to the end would wait for it for ever. Claude Code waits three seconds."""

_CHUNK_BYTES: Final = 64 * 1024


@contextmanager
def piped_input(wanted: bool | None, *, has_prompt: bool) -> Iterator[int | None]:
    """Give out a descriptor to read from what is piped into this command, or None if nothing is to be passed on.

    Args:
        wanted: True for whatever standard input is, and without a limit of time; False for nothing; None for pipes,
            sockets and files, not for a terminal or a device.
        has_prompt: whether the program knows what to do without it: then a pipe must say something within
            `PATIENCE_S`.
    """
    source = _standard_input(wanted)
    if source is None:
        yield None
        return
    reading, writing = os.pipe()
    patience_s = PATIENCE_S if has_prompt and wanted is None else None
    # A daemon, because nothing ends a read of what says nothing; it closes its own end, and nobody else does.
    threading.Thread(target=copy, args=(source, writing, patience_s), name="piped-input", daemon=True).start()
    try:
        yield reading
    finally:
        os.close(reading)


def copy(source: int, into: int, patience_s: float | None) -> None:
    """Copy everything up to the end of `source`, then close `into`. Blocks as long as either does.

    Args:
        source: a descriptor to read from.
        into: a descriptor to write to; closed in any case.
        patience_s: seconds within which something must come, or the end; None for no limit.
    """
    try:
        if patience_s is None or _is_ready(source, patience_s):
            _copy_all(source, into)
            return
    finally:
        os.close(into)
    note(f"nothing came on standard input for {patience_s:g} s: it is taken to be empty (--stdin waits for it)")
    if _is_ready(source, None) and _unread_bytes(source):
        note("what comes on standard input now is too late, and not passed on (--stdin waits for it)")


def _standard_input(wanted: bool | None) -> int | None:
    if wanted is False or sys.stdin is None:  # closed before the start: its number may be another file's by now
        return None
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if wanted or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode) else None


def _copy_all(source: int, into: int) -> None:
    with suppress(OSError):  # the program does not read any more; or the terminal is gone: that is the end, too
        while chunk := memoryview(os.read(source, _CHUNK_BYTES)):
            while chunk:
                chunk = chunk[os.write(into, chunk) :]


def _is_ready(source: int, timeout_s: float | None) -> bool:
    """Wait for something to read, or for the end; return whether either came in time."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _unread_bytes(source: int) -> int:
    """Return how much there is to read. It is left there: another process may read the same pipe."""
    count = array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, count)
    return count[0]
