"""Output that nobody reads: a full pipe, a socket, a stopped terminal. It must not keep a command from ending.

What is written goes to nowhere from then on; and writes that wait already are broken off by a signal without any
other meaning, whereupon the interpreter tries them again, now to nowhere. So all threads go on, and the stop stays an
ordered one.
"""

import select
import signal
import sys
import threading
from contextlib import suppress
from typing import Final, TextIO

from commitcast.actors.commands.output import leave

NUDGE: Final = signal.SIGURG
"""Breaks off a system call of a thread. Ignored where it has no handler, and nothing else sends it here."""


def leave_unread() -> bool:
    """Write to nowhere from now on where nothing can be written now. Any thread; blocks for nothing.

    Returns:
        Whether that is so of standard output.
    """
    unread = [stream for stream in (sys.stdout, sys.stderr) if not _takes_more(stream)]
    for stream in unread:
        leave(stream)
    if unread:
        _nudge_all()
    return sys.stdout in unread


def _takes_more(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def _nudge_all() -> None:
    for thread in threading.enumerate():
        if thread.ident is not None and thread.is_alive():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                signal.pthread_kill(thread.ident, NUDGE)
