"""How the time of a call grows with its input: told by ratios, so that it says the same on a slow machine."""

import time
from collections.abc import Callable
from typing import Final

_FACTOR: Final = 8
_ROUNDS: Final = 5
_SHORTEST_S: Final = 0.0005
"""Below this, clocks and caches are measured."""


def is_linear(call: Callable[[str], object], unit: str, count: int) -> bool:
    """Return whether a text of `count` units takes the call at most three times its share of an eighth of it.

    Processor time of this thread; quadratic growth would take eight times the share, in each of some rounds.
    """
    large, small = unit * count, unit * (count // _FACTOR)
    return any(
        _measure_s(call, large) < 3 * _FACTOR * max(_measure_s(call, small), _SHORTEST_S) for _ in range(_ROUNDS)
    )


def _measure_s(call: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    call(text)
    return time.thread_time() - began
