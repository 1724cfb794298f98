"""Services that the actors of all agents share: one object, because an idle agent must stay small."""

from collections.abc import Callable
from typing import Any

import msgspec
import pykka

from commitcast.actors import messages
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.directory import Directory
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.future import Future
from commitcast.actors.readers import Readers
from commitcast.persistence.store import Reader
from commitcast.persistence.writes import NewMessage, repeated


class AgentServices(msgspec.Struct, frozen=True):
    """What an agent's actor works with."""

    dispatcher: Dispatcher
    database: pykka.ActorRef[Any]
    cast: Callable[[messages.GatewayCommand], None]
    """Tells the gateway's actor, or the one that a host has given. Raises `ActorDeadError` or `MailboxFullError`."""
    reader: Reader
    credit: CreditLimiter
    directory: Directory
    readers: Readers

    def refuse(self, agent: str, message: NewMessage, error: Exception, asker: Future[Any]) -> None:
        """Answer the sender of a refused message. One that was stored before, under its key, stays stored.

        Threads: the agent's; the store is read on another, because a handler must not block.
        """
        if message.key is None:
            asker.fail(error)  # not raised: its traceback would keep the message
            return
        key = message.key

        def look() -> None:
            try:
                stored = self.reader.keyed(agent, key)
            except Exception:  # the store is closed, say: then the refusal is the answer
                stored = None
            answer = error if stored is None else repeated(stored, message)
            if isinstance(answer, Exception):
                asker.fail(answer)
            else:
                asker.set(answer)

        try:
            self.dispatcher.spawn(f"repeat-{agent}", look)
        except RuntimeError:  # no thread can be started
            asker.fail(error)
