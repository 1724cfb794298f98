"""Where each agent's actor is: found by id, made on demand, and retired when it has nothing left to do.

Every message to an agent's actor goes through here, under one lock with the retirement, so that none can be put into
the mailbox of an actor that has just decided to stop. Any thread; the lock is held for a queue operation only.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import pykka

from commitcast.actors.agent import AgentActor, AgentCommand, Created, Fail, Terminate
from commitcast.actors.errors import FutureTimeoutError, RuntimeStoppedError
from commitcast.actors.flow import AGENT_BYTES, AGENT_MESSAGES, FlowGate
from commitcast.actors.future import Future, remaining

logger: Final = logging.getLogger(__name__)

AgentRef = pykka.ActorRef[AgentActor]


class Directory:
    """The live agent actors of one runtime."""

    def __init__(
        self,
        start: Callable[[str, Created | None], AgentRef],
        flow: FlowGate,
        *,
        agent_messages: int = AGENT_MESSAGES,
        agent_bytes: int = AGENT_BYTES,
    ) -> None:
        """Make an empty directory.

        Args:
            start: starts the actor of an agent: of one just created, or of one that may be in the store.
            flow: the bound over all agents.
            agent_messages: how many messages of one agent may be on their way.
            agent_bytes: how many bytes.
        """
        self._flow = flow
        self._agent_messages = agent_messages
        self._agent_bytes = agent_bytes
        # Re-entrant: an actor that is being made asks for its gate.
        self._lock = threading.RLock()
        self._refs: dict[str, AgentRef] = {}
        # Whoever waits at a gate keeps it alive, so an actor that is made again meets the same count.
        self._flows: weakref.WeakValueDictionary[str, FlowGate] = weakref.WeakValueDictionary()
        self._start = start
        self._open = True

    def end_all(self, command: Terminate | Fail, deadline: float) -> None:
        """Take no more requests from outside, and end every agent that is at work.

        Acknowledgements still arrive. What has not ended by `deadline` is left to the next start.
        """
        with self._lock:
            self._open = False
            live = list(self._refs.values())
        self._await([ref.ask(command, block=False) for ref in live], deadline)

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
            left, self._refs = list(self._refs.values()), {}
        self._await([ref.stop(block=False) for ref in left], deadline)

    def flow(self, agent: str) -> FlowGate:
        """Return the agent's gate; hold on to it while it is counted in."""
        with self._lock:
            flow = self._flows.get(agent)
            if flow is None:
                flow = FlowGate(agent, self._agent_messages, self._agent_bytes, self._flow)
                self._flows[agent] = flow
            return flow

    def add(self, agent: str, created: Created) -> None:
        """Start the actor of a new agent, or tell the one that was made for the id while it was unknown."""
        with self._lock:
            if not self._open:
                created = Created(created.record, created.creation, None)
            if not self.tell(agent, created):
                self._refs[agent] = self._start(agent, created)
            if not self._open:
                self._refs[agent].ask(Terminate("the runtime was stopped"), block=False)
                raise RuntimeStoppedError(
                    "it was stopped during the launch: if the agent is stored, the next start ends it"
                )

    def ask(self, agent: str, command: AgentCommand) -> Future[Any]:
        """Send a command to an agent's actor, made if need be, and return the future of its answer."""
        with self._lock:
            if not self._open:
                return Future.failed(RuntimeStoppedError())
            ref = self._refs.get(agent)
            if ref is None or not ref.is_alive():
                ref = self._refs[agent] = self._start(agent, None)
            future: Future[Any] = ref.ask(command, block=False)  # type: ignore[assignment]  # what ActorBase makes
            return future

    def tell(self, agent: str, command: AgentCommand) -> bool:
        """Send a message to a live actor; return whether there was one."""
        with self._lock:
            ref = self._refs.get(agent)
            if ref is None or not ref.is_alive():
                logger.debug("nobody is there for %s: %r", agent, type(command).__name__)
                return False
            ref.tell(command)
            return True

    def retire(self, agent: str, actor: AgentActor) -> bool:
        """Take an actor out if nothing waits in its mailbox; return whether it was taken out and should stop."""
        with self._lock:
            ref = self._refs.get(agent)
            if ref is None or ref.actor_urn != actor.actor_urn:
                return True  # another one has taken its place
            if not actor.is_mailbox_empty():
                return False
            del self._refs[agent]
            return True
