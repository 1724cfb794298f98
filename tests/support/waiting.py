"""Waiting for something without a sleep of a guessed length."""

import os
import time
from collections.abc import Callable
from typing import Any, Final

SLOWNESS: Final = float(os.environ.get("COMMITCAST_SLOWNESS", "1"))
"""Multiplies every timeout of the tests, for slow machines."""
TIMEOUT_S: Final = 10.0 * SLOWNESS


def wait_until(
    predicate: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S, show: Callable[[], Any] = lambda: ""
) -> Any:
    """Return the first true value of `predicate`; fail with what was there instead."""
    deadline = time.monotonic() + timeout_s
    pause = 0.001
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}: {show()}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return value
