"""The standard input of `commitcast run`, copied to the program's standard input.

A thread of its own copies it into a pipe of its own. Standard input may be a file, a socket or a pipe that other
processes read too, and may be silent for long: the program's start, its end and signals never wait for it.
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
"""How long to wait for the first byte of a pipe if the program has a prompt. CI, ssh and others leave pipes open that
stay silent, and a program that reads to the end would wait for ever. Claude Code waits three seconds."""

_CHUNK_BYTES: Final = 64 * 1024


@contextmanager
def piped_input(wanted: bool | None, *, has_prompt: bool) -> Iterator[int | None]:
    """Yield a descriptor with the standard input of this command, or None if nothing is passed on.

    Args:
        wanted: True for any kind of standard input, without a time limit; False for none; None for pipes, sockets
            and files, not for a terminal or a device.
        has_prompt: whether the program has a task without it; then the first byte must arrive within `PATIENCE_S`.
    """
    source = _standard_input(wanted)
    if source is None:
        yield None
        return
    reading, writing = os.pipe()
    patience_s = PATIENCE_S if has_prompt and wanted is None else None
    # A daemon, because a read of a silent pipe never ends. The thread alone closes its end.
    threading.Thread(target=copy, args=(source, writing, patience_s), name="piped-input", daemon=True).start()
    try:
        yield reading
    finally:
        os.close(reading)


def copy(source: int, into: int, patience_s: float | None) -> None:
    """Copy everything up to the end of `source`, then close `into`. Blocks as long as either does.

    Args:
        source: a descriptor to read from.
        into: a descriptor to write to; always closed at the end.
        patience_s: seconds within which the first byte or the end must arrive; None for no limit.
    """
    try:
        if patience_s is None or _is_ready(source, patience_s):
            _copy_all(source, into)
            return
    finally:
        os.close(into)
    note(f"standard input was silent for {patience_s:g} s and is treated as empty (--stdin waits for it)")
    if _is_ready(source, None) and _unread_bytes(source):
        note("data on standard input arrived too late and is not passed on (--stdin waits for it)")


def _standard_input(wanted: bool | None) -> int | None:
    if wanted is False or sys.stdin is None:  # closed before the start: its number may belong to another file by now
        return None
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if wanted or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode) else None


def _copy_all(source: int, into: int) -> None:
    with suppress(OSError):  # the program has closed its input, or the terminal is gone: both end the copy
        while chunk := memoryview(os.read(source, _CHUNK_BYTES)):
            while chunk:
                chunk = chunk[os.write(into, chunk) :]


def _is_ready(source: int, timeout_s: float | None) -> bool:
    """Wait for data or the end; return whether either arrived in time."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _unread_bytes(source: int) -> int:
    """Return the number of bytes to read. They are not read: another process may read the same pipe."""
    count = array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, count)
    return count[0]
