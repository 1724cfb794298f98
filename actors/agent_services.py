"""Services that the actors of all agents share: one object, because an idle agent must stay small."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pykka

from commitcast.actors import messages
from commitcast.actors.backend import Forwarded
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.directory import Directory
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.future import Future
from commitcast.actors.readers import Readers
from commitcast.persistence.records import AgentRecord, MessageRecord
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
    owns: Callable[[str], bool]
    """Whether an agent that has not ended is at work in this runtime."""
    forward: Callable[[str, list[Any], Forwarded], None]
    """Has the runtime that an agent is at work in send to it, or terminate it."""

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
            _settle(asker, error if stored is None else repeated(stored, message))

        try:
            self.dispatcher.spawn(f"repeat-{agent}", look)
        except RuntimeError:  # no thread can be started
            asker.fail(error)

    def forward_for(self, asker: Future[Any] | None, agent: str, method: str, arguments: list[Any]) -> None:
        """Have the runtime of an agent do something, and answer the sender, if there is one.

        Threads: any. The sender's callbacks are called on a thread of their own: the one that receives the answers must
        not wait for them, because they may read.
        """

        def answered(answer: AgentRecord | MessageRecord | Exception) -> None:
            if asker is None or asker.done():
                return
            settle = partial(_settle, asker, answer)
            try:
                self.dispatcher.spawn(f"answer-{agent}", settle)
            except RuntimeError:  # no thread can be started
                settle()

        self.forward(method, arguments, answered)


def _settle(asker: Future[Any], answer: Any) -> None:
    if isinstance(answer, Exception):
        asker.fail(answer)
    else:
        asker.set(answer)
