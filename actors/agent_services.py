"""What every agent's actor of a runtime works with. Beside the actor, so that neither needs the other."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import pykka

from commitcast.actors.backpressure import Flow
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.future import Future
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.writes import NewMessage, repeated


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
    keyed: Callable[[str, str], MessageRecord | None]
    """Reads the message of an agent that was stored under a key."""
    flow: Flow
    home: Home
    committed: Callable[[str], object]
    """Wakes those who wait for the agent."""
    now: Callable[[], str]

    def refuse(self, agent: str, message: NewMessage, why: Exception, asker: Future[Any]) -> None:
        """Answer whoever sent a message that is not taken. One that was stored before, under its key, stays stored.

        Threads: the agent's; what is stored is looked up on another, because a handler must not block.
        """
        if message.key is None:
            asker.fail(why)  # not raised: its traceback would keep the message
            return
        key = message.key

        def look() -> None:
            try:
                kept = self.keyed(agent, key)
            except Exception:  # the store is closed, say: what was to be said anyway is said
                kept = None
            answer = why if kept is None else repeated(kept, message)
            if isinstance(answer, Exception):
                asker.fail(answer)
            else:
                asker.set(answer)

        try:
            self.dispatcher.spawn(f"repeat-{agent}", look)
        except RuntimeError:  # there is no thread to be had
            asker.fail(why)
