"""The time limit of a read: for its turn behind a commit, and for another program that holds the database.

There is none unless the caller sets one with `read_within`. It holds for the reads of that thread or task, and of a
thread that `asyncio.to_thread` starts for it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from commitcast.persistence.errors import StoreReadTimeoutError

_deadline: Final[ContextVar[float | None]] = ContextVar("commitcast read deadline", default=None)


@contextmanager
def read_within(timeout: float | None) -> Iterator[None]:
    """Let reads inside raise `StoreReadTimeoutError` once they have waited for `timeout` seconds; None: no limit."""
    token = _deadline.set(None if timeout is None else time.monotonic() + timeout)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s() -> float | None:
    """Return the seconds for which a read may still wait; None if there is no limit.

    Raises:
        StoreReadTimeoutError: there are none left.
    """
    deadline = _deadline.get()
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise StoreReadTimeoutError
    return remaining
