"""What an agent has said and has no answer to yet, oldest first: sent to the database, or to be sent with the next.

Used from the actor's turns only. There while there is something in it: of idle agents there are many.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from commitcast.actors.kernel.mailbox import Envelope
from commitcast.persistence.writes import NewMessage


class InFlight:
    """The writes of one agent that are on their way."""

    __slots__ = ("_outgoing", "_size", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Envelope] = deque()
        self._outgoing: list[NewMessage] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Envelope]:
        return iter(self._waiting)

    @property
    def outgoing(self) -> int:
        """How many messages are still to be sent."""
        return len(self._outgoing)

    def add(self, envelope: Envelope) -> None:
        """Expect one more answer: to what this envelope asked for."""
        self._waiting.append(envelope)

    def add_message(self, message: NewMessage, envelope: Envelope) -> None:
        """Keep a message to be sent, and expect its answer."""
        self._outgoing.append(message)
        self._size += message.size
        self._waiting.append(envelope)

    def take_outgoing(self) -> tuple[list[NewMessage], int]:
        """Take out what is to be sent; return it and its bytes."""
        outgoing, size, self._outgoing, self._size = self._outgoing, self._size, [], 0
        return outgoing, size

    def answered(self, replies: Sequence[Any]) -> Iterator[tuple[Envelope, Any]]:
        """Take out the oldest, as many as there are replies, each with its reply."""
        take = self._waiting.popleft
        for reply in replies:
            yield take(), reply
