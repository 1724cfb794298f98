"""The GatewayActor: takes what agents forward after their acknowledgement, and hands it to the subscribers' hub.

Its two messages are all that a gateway ever hears. It must never make up a message or a status: what it passes on is
a `Committed`, which only a store can make, or a `Notice`, which becomes an `error` frame.
"""

from typing import ClassVar, Final, Protocol, assert_never

from commitcast.actors.kernel.dispatch import Dispatcher, PooledActor
from commitcast.actors.messages import GatewayCommand, Notice
from commitcast.persistence.records import Committed

MAILBOX_LIMIT_MESSAGES: Final = 65_536
"""Sixteen full batches of as many agents; handing one on takes a microsecond and waits for nothing."""


class Audience(Protocol):
    """Who is told: the gateway's server."""

    def publish(self, committed: Committed) -> None:
        """Take what was committed. Returns at once."""

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        """Take what could not be done. Returns at once."""


class GatewayActor(PooledActor):
    """Hands committed messages to the hub.

    When its mailbox is full, what would be forwarded becomes a dead letter: it is durable, and the subscribers' next
    heartbeat sends them to the store for it.
    """

    turn_messages: ClassVar[int] = MAILBOX_LIMIT_MESSAGES
    mailbox_limit_messages: ClassVar[int | None] = MAILBOX_LIMIT_MESSAGES

    def __init__(self, dispatcher: Dispatcher, audience: Audience | None) -> None:
        """Make the actor.

        Args:
            dispatcher: who gives it turns.
            audience: the server, which is told in the order in which agents forward; None if nobody is served.
        """
        super().__init__("gateway", dispatcher)
        self._audience = audience

    def on_receive(self, command: GatewayCommand) -> None:
        """Hand one thing on."""
        if self._audience is None:
            return
        match command:
            case Committed():
                self._audience.publish(command)
            case Notice(agent, code, message, retry):
                self._audience.notify(agent, code, message, retry)
            case _:
                assert_never(command)
