"""The recent entries of logs, bounded in bytes, and the pace at which they are released. Pure; of the hub's thread.

A log is one agent's or that of all agents. Live subscribers are given its recent entries without a read from the store.
Frames made of them are kept beside them while they last, so that subscribers at the same cursor share one encoding.
Those may take as many bytes again.

Sending a frame to all its subscribers takes longer the more there are. So after each fan-out the loop rests for `REST`
times as long: sending takes at most a quarter of its time, and what is committed meanwhile travels in one frame. The
first message of an agent that was quiet does not wait for that rest.
"""

from collections import OrderedDict, deque
from typing import Final

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.persistence.records import Committed, Entry, MessageRecord
from commitcast.persistence.store import entry_size

RING_BYTES: Final = 256 * 1024
"""For one agent: more than a socket's buffers, so that only subscribers that fell behind read the store."""
ALL_RINGS_BYTES: Final = 64 * 1024 * 1024
ALL_AGENTS_BYTES: Final = 8 * 1024 * 1024
"""For the log of all agents: about one full batch."""
ENTRY_BYTES: Final = 512
"""Of memory that an entry takes beside its text."""

REST: Final = 3.0
"""Times as long as the sending took is left to everything else: a quarter of the whole for the sending."""
QUIET_S: Final = 0.1
"""An agent of which nothing was released for this long is quiet: readers notice no shorter pause in a text."""
MAX_DEBT_S: Final = 0.25
"""When more rest is owed than this, quiet agents wait as well: too many of them write at once."""

FORMS: Final = 3
"""In which a frame is kept: JSON, a WebSocket frame, and a compressed one that may be as long."""

FrameKey = tuple[int, int, bool, int]
"""Position, cursor, whether raw is included, and credit: subscriptions that have these in common share a frame."""
NextFrame = tuple[PreparedFrame | None, int]
"""A frame, None if the entries need none, and how many entries it covers."""


class Ring:
    """Consecutive entries of one log. Every entry with a position after `start` is inside."""

    def __init__(self, start: int, epoch: str, max_bytes: int) -> None:
        self.start = start
        self.end = start
        """The position of the last entry."""
        self.epoch = epoch
        self.entries: list[Entry] = []
        self.positions: list[int] = []
        """Of the entries."""
        self.frames: dict[FrameKey, NextFrame] = {}
        self.size = 0
        self.last_sequence = 0
        """Of the agent whose entries were appended last."""
        self.frames_size = 0
        self._chunks: deque[tuple[int, int]] = deque()  # of each commit: how many entries, how many bytes
        self._max_bytes = max_bytes

    def extend(self, committed: Committed) -> None:
        """Append what was committed, and drop the oldest beyond the bound."""
        entries, size = committed.entries, committed_size(committed)
        self.entries += entries
        self.end = entries[-1].position
        self.positions += range(entries[0].position, self.end + 1)  # consecutive
        self._chunks.append((len(entries), size))
        self.last_sequence = committed.last
        self.size += size
        if self.frames:
            self.forget_frames()
        if self.size > self._max_bytes:
            self._trim()

    def keep(self, key: FrameKey, frame: NextFrame) -> None:
        """Keep a frame for subscriptions at the same cursor, until something is appended or too many are kept."""
        size = frame_size(frame)
        if self.frames_size + size > self._max_bytes:
            self.forget_frames()
        self.frames[key] = frame
        self.frames_size += size

    def forget_frames(self) -> None:
        """Forget the frames that are kept; they can be made again."""
        self.frames.clear()
        self.frames_size = 0

    def _trim(self) -> None:
        drop = 0
        while self.size > self._max_bytes // 2:
            count, size = self._chunks.popleft()
            drop += count
            self.size -= size
        self.start = self.positions[drop - 1]
        del self.entries[:drop]
        del self.positions[:drop]


def frame_size(frame: NextFrame) -> int:
    """Return the bytes of memory that a frame takes in all forms."""
    prepared, _ = frame
    return ENTRY_BYTES + (0 if prepared is None else FORMS * len(prepared.json))


def committed_size(committed: Committed) -> int:
    """Return the sum over its entries; the store has added the messages up already."""
    size = ENTRY_BYTES * len(committed.entries) + committed.size
    if len(committed.entries) > committed.last - committed.previous:  # other entries beside messages
        size += sum(entry_size(entry) for entry in committed.entries if not isinstance(entry, MessageRecord))
    return size


