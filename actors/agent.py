"""The AgentActor: one agent. Owns its lifecycle, keeps its writes in order, and forwards what was committed.

A message goes through here twice: on its way to the DatabaseActor (`_on_emit`) and, once it is committed, on its way
to the GatewayActor (`_on_acknowledged`). Must never tell the gateway or a caller anything that was not acknowledged.
Handlers run one at a time and never block.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, assert_never

import msgspec
import pykka

from commitcast.actors.database import Acknowledged, Append, ChangeStatus, UpdateAgent
from commitcast.actors.dispatch import Dispatcher, PooledActor
from commitcast.actors.errors import AgentEndedError, InputRefusedError, RuntimeStoppedError
from commitcast.actors.flow import FlowGate
from commitcast.actors.future import Reply
from commitcast.actors.gateway import Notice
from commitcast.actors.lifecycle import check_transition
from commitcast.actors.sources.draft import Ending
from commitcast.persistence.errors import AgentNotFoundError, CommitcastError, IllegalTransitionError
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, MessageRecord
from commitcast.persistence.writes import AgentPatch, NewMessage, NewStatus, encode_json

logger: Final = logging.getLogger(__name__)

ENDINGS_TRIED: Final = 3
"""How often the end of an agent with a source is tried at once when the database refuses it."""
ENDING_PAUSE_S: Final = 1.0
"""How long it waits then before it tries again, for as long as the runtime runs."""
_generations: Final = itertools.count(1)
"""Rises over all actors: one that is made again must not be taken for the one before it."""


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Store a message and send it to the subscribers. Its place at the flow gate is given back when it is answered."""

    message: NewMessage
    from_source: bool = False
    for_source: bool = False
    """A text for the source's inbox, put there once it is committed."""


class Start(msgspec.Struct, frozen=True):
    """Become running."""


class Complete(msgspec.Struct, frozen=True):
    """Become completed."""

    result_json: str | None = None


class Fail(msgspec.Struct, frozen=True):
    """Become failed."""

    error_name: str
    error_message: str
    result_json: str | None = None


class Terminate(msgspec.Struct, frozen=True):
    """Become terminated, and make the source stop."""

    reason: str | None = None


class Created(msgspec.Struct, frozen=True):
    """The agent that this actor was made for while it was unknown exists now."""

    record: AgentRecord
    creation: Committed | None
    feed: "Feed | None"


class Patch(msgspec.Struct, frozen=True):
    """Store facts learnt about the agent."""

    patch: AgentPatch


class SourceEnded(msgspec.Struct, frozen=True):
    """The source has nothing more to say."""

    ending: Ending


class EndingDue(msgspec.Struct, frozen=True):
    """Try again to bring the agent to its end."""


AgentCommand = Emit | Start | Complete | Fail | Terminate | Created | Patch | SourceEnded | EndingDue | Acknowledged


class Feed(Protocol):
    """The source of an agent, as far as its actor knows it."""

    takes_input: bool
    """Whether it reads its inbox."""

    def start(self) -> None:
        """Begin. Does not block."""

    def cancel(self) -> None:
        """Ask it to stop. Does not block; idempotent."""

    def deliver(self, content: str) -> None:
        """Put a text into its inbox."""


class AgentServices(msgspec.Struct, frozen=True):
    """What every agent actor of a runtime works with."""

    dispatcher: Dispatcher
    database: pykka.ActorRef[Any]
    gateway: pykka.ActorRef[Any]
    load: Callable[[str], AgentRecord | None]
    flow: Callable[[str], FlowGate]
    retire: Callable[[str, "AgentActor"], bool]
    tell: Callable[[str, "AgentCommand"], bool]
    committed: Callable[[str], object]
    """Wakes those who wait for the agent."""
    now: Callable[[], str]


class _InFlight(msgspec.Struct):
    """A write that is not answered yet."""

    reply: Reply[Any]
    message: NewMessage | None = None
    for_source: bool = False


