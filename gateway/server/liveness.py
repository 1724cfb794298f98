"""Whether a peer is still there, judged by what its connection shows. Pure.

A kept-open socket proves nothing: a peer may be gone without a word, or there and reading nothing. So it is asked at
every heartbeat, and while its socket is full, it is watched whether it takes anything at all.
"""

from typing import Final

SILENT_BEATS: Final = 2
"""Heartbeats without a sign of life, after which a peer is taken to be gone."""


class Pulse:
    """Of one connection."""

    __slots__ = ("_silent_beats", "_since", "_unsent")

    def __init__(self) -> None:
        self._silent_beats = 0
        self._unsent: int | None = None
        self._since = 0.0

    def is_silent(self, was_heard: bool) -> bool:
        """Note whether something came since the last heartbeat; return whether nothing came for too long."""
        self._silent_beats = 0 if was_heard else self._silent_beats + 1
        return self._silent_beats >= SILENT_BEATS

    def stalled_s(self, unsent_bytes: int | None, now: float) -> float:
        """Note what waits for the socket, None while it takes more; return for how long none of it was taken.

        That more waits than before is no progress.
        """
        if unsent_bytes is None or self._unsent is None or unsent_bytes < self._unsent:
            self._since = now
        self._unsent = unsent_bytes
        return now - self._since
