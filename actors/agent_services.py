"""What every agent's actor of a runtime works with. Beside the actor, so that neither needs the other."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import pykka

from commitcast.actors.dispatch import Dispatcher
from commitcast.actors.flow import Flow
from commitcast.persistence.records import AgentRecord


class Home(Protocol):
    """Where an agent's actor is registered: the directory."""

    def retire(self, actor: Any) -> bool:
        """Take it out if nothing waits for it; return whether it has been stopped."""

    def redeliver(self, actor: Any) -> None:
        """Give what reached it too late to the actor that is there now."""

    def tell(self, agent: str, command: Any) -> bool:
        """Send a message to a live actor; return whether there was one."""


class Told(Protocol):
    """The gateway: its actor, or the way to the one that a host has given."""

    def tell(self, message: Any) -> None:
        """Send a message. Raises `ActorDeadError` or `MailboxFullError`."""


class AgentServices(msgspec.Struct, frozen=True):
    """What every agent actor of a runtime works with."""

    dispatcher: Dispatcher
    database: pykka.ActorRef[Any]
    gateway: Told
    load: Callable[[str], AgentRecord | None]
    flow: Flow
    home: Home
    committed: Callable[[str], object]
    """Wakes those who wait for the agent."""
    now: Callable[[], str]
