"""What an agent has said and has no answer to yet, oldest first: sent to the database, or to be sent with the next.

Used from the actor's turns only. An idle agent's costs next to nothing: there are many of them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from commitcast.actors.mailbox import Envelope
from commitcast.persistence.writes import NewMessage


class InFlight:
    """The writes of one agent that are on their way."""

    __slots__ = ("_outgoing", "_waiting", "outgoing_size")

    def __init__(self) -> None:
        self._waiting: deque[Envelope] | None = None
        self._outgoing: list[NewMessage] | None = None
        self.outgoing_size = 0
        """Bytes of what is still to be sent."""

    def __bool__(self) -> bool:
        return self._waiting is not None

    def __len__(self) -> int:
        return 0 if self._waiting is None else len(self._waiting)

    @property
    def outgoing(self) -> int:
        """How many messages are still to be sent."""
        return 0 if self._outgoing is None else len(self._outgoing)

    def add(self, envelope: Envelope) -> None:
        """Expect one more answer: to what this envelope asked for."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(envelope)

    def add_message(self, message: NewMessage, envelope: Envelope) -> None:
        """Keep a message to be sent, and expect its answer."""
        if self._outgoing is None:
            self._outgoing = []
        self._outgoing.append(message)
        self.outgoing_size += message.size
        self.add(envelope)

    def take_outgoing(self) -> list[NewMessage]:
        """Take out what is to be sent."""
        outgoing, self._outgoing, self.outgoing_size = self._outgoing, None, 0
        return outgoing or []

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
        waiting, self._waiting, self._outgoing, self.outgoing_size = self._waiting, None, None, 0
        return list(waiting or ())
