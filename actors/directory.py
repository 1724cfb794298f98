"""The directory of agents: finds an agent's actor by id, makes it on demand, and lets it retire.

A message goes straight into the mailbox of the actor, without a lock. Making and retiring an actor happen under a lock,
and messages that reached the mailbox of a retired actor are handed, in order, to the next one. Any thread; nothing
blocks under the lock.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from commitcast.actors import messages
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.errors import FutureTimeoutError, MailboxFullError, RuntimeStoppedError
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.dispatch import RunTogether
from commitcast.actors.kernel.future import Future, remaining
from commitcast.actors.kernel.mailbox import Empty, Envelope
from commitcast.actors.kernel.waiting import Signal
from commitcast.actors.sources.draft import Ending
from commitcast.persistence.fork import GONE
from commitcast.persistence.records import AgentStatus, MessageRecord

if TYPE_CHECKING:
    from commitcast.actors.agent import AgentActor

logger: Final = logging.getLogger(__name__)


class Directory:
    """The live agent actors of one runtime."""

    def __init__(
        self,
        make: Callable[[str, messages.Created | None], "AgentActor"],
        credit: CreditLimiter,
        dead_letters: DeadLetters,
        run_together: RunTogether,
    ) -> None:
        """Make an empty directory.

        Args:
            make: makes and starts an agent's actor, which has the agent's id as its name: of an agent just created, or
                with None of one that may be in the store.
            credit: of unacknowledged messages; that of a message which reaches no actor is released here.
            dead_letters: where undeliverable messages are counted.
            run_together: of the dispatcher of the agents.
        """
        self._run_together = run_together
        self._make = make
        self._credit = credit
        self._dead_letters = dead_letters
        self._lock = threading.RLock()
        self._actors: dict[str, AgentActor] = {}
        self.is_open = True
        """Whether requests from outside are accepted."""
        self._emptied: Signal | None = None  # given when the last actor has gone

    def is_at_work(self, agent: str) -> bool:
        """Whether an agent has an actor, and its end is not stored yet: it may be known before the actor retires."""
        actor = self._actors.get(agent)
        return actor is not None and not actor.has_ended and not actor.is_foreign

    def __len__(self) -> int:
        """Return how many actors are alive."""
        return len(self._actors)

    def end_all(
        self, ending: messages.Terminate | messages.Fail, deadline: float, then: Callable[[], object] = lambda: None
    ) -> None:
        """Refuse requests from outside, end every agent that is at work, and wait until all actors have retired.

        Acknowledgements still arrive. Agents that have not ended by `deadline` are left to the next start; an agent
        whose source has not ended is ended without it.

        Args:
            ending: how they end.
            deadline: of `time.monotonic()`.
            then: called before the wait; the ends of sources that it causes come after `ending`.
        """
        with self._lock:
            self.is_open = False
        self._tell_all(messages.RuntimeStopping(ending))
        then()
        emptied = Signal()
        with self._lock:
            self._emptied = emptied
            is_empty = not self._actors
        if not is_empty and not emptied.wait(remaining(deadline)):
            self._tell_all(messages.SourceEnded(Ending(status=AgentStatus.TERMINATED)))
            logger.warning("%d agents did not end in time: the next start ends them", len(self._actors))

    def _tell_all(self, command: messages.AgentCommand) -> None:
        with self._lock:
            live = list(reversed(self._actors.values()))

        def tell() -> None:
            while live:  # and forget each: a retired actor is not to be kept until the last one has retired
                live.pop().actor_inbox.put(Envelope(command))

        self._run_together(tell, inline=False)

    def stop_all(self, deadline: float) -> None:
        """Stop the actors that are left, each after it has handled what it was sent before."""
        with self._lock:
            left, self._actors = list(self._actors.values()), {}
        for stopping in [actor.actor_ref.stop(block=False) for actor in left]:
            try:
                stopping.get(timeout=remaining(deadline))
            except FutureTimeoutError:
                break
        for actor in left:
            for envelope in _drain(actor):  # of an actor that did not stop in time: its callers are answered
                self._refuse(actor.name, envelope)

    def add(self, agent: str, created: messages.Created) -> None:
        """Start the actor of a new agent, or tell the actor that was made for the id before the agent existed."""
        with self._lock:
            is_open = self.is_open
            if not is_open:
                created = messages.Created(created.record, created.creation, None)
            if not (agent in self._actors and self.tell(agent, created)):
                self._actors[agent] = self._make(agent, created)
            if is_open:
                return
            self._actors[agent].actor_inbox.put(Envelope(messages.Terminate("the runtime was stopped"), Future()))
        raise RuntimeStoppedError("it was stopped during the launch: if the agent is stored, the next start ends it")

    def ask(self, agent: str, command: messages.AgentCommand) -> Future[Any]:
        """Send a command to an agent's actor, made if need be, and return the future of its answer."""
        future: Future[Any] = Future()
        envelope = Envelope(command, future)
        actor = self._actors.get(agent)
        if not self.is_open:
            self._refuse(agent, envelope)
        elif actor is None:
            self._deliver(agent, envelope)
        elif isinstance(command, messages.Emit):
            actor.actor_inbox.put(envelope, can_wait=True)
        elif not actor.actor_inbox.put(envelope, bounded=True):
            future.fail(MailboxFullError(f"agent {agent!r}", actor.actor_inbox.limit_messages or 0))
        return future

    def emit(self, agent: str, command: messages.Emit) -> Future[MessageRecord]:
        """Send a message to an agent's actor like `ask`; a quiet actor handles it on this thread."""
        actor = self._actors.get(agent)
        if actor is None or not self.is_open:
            return self.ask(agent, command)
        future: Future[Any] = Future()
        is_quiet = actor.is_quiet
        actor.actor_inbox.put(Envelope(command, future), inline=is_quiet, can_wait=not is_quiet)
        return future

    def source_loop(self, agent: str) -> asyncio.AbstractEventLoop | None:
        """Return the event loop that the source of an agent runs on; None if it is on none."""
        actor = self._actors.get(agent)
        return None if actor is None else actor.source_loop

    def last_sequence(self, agent: str) -> int | None:
        """Return the sequence of an agent's last stored message, or of a later one; None unless it is at work here."""
        actor = self._actors.get(agent)
        return None if actor is None or actor.has_ended or actor.is_foreign else actor.last_sequence

    def tell(self, agent: str, command: messages.AgentCommand) -> bool:
        """Send a message to an agent's actor if it has one; return whether it has."""
        actor = self._actors.get(agent)
        if actor is None and isinstance(command, messages.SourceEnded):
            self._deliver(agent, Envelope(command))  # its actor failed: another one brings the agent to its end
            return True
        if actor is None:
            self._dead_letters.add(f"AgentActor-{agent}", command, "the agent has no actor")
            return False
        if isinstance(command, messages.Emit):
            is_quiet = actor.is_quiet
            actor.actor_inbox.put(Envelope(command), inline=is_quiet, can_wait=not is_quiet)
        else:
            actor.actor_inbox.put(Envelope(command))
        return True

    def _deliver(self, agent: str, envelope: Envelope) -> None:
        """Put an envelope into the mailbox of the agent's actor, made if need be."""
        with self._lock:
            actor = self._actors.get(agent)
            if actor is None:
                if not self.is_open:
                    self._refuse(agent, envelope)
                    return
                actor = self._actors[agent] = self._make(agent, None)
            actor.actor_inbox.put(envelope)

    def retire(self, actor: "AgentActor") -> bool:
        """Take an actor out if nothing waits in its mailbox; return whether it was stopped. In its own turn."""
        with self._lock:
            if self._actors.get(actor.name) is actor:
                if not actor.actor_inbox.empty():
                    return False
                self._remove(actor.name)
            actor.stop_now()
            return True

    def _remove(self, agent: str) -> None:
        del self._actors[agent]
        if not self._actors and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    def redeliver(self, actor: "AgentActor") -> None:
        """Give what reached a stopped actor too late to the agent's present actor, or to a new one, in order."""
        agent = actor.name
        with self._lock:
            if self._actors.get(agent) is actor:  # it failed; senders that still find it come here afterwards
                late = _drain(actor)
                successor = None if not late or not self.is_open else self._make(agent, None)
                for envelope in late:
                    if successor is None:
                        self._refuse(agent, envelope)
                    else:
                        successor.actor_inbox.put(envelope)
                if successor is None:
                    self._remove(agent)
                else:
                    self._actors[agent] = successor
            else:
                for envelope in _drain(actor):
                    self._deliver(agent, envelope)

    def _drop_in_child(self) -> None:
        self._actors = GONE

    def _refuse(self, agent: str, envelope: Envelope) -> None:
        """Answer an envelope that cannot reach an actor any more, because the runtime has stopped."""
        message, reply_to = envelope.message, envelope.reply_to
        if isinstance(message, messages.Emit):
            self._credit.release(agent, 1, message.message.size)
        if reply_to is None:
            self._dead_letters.add(f"AgentActor-{agent}", message, "the runtime had stopped")
        elif isinstance(message, messages.AgentCommand):
            reply_to.fail(RuntimeStoppedError())
        else:
            reply_to.set(None)  # a stop, of what has stopped


def _drain(actor: "AgentActor") -> list[Envelope]:
    late = []
    while True:
        try:
            late.append(actor.actor_inbox.get(False))
        except Empty:
            return late
