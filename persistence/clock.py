"""The wall clock as text. Owns the one format in which times are stored and sent; used from any thread."""

import time

_last_second = (0, "")


def now() -> str:
    """Return the current time as RFC 3339 text in UTC with microseconds, e.g. `2026-11-22T10:00:00.123456Z`.

    The part up to the second is kept between calls: formatting it anew costs more than the rest of an append.
    """
    global _last_second
    second, remainder = divmod(time.time_ns(), 1_000_000_000)
    cached, prefix = _last_second
    if cached != second:
        prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _last_second = (second, prefix)  # one assignment of a tuple: threads see the old pair or the new one
    return f"{prefix}{remainder // 1000:06d}Z"
