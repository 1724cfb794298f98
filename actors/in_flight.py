"""What an agent has sent to the database and has no answer to yet, oldest first. Used from the actor's turns only."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from commitcast.actors.future import Future
from commitcast.persistence.writes import NewMessage


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A write that is not answered yet."""

    asker: Future[Any] | None
    message: NewMessage | None
    """None for a write that is no message."""
    for_source: bool


class InFlight:
    """The writes of one agent that are on their way. An idle agent's costs nothing: a deque would cost more than it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Waiting] | None = None

    def __bool__(self) -> bool:
        return self._waiting is not None

    def add(self, asker: Future[Any] | None, message: NewMessage | None, for_source: bool) -> None:
        """Expect one more answer."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(Waiting(asker, message, for_source))

    def answered(self, replies: Sequence[Any]) -> Iterator[tuple[Waiting, Any]]:
        """Take out the oldest, as many as there are replies, each with its reply."""
        assert self._waiting is not None
        take = self._waiting.popleft
        for reply in replies:
            yield take(), reply
        if not self._waiting:
            self._waiting = None

    def clear(self) -> list[Waiting]:
        """Take out everything."""
        waiting, self._waiting = self._waiting, None
        return list(waiting or ())
