"""The sockets of a server in a child that was forked from its process: found by their own address, and put out.

By their address, because nothing else knows all of them: of a connection in its TLS handshake, one that was accepted a
moment ago or one that is paused, neither the event loop nor the server has a public list. Runs in a child, on the one
thread there is; must not block.
"""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from commitcast.persistence.fork import silence

MOST_DESCRIPTORS: Final = 65_536
"""How many numbers are tried where the list of the open ones cannot be read: no further descriptor may be opened."""
_WILDCARDS: Final = ("0.0.0.0", "::")


def silence_sockets(addresses: Sequence[tuple[str, int]]) -> None:
    """Put /dev/null in the place of the listeners at these addresses and of all their connections.

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
        found = socket.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        name: Any = found.getsockname()
        if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
            return False
        return any(port == name[1] and host in (name[0], *_WILDCARDS) for host, port in addresses)
    except OSError:
        return False
    finally:
        found.detach()
