"""File descriptors: the reserve that connections leave, the limit of this process, and sockets in a forked child.

A connection is a descriptor, and so is the journal that each commit needs: clients that take the last one make agents
fail. So connections leave a reserve. It is kept by number, not by a count: the kernel gives the lowest free number to
a new descriptor (POSIX, "File Descriptor Allocation"), so a socket whose number lies in the reserve shows that all
below are in use, by connections, agents, or the host. Any thread.

In a child that was forked from the server's process its sockets are found by their own address, because neither the
event loop nor the server has a public list of all: some are in a TLS handshake, just accepted, or paused.
"""

import os
import resource
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from commitcast.persistence.fork import silence

RESERVE: Final = 64
"""For the database, its journal, folder and readers (12; 14 in WAL mode), the event loops and listeners (12), standard
streams, and the pipes of ten programs that agents run, four each while they start."""
RESERVE_SHARE: Final = 4
"""With a higher limit a quarter of it: such a process runs more agents, or has a host with files and sockets too."""
SPARE_SHARE: Final = 8
"""An eighth of the connections' descriptors is not for WebSockets, but for `/readyz` and for refusals with a reason."""
MOST_DESCRIPTORS: Final = 65_536
"""Descriptors that are tried where the list of the open ones cannot be read."""

_WILDCARDS: Final = ("0.0.0.0", "::")


def soft_limit() -> int:
    """Return how many descriptors this process may have open now."""
    limit: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def room(limit: int) -> int:
    """Return the number that the descriptor of a connection must be below.

    Args:
        limit: of descriptors, at least 1; connections get half of a very low one.
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
        number: of its descriptor, so that of many simultaneous connections the first are served; the lowest free
            number would refuse all of them. None if another server has it: then the lowest free number is compared.
    """
    return (_lowest_free() if number is None else number) < room_for_websockets(soft_limit())


def _lowest_free() -> int:
    """Return the number that the next descriptor would get."""
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none is free
        return soft_limit()
    os.close(number)
    return number


# In a forked child.


def silence_sockets(addresses: Sequence[tuple[str, int]]) -> None:
    """Replace the listeners at these addresses and all their connections with /dev/null.

    Runs in a forked child, on its only thread; does not block.

    Args:
        addresses: host and port of each listener, as the system gives them.
    """
    silence([descriptor for descriptor in _sockets() if _is_at(descriptor, addresses)])


def _sockets() -> Iterator[int]:
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(MOST_DESCRIPTORS))
    for number in numbers:
        with suppress(OSError):  # that of the list itself, which is closed by now
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield number


def _is_at(descriptor: int, addresses: Sequence[tuple[str, int]]) -> bool:
    try:
        candidate = socket.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        name: Any = candidate.getsockname()
        if candidate.family not in (socket.AF_INET, socket.AF_INET6) or candidate.type != socket.SOCK_STREAM:
            return False
        return any(port == name[1] and host in (name[0], *_WILDCARDS) for host, port in addresses)
    except OSError:
        return False
    finally:
        candidate.detach()
