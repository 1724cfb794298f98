"""Where each agent's actor is: found by id, made on demand, and retired when it has nothing left to do.

A message goes straight into the mailbox of the actor that is there, without a lock. Making and retiring an actor
happen under one, and what reached the mailbox of a retired actor is handed, in its order, to the next one. Any thread;
the lock is held for a queue operation only.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import pykka

from commitcast.actors.agent import AgentActor
from commitcast.actors.agent_commands import AgentCommand, Created, Emit, Fail, Terminate
from commitcast.actors.deadletters import DeadLetters
from commitcast.actors.errors import FutureTimeoutError, RuntimeStoppedError
from commitcast.actors.flow import Flow
from commitcast.actors.future import Future, remaining
from commitcast.actors.mailbox import Empty, Envelope
from commitcast.persistence.records import MessageRecord

logger: Final = logging.getLogger(__name__)


class Directory:
    """The live agent actors of one runtime."""

    def __init__(
        self, make: Callable[[str, Created | None], AgentActor], flow: Flow, dead_letters: DeadLetters
    ) -> None:
        """Make an empty directory.

        Args:
            make: makes and starts the actor of an agent: of one just created, or of one that may be in the store.
            flow: counts the messages on their way; the place of one that reaches no actor is given back here.
            dead_letters: where messages to nobody are counted.
        """
        self._make = make
        self._flow = flow
        self._dead_letters = dead_letters
        self._lock = threading.RLock()
        self._actors: dict[str, AgentActor] = {}
        self._open = True

    def __len__(self) -> int:
        """Return how many actors are alive."""
        return len(self._actors)

    def end_all(self, command: Terminate | Fail, deadline: float) -> None:
        """Take no more requests from outside, and end every agent that is at work.

        Acknowledgements still arrive. What has not ended by `deadline` is left to the next start.
        """
        with self._lock:
            self._open = False
            live = list(self._actors.values())
        futures: list[Future[Any]] = []
        for actor in live:
            future: Future[Any] = Future()
            actor.actor_inbox.put(Envelope(command, future))
            futures.append(future)
        self._await(futures, deadline)

    def _await(self, futures: Sequence[pykka.Future[Any]], deadline: float) -> None:
        for future in futures:
            try:
                future.get(timeout=remaining(deadline))
            except FutureTimeoutError:
                logger.warning("an agent did not end in time: the next start will end it")
                break
            except Exception as error:  # it has ended already, or cannot: there is nobody to tell but the log
                logger.debug("at the stop: %s", error)

    def stop_all(self, deadline: float) -> None:
        """Stop the actors that are left, each after it has forwarded what it was told of before."""
        with self._lock:
            left, self._actors = list(self._actors.values()), {}
        self._await([actor.actor_ref.stop(block=False) for actor in left], deadline)

    def add(self, agent: str, created: Created) -> None:
        """Start the actor of a new agent, or tell the one that was made for the id while it was unknown."""
        with self._lock:
            is_open = self._open
            if not is_open:
                created = Created(created.record, created.creation, None)
            if not (agent in self._actors and self.tell(agent, created)):
                self._actors[agent] = self._make(agent, created)
            if is_open:
                return
            self._actors[agent].actor_inbox.put(Envelope(Terminate("the runtime was stopped"), Future()))
        raise RuntimeStoppedError("it was stopped during the launch: if the agent is stored, the next start ends it")

    def ask(self, agent: str, command: AgentCommand) -> Future[Any]:
        """Send a command to an agent's actor, made if need be, and return the future of its answer."""
        future: Future[Any] = Future()
        envelope = Envelope(command, future)
        actor = self._actors.get(agent)
        if not self._open:
            self._refuse(agent, envelope)
        elif actor is None:
            self._deliver(agent, envelope)
        else:
            actor.actor_inbox.put(envelope)
        return future

    def emit(self, agent: str, command: Emit) -> Future[MessageRecord]:
        """Send a message to an agent's actor like `ask`; it may be handled on this thread."""
        actor = self._actors.get(agent)
        if actor is None or not self._open:
            return self.ask(agent, command)
        future: Future[Any] = Future()
        actor.actor_inbox.put_here(Envelope(command, future))
        return future

    def tell(self, agent: str, command: AgentCommand) -> bool:
        """Send a message to a live actor; return whether there was one."""
        actor = self._actors.get(agent)
        if actor is None:
            self._dead_letters.add(f"AgentActor-{agent}", command, "there is no such actor")
            return False
        actor.actor_inbox.put(Envelope(command))
        return True

    def _deliver(self, agent: str, envelope: Envelope) -> None:
        """Put an envelope into the mailbox of the agent's actor, made if need be."""
        with self._lock:
            actor = self._actors.get(agent)
            if actor is None:
                if not self._open:
                    self._refuse(agent, envelope)
                    return
                actor = self._actors[agent] = self._make(agent, None)
            actor.actor_inbox.put(envelope)

    def retire(self, actor: AgentActor) -> bool:
        """Take an actor out if nothing waits in its mailbox; return whether it was stopped. In its own turn."""
        with self._lock:
            if self._actors.get(actor.agent) is actor:
                if not actor.is_mailbox_empty():
                    return False
                del self._actors[actor.agent]
            actor.stop_now()
            return True

    def redeliver(self, actor: AgentActor) -> None:
        """Give what reached a stopped actor too late to the one that is there now, or to a new one, in its order."""
        agent = actor.agent
        with self._lock:
            if self._actors.get(agent) is actor:  # it failed; who finds it there still comes here afterwards
                late = _drain(actor)
                successor = None if not late or not self._open else self._make(agent, None)
                for envelope in late:
                    if successor is None:
                        self._refuse(agent, envelope)
                    else:
                        successor.actor_inbox.put(envelope)
                if successor is None:
                    del self._actors[agent]
                else:
                    self._actors[agent] = successor
            else:
                for envelope in _drain(actor):
                    self._deliver(agent, envelope)

    def _refuse(self, agent: str, envelope: Envelope) -> None:
        """Answer what can reach no actor any more, because the runtime has stopped."""
        if isinstance(envelope.message, Emit):
            self._flow.release(agent, 1, envelope.message.message.size)
        if envelope.reply_to is not None:
            envelope.reply_to.fail(RuntimeStoppedError())
        else:
            self._dead_letters.add(f"AgentActor-{agent}", envelope.message, "the runtime had stopped")


def _drain(actor: AgentActor) -> list[Envelope]:
    late = []
    while True:
        try:
            late.append(actor.actor_inbox.get(False))
        except Empty:
            return late
