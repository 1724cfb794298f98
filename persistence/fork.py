"""Open files, listeners and runtimes in a forked process.

A fork copies memory, descriptors and locks, but of the threads only the one that forks. The child's copies keep a
lock and a port from being free, and an SQLite connection that is closed there rolls back the parent's transaction and
deletes its journal. So:

* Before a fork SQLite is brought to rest, for a moment. If another thread were inside of SQLite, the child would wait
  for its mutexes for ever, and take the parent's file locks for its own.
* In the child every registered object releases what it shares with the parent and refuses to be used.
* What it held is neither closed nor finalized there.

In a child nothing here may block, take a lock that another thread may have held, or raise.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, Never, Protocol, runtime_checkable
from weakref import WeakSet

import msgspec

from commitcast.persistence.errors import ForkedRuntimeError

REST_TIMEOUT_S: Final = 1.0
"""How long a fork waits for commits and page reads under way; they take milliseconds unless the disk stalls."""


class Inherited(Protocol):
    """An object with open files or locks, of which a forked child gets a copy."""

    def _drop_in_child(self) -> None:
        """Release what is shared with the parent, and refuse to be used. In a child, before anything else runs."""


@runtime_checkable
class Busy(Protocol):
    """An object that uses SQLite on other threads."""

    def _at_rest(self, timeout: float) -> AbstractContextManager[bool]:
        """Keep it out of SQLite while the process is forked; gives whether it was out in time."""


class _Gone:
    """Raises `ForkedRuntimeError` however it is used."""

    def __getattr__(self, name: str) -> Never:
        raise ForkedRuntimeError

    def __enter__(self) -> Never:
        raise ForkedRuntimeError

    def __exit__(self, *_: object) -> None:
        """Never reached."""


GONE: Final[Any] = _Gone()
"""Stands in a child where the parent has a lock, a table, or a whole part of a runtime."""


class _Kept(msgspec.Struct, gc=False):
    """Refers to itself, unseen by the garbage collector, so that what it holds outlives even the interpreter."""

    what: object
    itself: object = None


_inherited: Final[WeakSet[Inherited]] = WeakSet()
_busy: Final[WeakSet[Busy]] = WeakSet()
_forking: Final = threading.local()
_users: Final[list[object]] = []
_entering = threading.Lock()
_generation = 0
_was_caught_busy = False


def register(owner: Inherited) -> None:
    """Have `_drop_in_child` called in every child that is forked from now on. Any thread."""
    _inherited.add(owner)
    if isinstance(owner, Busy):
        _busy.add(owner)


def forget(owner: Inherited) -> None:
    """Undo `register` when the object is closed. Idempotent. Any thread."""
    _inherited.discard(owner)
    if isinstance(owner, Busy):
        _busy.discard(owner)


@contextmanager
def using() -> Iterator[None]:
    """Mark a long use of SQLite that cannot rest: a child that is forked meanwhile cannot use SQLite. Any thread."""
    user = object()
    with _entering:
        _users.append(user)
    try:
        yield
    finally:
        _users.remove(user)


def generation() -> int:
    """Return the number of forks between the first process and this one, to detect objects from before the last."""
    return _generation


def check_usable() -> None:
    """Check that SQLite can be used in this process.

    Raises:
        ForkedRuntimeError: it was forked while another thread was inside of SQLite.
    """
    if _was_caught_busy:
        raise ForkedRuntimeError


def silence(descriptors: Iterable[int]) -> None:
    """Replace descriptors by /dev/null, in a child.

    They are not only closed: the objects that hold them would later close, write to or shut down another file with
    the same number. Each is closed first, so that this also works when no further descriptor may be opened.
    """
    for descriptor in descriptors:
        os.close(descriptor)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if null != descriptor:
            os.dup2(null, descriptor, inheritable=False)
            os.close(null)


def _before() -> None:
    _forking.is_at_rest, _forking.held = False, ExitStack()
    deadline = time.monotonic() + REST_TIMEOUT_S
    in_order = sorted(list(_busy), key=id)  # as a thread that forks at the same time
    rests = [_forking.held.enter_context(owner._at_rest(max(0.0, deadline - time.monotonic()))) for owner in in_order]
    _forking.held.enter_context(_entering)
    _forking.is_at_rest = all(rests) and not _users


def _in_parent() -> None:
    _forking.held.close()


def _in_child() -> None:
    global _generation, _was_caught_busy, _entering
    _generation += 1
    _was_caught_busy = _was_caught_busy or not _forking.is_at_rest
    _keep(_forking.held)  # to leave it would take locks
    _entering = threading.Lock()
    _users.clear()
    owners = list(_inherited)
    _inherited.clear()
    _busy.clear()
    errors = []
    for owner in owners:
        _keep(dict(vars(owner)))
        try:
            owner._drop_in_child()
        except Exception as error:  # a defect of ours: the others must still be dropped
            errors.append(error)
    if errors:
        raise ExceptionGroup("a forked child still shares files with its parent", errors)  # printed; the child goes on


def _keep(what: object) -> None:
    """Keep everything that this object holds from being closed or finalized while the process lives."""
    kept = _Kept(what)
    kept.itself = kept


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
