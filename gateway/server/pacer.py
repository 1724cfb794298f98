"""How often what was committed is sent on: so often that sending takes at most a quarter of the loop's time. Pure.

The more subscribers share a frame, the longer it takes to send it to all of them, and the longer it is until the next:
what is said meanwhile travels in one frame. The first message of an agent that was quiet does not wait.
"""

from typing import Final

REST: Final = 3.0
"""Times as long as the sending took is left to everything else: a quarter of the whole for the sending."""
QUIET_S: Final = 0.1
"""An agent that was not heard for this long is quiet: nobody notices less in a text that appears."""
MAX_DEBT_S: Final = 0.25
"""When so much rest is owed, quiet agents wait as well: too many of them speak at once."""


class Pacer:
    """Counts the time that sending took, and the rest that is owed for it. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def owed_s(self, now: float) -> float:
        """Return how much rest is left before more is sent."""
        return max(0.0, self._free_at - now)

    def spend(self, now: float, took_s: float) -> None:
        """Note that sending took so long, until now."""
        self._free_at = max(self._free_at, now) + REST * took_s
