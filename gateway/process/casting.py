"""What is committed and not cast yet, kept until its host has acknowledged it to the agent, or is late with it.

Owns the proof of each commit on its way from the writer to the gateways: the hub accepts nothing else. Must never keep
a subscriber waiting for a host that is stopped or gone: what is not cast in time is cast here. Any thread.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from commitcast.persistence.records import Committed

PATIENCE_S: Final = 0.1
"""How long a host may take to cast what is committed. It takes a millisecond, unless it is stopped or very busy."""
KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of what is kept for all hosts; beyond it the oldest is cast. As in the inbox of a gateway."""
ENTRY_BYTES: Final = 512
"""Of memory that an entry takes beside its text."""

Publish = Callable[[Sequence[Committed]], object]
"""Takes what is to be cast, in order. Returns at once; must not call back."""


class Casting:
    """What is to be cast, by host."""

    def __init__(self, publish: Publish, clock: Callable[[], float] = time.monotonic) -> None:
        """Make it with what casts to all subscribers."""
        self._publish = publish
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Any, OrderedDict[int, tuple[Committed, float]]] = {}
        self._bytes = 0
        self._is_looked_at = False
        """Whether `cast_late` is going to be called."""
        self.is_on = False
        """Whether there are subscribers; else nothing is kept, and a later one finds it in the store."""

    def keep(self, host: Any, committed: Iterable[Committed]) -> bool:
        """Keep what was committed for a host, before the host is told of it.

        Returns:
            Whether the caller is to have `cast_late` called soon: nobody else does.
        """
        if not self.is_on:
            return False
        now = self._clock()
        with self._lock:  # also while it is cast: an agent's commits are to be cast in order
            kept = self._kept.setdefault(host, OrderedDict())
            for one in committed:
                kept[one.last_position] = one, now
                self._bytes += _size(one)
            if self._bytes > KEPT_BYTES:
                self._publish(self._take_oldest())
            begins = not self._is_looked_at
            self._is_looked_at = True
        return begins

    def cast(self, host: Any, positions: Iterable[int]) -> None:
        """Cast what a host has acknowledged to its agents."""
        due = []
        with self._lock:
            kept = self._kept.get(host)
            if kept is None:
                return
            for position in positions:
                if (found := kept.pop(position, None)) is not None:  # else it was late, and is cast already
                    due.append(found[0])
                    self._bytes -= _size(found[0])
            if due:
                self._publish(due)

    def cast_late(self) -> float | None:
        """Cast what was not cast in time; return in how many seconds to call this again, None if nothing is kept.

        After None, the next `keep` says when to call it.
        """
        now = self._clock()
        late = []
        oldest = None
        with self._lock:
            for kept in self._kept.values():
                while kept:
                    committed, since = next(iter(kept.values()))
                    if now - since < PATIENCE_S:
                        oldest = since if oldest is None else min(oldest, since)
                        break
                    kept.popitem(last=False)
                    late.append(committed)
                    self._bytes -= _size(committed)
            if late:
                self._publish(sorted(late, key=_position))
            self._is_looked_at = oldest is not None
        return None if oldest is None else max(0.0, oldest + PATIENCE_S - now)

    def cast_all(self, host: Any) -> None:
        """Cast all that is kept for a host, which is gone."""
        with self._lock:
            kept = self._kept.pop(host, None) or OrderedDict()
            due = [committed for committed, _ in kept.values()]
            self._bytes -= sum(map(_size, due))
            if due:
                self._publish(due)

    def _take_oldest(self) -> list[Committed]:
        late = []
        while self._bytes > KEPT_BYTES:
            kept = min((kept for kept in self._kept.values() if kept), key=lambda kept: next(iter(kept.values()))[1])
            committed, _ = kept.popitem(last=False)[1]
            late.append(committed)
            self._bytes -= _size(committed)
        return late


def _size(committed: Committed) -> int:
    return committed.size + ENTRY_BYTES * len(committed.entries)


def _position(committed: Committed) -> int:
    return committed.last_position