class Rings:
    """The rings of the agents that somebody subscribes to, bounded together."""

    def __init__(self, ring_bytes: int = RING_BYTES, all_bytes: int = ALL_RINGS_BYTES) -> None:
        self._rings: OrderedDict[str, Ring] = OrderedDict()
        self.get: Final = self._rings.get
        """Return an agent's ring, if it has one."""
        self._ring_bytes = ring_bytes
        self._all_bytes = all_bytes
        self.size = 0
        """Bytes in all of them."""
        self.frames_size = 0
        """Bytes of the frames that are kept beside them."""

    def extend(self, committed: Committed) -> list[tuple[str, int]]:
        """Append to the agent's ring; begin a new one if the entries before are not in it.

        Returns:
            The agents whose rings were dropped for it, each with the position where its ring ended.
        """
        ring = self._rings.get(committed.agent)
        if ring is None or ring.epoch != committed.epoch or ring.end < committed.previous_entry_position:
            self.drop(committed.agent)
            ring = self._rings[committed.agent] = Ring(
                committed.previous_entry_position, committed.epoch, self._ring_bytes
            )
        elif committed.last_position <= ring.end:
            return []  # known already
        self.size -= ring.size
        self.frames_size -= ring.frames_size
        ring.extend(committed)
        self.size += ring.size
        self._rings.move_to_end(committed.agent)
        dropped = []
        while self.size > self._all_bytes and len(self._rings) > 1:
            agent, oldest = self._rings.popitem(last=False)
            self.size -= oldest.size
            self.frames_size -= oldest.frames_size
            dropped.append((agent, oldest.end))
        return dropped

    def drop(self, agent: str) -> None:
        """Forget an agent's ring."""
        ring = self._rings.pop(agent, None)
        if ring is not None:
            self.size -= ring.size
            self.frames_size -= ring.frames_size

    def keep(self, agent: str, key: FrameKey, frame: NextFrame) -> None:
        """Keep a frame beside an agent's ring; forget all frames when those of all rings pass the bound."""
        ring = self._rings[agent]
        self.frames_size -= ring.frames_size
        ring.keep(key, frame)
        self.frames_size += ring.frames_size
        if self.frames_size > self._all_bytes:
            for kept in self._rings.values():
                kept.forget_frames()
            self.frames_size = 0


class AllAgentsLog:
    """The recent entries of all agents. Commits arrive in any order of agents and are released in that of positions."""

    def __init__(self, max_bytes: int = ALL_AGENTS_BYTES) -> None:
        self._max_bytes = max_bytes
        self.ring: Ring | None = None
        self._early: dict[int, Committed] = {}
        self._early_bytes = 0
        self._stuck_at: int | None = None

    @property
    def size(self) -> int:
        """Bytes of what is kept, and of what waits for the commits before it."""
        return self._early_bytes + (0 if self.ring is None else self.ring.size)

    def begin(self, position: int) -> None:
        """Begin to collect after a position that is in the store, unless it has begun."""
        if self.ring is None:
            self.ring = Ring(position, "", self._max_bytes)

    def end(self) -> None:
        """Forget everything, when the last subscription has ended."""
        self.ring = self._stuck_at = None
        self._early.clear()
        self._early_bytes = 0

    def add(self, committed: Committed) -> bool:
        """Take a commit; return whether entries were released."""
        ring = self.ring
        if ring is None or committed.last_position <= ring.end:
            return False
        self._early[committed.previous_position] = committed
        self._early_bytes += committed_size(committed)
        if self._early_bytes > self._max_bytes:
            return self._restart(min(self._early))
        return self._release(ring)

    def reach(self, position: int) -> bool:
        """Begin at a position instead, if nothing was collected yet: the store had nothing beyond it when it was read.

        A subscription that begins in the past is given that past from the store; later commits continue where it ends.
        """
        if self.ring is None or self.ring.entries or self.ring.end >= position:
            return False
        return self._restart(position)

    def skip_gap(self) -> bool:
        """Go on behind a gap that is the same as at the last call; return whether entries may have been released."""
        if self.ring is None or not self._early:
            self._stuck_at = None
            return False
        if self._stuck_at != self.ring.end:
            self._stuck_at = self.ring.end
            return False
        return self._restart(min(self._early))

    def _release(self, ring: Ring) -> bool:
        released = False
        while (committed := self._early.pop(ring.end, None)) is not None:
            self._early_bytes -= committed_size(committed)
            ring.extend(committed)
            released = True
        return released

    def _restart(self, position: int) -> bool:
        self.ring = Ring(position, "", self._max_bytes)
        for previous in [previous for previous in self._early if previous < position]:
            self._early_bytes -= committed_size(self._early.pop(previous))
        self._release(self.ring)
        return True


class Pacer:
    """The logs with commits that are not released, and the rest that is owed for what was sent."""

    def __init__(self) -> None:
        self.due: dict[str, int] = {}
        """Logs with commits that are not released, each with the time of the oldest: by agent, or `frames.ALL`."""
        self._released_at: dict[str, float] = {}
        self._free_at = 0.0

    def forget(self, log: str) -> None:
        """Forget a log that has no subscribers any more."""
        self.due.pop(log, None)
        self._released_at.pop(log, None)

    def release(self, now: float) -> dict[str, int]:
        """Return the logs whose subscribers may be given what was committed, each with the time of its oldest commit.

        All of them once the rest is over; before that the quiet ones, unless too much rest is owed.
        """
        owed_s = self._free_at - now
        if owed_s > MAX_DEBT_S:
            return {}
        if owed_s > 0:
            quiet_since = now - QUIET_S
            released = {
                log: at for log, at in self.due.items() if self._released_at.get(log, quiet_since) <= quiet_since
            }
            self.due = {log: at for log, at in self.due.items() if log not in released}
        else:
            released, self.due = self.due, {}
        self._released_at.update(dict.fromkeys(released, now))
        return released

    def owed_s(self, now: float) -> float:
        """Return how much rest is left before everything may be released."""
        return max(0.0, self._free_at - now)

    def spend(self, now: float, took_s: float) -> None:
        """Note that a fan-out took this long and ended now."""
        self._free_at = max(self._free_at, now) + REST * took_s
