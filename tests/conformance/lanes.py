"""The frames of a server on one connection, sorted into lanes as they arrive, and checked by the client's rule. Pure.

Replies may come in any order, and subscriptions do not wait for each other. So a case does not specify the order of all
frames, only the order within each lane: the replies to one request, the stream of one
subscription, the heartbeats, and everything else.
"""

from collections import deque
from typing import Any, Final

from cases import Fields
from matching import Mismatch, is_time, shown

ALL: Final = "*"
_REPLIES: Final = frozenset({"ok", "error", "subscribed"})
_OF_STREAM: Final = frozenset({"messages", "gap", "live", "status", "agent"})
_STEPS: Final = frozenset({"status", "agent"})
"""Frames that move the cursor of a subscription to all agents, and no other's."""


class Stream:
    """One subscription: its cursor, and the entries that have arrived and were not expected yet."""

    def __init__(self, subscribed: Fields) -> None:
        self.agent: str = subscribed["agent"]
        self.epoch: str = subscribed["epoch"]
        self.began: int = subscribed["after"]
        self.cursor = self.began
        self.heard: list[Fields] = []
        """All that came: entries, as docs/conformance.md calls them."""
        self.entries: deque[Fields] = deque()
        self.is_live = False
        self._head: int = subscribed["head"]
        """What was stored when it began: it is not live before that."""

    @property
    def items(self) -> int:
        """How many messages came."""
        return sum("item" in entry for entry in self.heard)

    def take(self, frame: Fields) -> None:
        """Apply the client's rule."""
        kind = frame["type"]
        if kind == "messages":
            self._on_messages(frame)
        else:
            self._put({kind: frame})
        if kind == "gap" or (kind in _STEPS and self.agent == ALL):
            self._move(frame)
        elif kind in ("live", "status"):
            _judge(frame["sequence"] == self.cursor, f"it came at the cursor {self.cursor}", frame)
        if kind == "status":
            _judge(self.agent == ALL or not frame.keys() & {"prev", "last"}, "positions are only for all agents", frame)
            _judge(is_time(frame["at"]), "times are in UTC, with microseconds", frame)
        if kind == "live":
            _judge(not self.is_live, "a subscription is live once", frame)
            _judge(self.cursor >= self._head, "it is live when it has caught up", frame)
            self.is_live = True

    def _put(self, *entries: Fields) -> None:
        self.heard += entries
        self.entries += entries

    def _on_messages(self, frame: Fields) -> None:
        before, items = self.cursor, frame["items"]
        self._move(frame)
        self._put(*({"item": item} for item in items))
        _judge(all(is_time(item["created_at"]) for item in items), "times are in UTC, with microseconds", frame)
        if self.agent == ALL:
            positions = [item["position"] for item in items]
            is_rising = positions == sorted(set(positions))
            _judge(is_rising and all(before < each <= self.cursor for each in positions), "positions must rise", frame)
            _judge(all("agent" in item for item in items), "an item says of which agent it is", frame)
        else:
            sequences = [item["sequence"] for item in items]
            _judge(sequences == list(range(before + 1, self.cursor + 1)), "something is missing or repeated", frame)
            _judge(all("position" not in item for item in items), "positions are only for all agents", frame)

    def _move(self, frame: Fields) -> None:
        _judge(frame["prev"] == self.cursor, f"the cursor is {self.cursor}", frame)
        _judge(frame["last"] > self.cursor, "a cursor goes forward", frame)
        self.cursor = frame["last"]


class Lanes:
    """All frames that have arrived on one connection and were not expected yet."""

    def __init__(self) -> None:
        self.replies: dict[Any, deque[Fields]] = {}
        self.streams: dict[str, Stream] = {}
        self.heartbeats: deque[Fields] = deque()
        self.rest: deque[Fields] = deque()
        self.goodbye: Fields | None = None
        self._ending: dict[Any, str] = {}

    def asked(self, frame: Any) -> None:
        """Note what was sent: after the reply to `unsubscribe` nothing more of that agent may come."""
        if isinstance(frame, dict) and frame.get("type") == "unsubscribe":
            self._ending[frame.get("id")] = frame.get("agent", "")

    def take(self, frame: Fields) -> None:
        """Put a frame where it belongs.

        Raises:
            Mismatch: it breaks the client's rule, or comes after the goodbye.
        """
        _judge(self.goodbye is None, "goodbye was said before it", frame)
        kind, id = frame["type"], frame.get("id")
        if kind == "subscribed":
            self.streams[frame["agent"]] = Stream(frame)
        if kind == "ok" and id in self._ending:
            self.streams.pop(self._ending.pop(id), None)
        if kind == "goodbye":
            self.goodbye = frame
        if kind in _OF_STREAM:
            self._stream_of(frame).take(frame)
        elif kind in _REPLIES and id is not None:
            self.replies.setdefault(id, deque()).append(frame)
        else:
            (self.heartbeats if kind == "heartbeat" else self.rest).append(frame)

    def _stream_of(self, frame: Fields) -> Stream:
        agent = ALL if frame["type"] in _STEPS and "prev" in frame else frame["agent"]
        _judge(agent in self.streams, "there is no such subscription", frame)
        return self.streams[agent]

    def entries_of(self, agent: str) -> deque[Fields]:
        """Return what came of a subscription; nothing if there is none."""
        stream = self.streams.get(agent)
        return deque() if stream is None else stream.entries

    def lane_of(self, pattern: Fields) -> deque[Fields]:
        """Return the lane in which a frame is to be expected."""
        if pattern["type"] == "heartbeat":
            return self.heartbeats
        if pattern["type"] in _REPLIES and isinstance(pattern.get("id"), str | int):
            return self.replies.setdefault(pattern["id"], deque())
        return self.rest

    @property
    def left(self) -> list[Fields]:
        """What came and was not expected; heartbeats may always come."""
        replies = [frame for lane in self.replies.values() for frame in lane]
        entries = [entry for stream in self.streams.values() for entry in stream.entries]
        return [*self.rest, *replies, *entries]


def _judge(is_right: bool, rule: str, frame: Fields) -> None:
    if not is_right:
        raise Mismatch(f"{rule}, and this came: {shown(frame)}")
