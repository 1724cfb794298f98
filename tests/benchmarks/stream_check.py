"""The messages of a benchmark, and the check that a subscriber receives exactly those. Pure.

Each content includes its agent and number, so the receiver can compute the content that it expects.
"""

from collections import Counter
from typing import NamedTuple

from benchmark_errors import WrongDataError
from commitcast.gateway.protocol import decoding, frames


def agent_name(index: int) -> str:
    """Return the id of the nth agent, which begins at 0."""
    return f"bench-{index:06d}"


def content_of(agent: str, sequence: int, size: int = 0) -> str:
    """Return what an agent says as its nth message: about as long as a few tokens of a model, or of that many bytes."""
    return f"token {sequence} of {agent}".ljust(size, ".")


class StreamCheck:
    """Checks the frames of one subscription: everything once, in order, and with the content that was emitted."""

    def __init__(self, agent: str, after: int = 0, size: int = 0) -> None:
        """Make a check.

        Args:
            agent: what is subscribed to, an id or `frames.ALL`.
            after: the cursor that it was subscribed with.
            size: bytes of each content; 0 where they were not filled up.
        """
        self.agent = agent
        self._size = size
        self.cursor = after
        self.messages = 0
        self.statuses: Counter[str] = Counter()
        self._heads: dict[str, int] = {} if agent == frames.ALL else {agent: after}

    def take(self, frame: frames.ServerFrame | None) -> None:
        """Take the next frame.

        Raises:
            WrongDataError: it is not what had to come.
        """
        if isinstance(frame, frames.Messages):
            self._move(frame.prev, frame.last)
            self._take_messages(frame)
        elif isinstance(frame, frames.Status):
            self._take_status(frame)
        elif isinstance(frame, frames.Agent):
            self._move(frame.prev, frame.last)
        elif isinstance(frame, frames.Error):
            raise WrongDataError(f"the server told the subscriber: {frame.message}")
        elif isinstance(frame, frames.Subscribed) and frame.after != self.cursor:
            raise WrongDataError(f"the subscription begins after {frame.after} and not after {self.cursor}")

    def _move(self, prev: int | None, last: int | None) -> None:
        if prev != self.cursor or last is None or last < prev:
            raise WrongDataError(f"the subscriber stands at {self.cursor} and was given what follows {prev}")
        self.cursor = last

    def _take_messages(self, frame: frames.Messages) -> None:
        heads, size = self._heads, self._size
        for item in frame.items:
            agent = item.agent or frame.agent
            expected = heads.get(agent, 0) + 1
            if item.sequence != expected:
                raise WrongDataError(
                    f"the subscriber was given message {item.sequence} of agent {agent} and not message {expected}"
                )
            if item.content != f"token {expected} of {agent}".ljust(size, "."):  # `content_of` without the call
                raise WrongDataError(
                    f"the subscriber was given message {expected} of agent {agent} with the content"
                    f" {item.content!r:.80}"
                )
            heads[agent] = expected
        self.messages += len(frame.items)

    def _take_status(self, frame: frames.Status) -> None:
        if self.agent == frames.ALL:
            self._move(frame.prev, frame.last)
            given = self._heads.get(frame.agent, 0)
            if given != frame.sequence:
                raise WrongDataError(
                    f"the subscriber heard that agent {frame.agent} became {frame.status} after message"
                    f" {frame.sequence}, and had been given {given}"
                )
        self.statuses[frame.status] += 1


class Span(NamedTuple):
    """The range that a frame covers."""

    prev: int
    last: int
    emitted: tuple[tuple[str, int], ...]
    """Of each message that says so, the label that it was emitted with, and when."""


class SharedCheck:
    """Checks frames that many subscribers receive: each only once."""

    def __init__(self, size: int = 0) -> None:
        """Make a check; `size` as of `StreamCheck`."""
        self._size = size
        self._known: dict[bytes, Span | None] = {}

    def take(self, data: bytes) -> Span | None:
        """Return what a frame covers; None if it has no messages.

        Raises:
            WrongDataError: the messages in it are not what was emitted, or it says that there will be none.
        """
        if data not in self._known:
            self._known[data] = self._check(decoding.decode_server(data))
        return self._known[data]

    def _check(self, frame: frames.ServerFrame | None) -> Span | None:
        if isinstance(frame, frames.Messages):
            StreamCheck(frame.agent, frame.prev, self._size).take(frame)
            notes = [item.metadata for item in frame.items if item.metadata]
            return Span(frame.prev, frame.last, tuple((note["label"], note["emitted_ns"]) for note in notes))
        if isinstance(frame, frames.Error) and not frame.retry:
            raise WrongDataError(f"the server told a subscriber: {frame.message}")
        return None


def joined(cursor: int, span: Span) -> int:
    """Return the cursor after a frame.

    Raises:
        WrongDataError: the frame is not the next.
    """
    if span.prev != cursor:
        raise WrongDataError(f"a subscriber stands at {cursor} and was given what follows {span.prev}")
    return span.last
