"""The limit of open files: raised for this process by our commands, and as it was for the programs that agents run.

A host's process is its own, so only the commands raise it. Any thread.
"""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

MARGIN_SHARE: Final = 3
"""A third of the original limit must be free while this process has it: other threads open files at that moment."""

_lowering: Final = threading.Lock()
_given: list[int] = []
"""The soft limit that this process was started with, after it was raised."""


def raise_soft_limit() -> None:
    """Raise the soft limit to the hard one, which needs no privilege. Does nothing where the system refuses it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports no hard limit, but has one
        return
    if soft != hard and not _given:
        _given.append(soft)


@contextmanager
def given_limit() -> Iterator[bool]:
    """Give a program that is started inside the soft limit that this process was given; yields whether it gets it.

    Programs that use `select`, or close every possible descriptor, suffer from a high limit. A child inherits its
    parent's limit, and code that runs in the child first is not safe beside threads. So this process lowers its own
    limit for that moment, unless it has so many descriptors open that another thread could need the raised one.
    """
    if not _given:
        yield True
        return
    with _lowering:
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_enough = _has_room(_given[0]) and _is_at_least(raised[0], _given[0])
        if is_enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_given[0], raised[1]))
        try:
            yield is_enough
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, raised)


def give_limit(pid: int) -> None:
    """Give a running program the soft limit that this process was given, where the system can do that."""
    if hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):  # it has exited, runs as another user, or has a lower hard limit
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (_given[0], hard))


def _has_room(limit: int) -> bool:
    """Whether the next descriptor, which gets the lowest free number, leaves the margin below a limit."""
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none is free
        return False
    os.close(number)
    return number < limit - limit // MARGIN_SHARE


def _is_at_least(limit: int, other: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= other
