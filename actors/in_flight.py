"""What an agent has sent to the database and has no answer to yet, oldest first. Used from the actor's turns only."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from commitcast.actors.mailbox import Envelope


class InFlight:
    """The writes of one agent that are on their way. An idle agent's costs nothing: a deque would cost more than it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Envelope] | None = None

    def __bool__(self) -> bool:
        return self._waiting is not None

    def __len__(self) -> int:
        return 0 if self._waiting is None else len(self._waiting)

    def add(self, envelope: Envelope) -> None:
        """Expect one more answer: to what this envelope asked for."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(envelope)

    def answered(self, replies: Sequence[Any]) -> Iterator[tuple[Envelope, Any]]:
        """Take out the oldest, as many as there are replies, each with its reply."""
        assert self._waiting is not None
        take = self._waiting.popleft
        for reply in replies:
            yield take(), reply
        if not self._waiting:
            self._waiting = None

    def clear(self) -> list[Envelope]:
        """Take out everything."""
        waiting, self._waiting = self._waiting, None
        return list(waiting or ())
