"""Paces the fan-out: how often what was committed is released to subscribers. Pure; times are seconds of one clock.

Sending a frame to all its subscribers takes longer the more there are. So after each fan-out the loop rests for `REST`
times as long: sending takes at most a quarter of its time, and what is committed meanwhile travels in one frame. The
first message of an agent that was quiet does not wait for that rest.
"""

from typing import Final

REST: Final = 3.0
"""Times as long as the sending took is left to everything else: a quarter of the whole for the sending."""
QUIET_S: Final = 0.1
"""An agent of which nothing was released for this long is quiet: readers notice no shorter pause in a text."""
MAX_DEBT_S: Final = 0.25
"""When more rest is owed than this, quiet agents wait as well: too many of them write at once."""


class Pacer:
    """The logs with commits that are not released, and the rest that is owed for what was sent."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._released_at: dict[str, float] = {}
        self._free_at = 0.0

    def add(self, log: str, committed_ns: int) -> None:
        """Note a commit to a log that has subscribers.

        Args:
            log: the agent's id, or `frames.ALL`.
            committed_ns: when it was committed, as `Committed` has it.
        """
        self._due.setdefault(log, committed_ns)

    def forget(self, log: str) -> None:
        """Forget a log that has no subscribers any more."""
        self._due.pop(log, None)
        self._released_at.pop(log, None)

    @property
    def has_due(self) -> bool:
        """Whether something was committed that is not released yet."""
        return bool(self._due)

    def release(self, now: float) -> dict[str, int]:
        """Return the logs whose subscribers may be given what was committed, each with the time of its oldest commit.

        All of them once the rest is over; before that the quiet ones, unless too much rest is owed.
        """
        owed_s = self.owed_s(now)
        if owed_s > MAX_DEBT_S:
            return {}
        if owed_s:
            quiet_since = now - QUIET_S
            released = {
                log: at for log, at in self._due.items() if self._released_at.get(log, quiet_since) <= quiet_since
            }
            self._due = {log: at for log, at in self._due.items() if log not in released}
        else:
            released, self._due = self._due, {}
        self._released_at.update(dict.fromkeys(released, now))
        return released

    def owed_s(self, now: float) -> float:
        """Return how much rest is left before everything may be released."""
        return max(0.0, self._free_at - now)

    def spend(self, now: float, took_s: float) -> None:
        """Note that a fan-out took this long and ended now."""
        self._free_at = max(self._free_at, now) + REST * took_s
