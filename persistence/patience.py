"""How long a read may wait: for its turn behind a commit, and for another program that holds the file.

A read waits as long as it must unless its caller has said otherwise with `read_within`, which holds for the reads of
that thread or task, and of a thread that `asyncio.to_thread` starts for it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from commitcast.persistence.errors import StoreReadTimeoutError

_deadline: Final[ContextVar[float | None]] = ContextVar("commitcast read deadline", default=None)


@contextmanager
def read_within(timeout_s: float | None) -> Iterator[None]:
    """Let reads inside raise `StoreReadTimeoutError` when they have waited for `timeout_s` seconds; None: never."""
    token = _deadline.set(None if timeout_s is None else time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _deadline.reset(token)


def left_s() -> float | None:
    """Return the seconds that a read may still wait; None if there is no limit.

    Raises:
        StoreReadTimeoutError: there are none left.
    """
    deadline = _deadline.get()
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise StoreReadTimeoutError
    return left
