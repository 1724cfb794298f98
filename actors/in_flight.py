"""The unacknowledged writes of an agent, oldest first: sent to the database already, or to be sent with the next.

Used from the actor's turns only. Two lists, because every agent has one, also an idle one: 176 bytes when it is empty.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from commitcast.actors.kernel.mailbox import Envelope
from commitcast.persistence.writes import NewMessage


class InFlight:
    """The unacknowledged writes of one agent."""

    __slots__ = ("_answered", "_waiting", "outgoing", "size")

    def __init__(self) -> None:
        self.outgoing: list[NewMessage] = []
        """The newest messages, which are still to be sent."""
        self.size = 0
        """Their bytes."""
        self._waiting: list[Envelope] = []  # all writes
        self._answered = 0  # the first of them, while replies are handed out

    def __len__(self) -> int:
        return len(self._waiting) - self._answered

    def __iter__(self) -> Iterator[Envelope]:
        return iter(self._waiting[self._answered :])

    def add(self, envelope: Envelope) -> None:
        """Expect one more reply: to what this envelope asked for."""
        self._waiting.append(envelope)

    def add_message(self, message: NewMessage, envelope: Envelope) -> None:
        """Keep a message to be sent, and expect its reply."""
        self.outgoing.append(message)
        self.size += message.size
        self._waiting.append(envelope)

    def take_outgoing(self) -> tuple[list[NewMessage], int]:
        """Take out the messages to be sent; return them and their bytes."""
        outgoing, size, self.outgoing, self.size = self.outgoing, self.size, [], 0
        return outgoing, size

    def answered(self, replies: Sequence[Any]) -> Iterator[tuple[Envelope, Any]]:
        """Take out the oldest, one for each reply, each with its reply."""
        waiting = self._waiting
        for reply in replies:
            envelope = waiting[self._answered]
            self._answered += 1
            yield envelope, reply
        del waiting[: self._answered]
        self._answered = 0
