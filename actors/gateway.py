"""The GatewayActor: takes what agents forward after their acknowledgement, and casts it to the subscribers.

Its two messages are all that a gateway ever receives. It must never make up a message or a status: it casts a
`Committed`, which only a store can make, or a `Notice`, which becomes an `error` frame.
"""

from typing import Any, ClassVar, Final, assert_never

from commitcast.actors.backend import Flush, Notify, Publish
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.messages import GatewayCommand, Notice
from commitcast.persistence.records import Committed

__all__ = ["GatewayActor", "GatewayCommand", "Notice"]

MAILBOX_LIMIT_MESSAGES: Final = 65_536
"""Sixteen full batches of as many agents; handing one on takes a microsecond and waits for nothing."""


class GatewayActor(Actor):
    """Casts committed messages.

    When its mailbox is full, a further message becomes a dead letter: it is durable, and the next heartbeat sends the
    subscribers to the store for it.
    """

    follows_its_senders: ClassVar[bool] = True
    turn_messages: ClassVar[int] = MAILBOX_LIMIT_MESSAGES
    mailbox_limit_messages: ClassVar[int | None] = MAILBOX_LIMIT_MESSAGES

    def __init__(self, dispatcher: Dispatcher, publish: Publish, notify: Notify, flush: Flush) -> None:
        """Make the actor.

        Args:
            dispatcher: gives it turns.
            publish: casts what was committed; called in the order in which agents forward.
            notify: casts what could not be done.
            flush: called after those of a turn.
        """
        super().__init__("gateway", dispatcher)
        self._publish = publish
        self._notify = notify
        self._flush = flush

    def on_receive(self, command: GatewayCommand) -> None:
        """Cast one message or notice."""
        match command:
            case Committed():
                self._publish(command)
            case Notice(agent, code, message, retry):
                self._notify(agent, code, message, retry)
            case _:
                assert_never(command)

    def on_turn_end(self) -> None:
        """Let what came be sent: with one call for all of it."""
        self._flush()

    def on_failure(self, *failure: Any) -> None:
        """Let what came before the failure be sent."""
        self._flush()
