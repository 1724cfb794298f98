"""The GatewayActor: takes what agents forward after their acknowledgement, and hands it to the subscribers' hub.

Its two messages are all that a gateway ever hears. It must never make up a message or a status: what it passes on is
a `Committed`, which only a store can make, or a `Notice`, which becomes an `error` frame.
"""

from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from commitcast.actors.dispatch import ActorBase
from commitcast.persistence.records import Committed


class Notice(msgspec.Struct, frozen=True):
    """Something could not be done for an agent. Nothing was stored, so this is no message."""

    agent: str
    code: str
    """One of the protocol's error codes."""
    message: str
    retry: bool = False


GatewayCommand = Committed | Notice


class GatewayActor(ActorBase):
    """Hands committed messages to the hub."""

    def __init__(self, *, publish: Callable[[Committed], object], notify: Callable[[Notice], object]) -> None:
        """Make the actor.

        Args:
            publish: takes what was committed; called in the order in which agents forward it.
            notify: takes what could not be done.
        """
        super().__init__("gateway")
        self._publish: Final = publish
        self._notify: Final = notify

    def on_receive(self, command: GatewayCommand) -> None:
        """Hand one thing on."""
        match command:
            case Committed():
                self._publish(command)
            case Notice():
                self._notify(command)
            case _:
                assert_never(command)
