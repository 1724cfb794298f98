"""Whether a peer is still there and still reads. Pure.

A connection that is open proves nothing: its peer may have vanished, or may be there and read nothing. So every
heartbeat asks for a sign of life, and while the write buffer is full, its size shows whether anything is read.
"""

from typing import Final

SILENT_BEATS: Final = 2
"""Heartbeats without a sign of life, after which a peer is taken to be gone."""


class LivenessMonitor:
    """Watches one connection."""

    __slots__ = ("_silent_beats", "_since", "_unsent")

    def __init__(self) -> None:
        self._silent_beats = 0
        self._unsent: int | None = None
        self._since = 0.0

    def is_silent(self, was_heard: bool) -> bool:
        """Note whether something was received since the last heartbeat; return whether nothing was for too long."""
        self._silent_beats = 0 if was_heard else self._silent_beats + 1
        return self._silent_beats >= SILENT_BEATS

    def stalled_s(self, unsent_bytes: int | None, now: float) -> float:
        """Note the size of the write buffer, None while it is not full; return for how long nothing of it was read.

        A buffer that grows is not progress.
        """
        if unsent_bytes is None or self._unsent is None or unsent_bytes < self._unsent:
            self._since = now
        self._unsent = unsent_bytes
        return now - self._since
