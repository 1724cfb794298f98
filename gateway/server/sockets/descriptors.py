"""How many descriptors this process may have open, and which of them are not for connections.

A connection is a descriptor, and so is the journal that each commit needs: strangers that take the last one make agents
fail. So connections leave a reserve. It is kept by number, not by a count: the kernel gives the lowest free number to
what is opened (POSIX, "File Descriptor Allocation"), so a socket whose number lies in the reserve shows that everything
below is in use, by connections, agents, or the host. Only our commands raise the limit: a host's process is its own,
and the programs that agents run get the limit that the command was started with. Any thread.
"""

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

RESERVE: Final = 64
"""For the database, its journal, folder and readers (12), the event loops and listeners (12), standard streams, and the
pipes of ten programs that agents run, four each while they start."""
RESERVE_SHARE: Final = 4
"""With a higher limit a quarter of it: such a process runs more agents, or has a host with files and sockets too."""
SPARE_SHARE: Final = 8
"""Of what connections may have, an eighth is not for WebSockets: for `/readyz` and a refusal that says why."""

_lowering: Final = threading.Lock()
_given: list[int] = []
"""The soft limit that this process was started with, once it has raised it."""


def soft_limit() -> int:
    """Return how many descriptors this process may have open now."""
    limit: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def room(limit: int) -> int:
    """Return the number that the descriptor of a connection must be below.

    Args:
        limit: of descriptors, at least 1; half of a very low one is left to connections all the same.
    """
    return limit - min(max(RESERVE, limit // RESERVE_SHARE), limit // 2)


def room_for_websockets(limit: int) -> int:
    """Return the number that the descriptor of a WebSocket must be below."""
    return room(limit) - room(limit) // SPARE_SHARE


def is_for_connections(number: int) -> bool:
    """Whether a descriptor, just opened, leaves the reserve alone."""
    return number < room(soft_limit())


def is_for_websockets(number: int | None) -> bool:
    """Whether a connection may become a WebSocket.

    Args:
        number: of its descriptor: of those that come at once the first ones are served, where the number that is free
            by then would refuse all of them. None if another server has it; then the number that is free is compared.
    """
    return (_lowest_free() if number is None else number) < room_for_websockets(soft_limit())


def _lowest_free() -> int:
    """Return the number that what is opened next would get."""
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not one is free
        return soft_limit()
    os.close(number)
    return number


def raise_soft_limit() -> None:
    """Raise the soft limit to the hard one, which needs no right. A system that does not let it be is left as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has no hard limit, and yet takes no more than a number of its own
        return
    if soft != hard and not _given:
        _given.append(soft)


@contextmanager
def given_limit() -> Iterator[bool]:
    """Have a program that is started inside get the soft limit that this process was given; tell whether it does.

    Programs that use `select`, or close every descriptor there may be, suffer from a high one. A child has what its
    parent has while it is started, and code that runs in the child first is not safe beside threads. So this process
    lowers its own for that moment, unless it has so much open that something else could need the raised one.
    """
    if not _given:
        yield True
        return
    with _lowering:
        is_enough = _lowest_free() < room_for_websockets(_given[0]) and soft_limit() >= _given[0]
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        if is_enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_given[0], raised[1]))
        try:
            yield is_enough
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, raised)


def give_limit(pid: int) -> None:
    """Give a program that runs already the soft limit that this process was given, where the system can do that."""
    if hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):  # it has exited, runs as another user, or may have no more than less
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (_given[0], hard))