class AgentActor(PooledActor):
    """One agent."""

    def __init__(
        self,
        agent: str,
        services: AgentServices,
        *,
        created: Created | None = None,
    ) -> None:
        """Make the actor.

        Args:
            agent: its id.
            services: of the runtime.
            created: what was just created; None loads the agent from the store, where it may be missing.
        """
        super().__init__(agent, services.dispatcher)
        self._agent = agent
        self._services = services
        self._created = created
        self._record: AgentRecord | None = None
        self._is_loaded = False
        self._feed: Feed | None = None
        self._feed_running = False
        self._ending: Ending | None = None  # how an agent with a source shall end, until it has
        self._endings_tried = 0
        self._status = AgentStatus.INITIALIZING
        self._generation = self._first_generation = next(_generations)
        self._in_flight: deque[_InFlight] = deque()
        self._flow = services.flow(agent)
        self.discarded = 0
        """Messages that the source yielded after the end."""

    def on_start(self) -> None:
        """Begin with what was just created. An agent of the store is loaded with the first command, on a worker."""
        if self._created is not None:
            self._on_created(self._created)
            self._created = None

    def on_receive(self, command: AgentCommand) -> Any:
        """Handle one command."""
        if not self._is_loaded:
            self._load(command)
        try:
            return self._handle(command)
        finally:
            self._retire_if_done()

    def _handle(self, command: AgentCommand) -> Any:
        match command:
            case Emit():
                return self._on_emit(command)
            case Acknowledged():
                return self._on_acknowledged(command)
            case Start():
                return self._change(AgentStatus.RUNNING)
            case Complete(result_json):
                return self._end(AgentStatus.COMPLETED, result_json=result_json)
            case Fail(name, message, result_json):
                return self._end(AgentStatus.FAILED, error_name=name, error_message=message, result_json=result_json)
            case Terminate(reason):
                return self._end(AgentStatus.TERMINATED, reason=reason)
            case Created():
                return self._on_created(command)
            case Patch(patch):
                return self._on_patch(patch)
            case SourceEnded(ending):
                return self._on_source_ended(ending)
            case EndingDue():
                return self._end_if_due()
            case _:
                assert_never(command)

    def _load(self, command: AgentCommand) -> None:
        try:
            self._record = self._services.load(self._agent)
        except BaseException:
            if isinstance(command, Emit):
                self._flow.release(1, command.message.size)
            raise
        if self._record is not None:
            self._status = self._record.status
        self._is_loaded = True

    def on_stop(self) -> None:
        """Answer whoever still waits."""
        for waiting in self._in_flight:
            waiting.reply.fail(RuntimeStoppedError("it stopped before it was known whether this is stored"))
            if waiting.message is not None:
                self._flow.release(1, waiting.message.size)
        self._in_flight.clear()

    def on_failure(self, *_: object) -> None:
        """Answer whoever still waits, and make the source stop: there is nobody to hear it."""
        self.on_stop()
        if self._feed is not None:
            self._feed.cancel()

    def _on_created(self, created: Created) -> None:
        self._record = created.record
        self._status = created.record.status
        self._is_loaded = True
        if created.creation is not None:
            self._tell_gateway(created.creation)
        if created.feed is not None:
            self._feed = created.feed
            self._feed_running = True
            self._feed.start()

    # On the way down: to the database.

    def _on_emit(self, emit: Emit) -> Reply[MessageRecord]:
        if emit.from_source and self._status.is_terminal:
            self.discarded += 1
            self._flow.release(1, emit.message.size)
            discarded: Reply[MessageRecord] = Reply()
            discarded.fail(AgentEndedError(self._agent))
            return discarded
        if emit.for_source and (why := self._refuses_input()):
            self._flow.release(1, emit.message.size)
            raise InputRefusedError(self._agent, why)
        waiting = _InFlight(Reply(), emit.message, emit.for_source)
        self._in_flight.append(waiting)
        self._services.database.tell(Append(self._agent, self._generation, emit.message))
        return waiting.reply

    def _refuses_input(self) -> str | None:
        if self._status.is_terminal:
            return f"is {self._status} and reads no messages any more"
        if self._feed is not None and not self._feed.takes_input:
            return "runs a program that takes no further input"
        return None

    def _on_patch(self, patch: AgentPatch) -> Reply[AgentRecord]:
        waiting = _InFlight(Reply())
        self._in_flight.append(waiting)
        self._services.database.tell(UpdateAgent(self._agent, self._generation, patch))
        return waiting.reply

    def _end(self, status: AgentStatus, **facts: str | None) -> Reply[AgentRecord] | None:
        if self._record is None:
            self._refuse_unknown(status)
            return None
        due = self._ending
        if status is AgentStatus.TERMINATED and due is not None and due.status is AgentStatus.FAILED:
            # It has failed already, and only the database has not taken it yet: that stays the truth.
            status, facts = due.status, {"error_name": due.error_name, "error_message": due.error_message}
        reply = self._change(status, **facts)
        if self._feed is not None:
            self._feed.cancel()
        return reply

    def _change(self, status: AgentStatus, **facts: str | None) -> Reply[AgentRecord]:
        if self._record is None:
            raise AgentNotFoundError(self._agent)
        check_transition(self._agent, self._status, status)
        change = NewStatus(previous=self._status, status=status, at=self._services.now(), **facts)
        self._status = status  # from now on, so that of two changes on their way the second is refused
        waiting = _InFlight(Reply())
        self._in_flight.append(waiting)
        self._services.database.tell(ChangeStatus(self._agent, self._generation, change))
        return waiting.reply

    def _refuse_unknown(self, status: AgentStatus) -> None:
        error = AgentNotFoundError(self._agent)
        logger.warning("cannot make it %s: %s", status, error)
        self._tell_gateway(Notice(self._agent, error.code, str(error)))
        if status is AgentStatus.TERMINATED:
            raise error

    def _on_source_ended(self, ending: Ending) -> None:
        self._feed_running = False
        self._ending = self._ending or ending
        self._end_if_due()

    def _end_if_due(self) -> None:
        """Bring an agent with a source to its end, again if the database refused that."""
        ending = self._ending
        if ending is None or self._status.is_terminal:
            return
        self._endings_tried += 1
        if self._endings_tried > ENDINGS_TRIED:
            self._endings_tried = 0
            later = threading.Timer(ENDING_PAUSE_S, self._services.tell, (self._agent, EndingDue()))
            later.daemon = True
            later.start()
            return
        result = None if ending.result is None else encode_json(ending.result, "result")
        name, message = ending.error_name, ending.error_message
        try:
            self._change(ending.status, error_name=name, error_message=message, result_json=result)
        except IllegalTransitionError as error:  # it never became running, so it cannot have completed
            name, message = type(error).__name__, str(error)
            self._change(AgentStatus.FAILED, error_name=name, error_message=message, result_json=result)

    # On the way up: committed, so it may be told.

    def _on_acknowledged(self, acknowledged: Acknowledged) -> None:
        committed, replies = acknowledged.outcome.committed, acknowledged.outcome.replies
        if committed is not None:
            self._tell_gateway(committed)
        if acknowledged.generation < self._first_generation:
            return  # of an actor that was here before; whoever waited for it was answered when it died
        messages = size = 0
        for reply in replies:
            waiting = self._in_flight.popleft()
            if waiting.message is not None:
                messages += 1
                size += waiting.message.size
            if isinstance(reply, Exception):
                self._on_refused(waiting, reply)
            else:
                self._on_stored(waiting, reply)
        self._flow.release(messages, size)
        self._services.committed(self._agent)
        self._end_if_due()

    def _on_stored(self, waiting: _InFlight, record: MessageRecord | AgentRecord) -> None:
        if isinstance(record, AgentRecord):
            self._record = record
        elif waiting.for_source and self._feed is not None:
            self._feed.deliver(record.content)
        waiting.reply.resolve(record)

    def _on_refused(self, waiting: _InFlight, error: Exception) -> None:
        waiting.reply.fail(error)
        if waiting.message is None:
            if self._record is not None:
                self._status = self._record.status  # what is stored
        else:
            self._generation = next(_generations)
            code, retry = (error.code, error.retryable) if isinstance(error, CommitcastError) else ("internal", False)
            self._tell_gateway(Notice(self._agent, code, str(error), retry))
        if self._feed is not None:
            # What its source said has a hole now, so whatever it says of itself later, it did not complete.
            failed = Ending(status=AgentStatus.FAILED, error_name=type(error).__name__, error_message=str(error))
            self._ending = failed if self._ending is None or self._ending.status is not failed.status else self._ending
            self._feed.cancel()

    def _tell_gateway(self, message: Committed | Notice) -> None:
        try:
            self._services.gateway.tell(message)
        except pykka.ActorDeadError:
            # It is durable; subscribers find it in the store when the gateway is back.
            logger.error("the gateway is not there for %r", message)

    def _retire_if_done(self) -> None:
        if self._in_flight or self._feed_running:
            return
        if (
            (self._record is None or self._status.is_terminal)
            and self._flow.is_idle
            and self._services.retire(self._agent, self)
        ):
            self.stop()
