"""The AgentActor: one agent. Owns its lifecycle, keeps its writes in order, and forwards what was committed.

A message passes here twice: on its way to the DatabaseActor (`_on_emit`) and, once it is committed, on its way to the
GatewayActor (`_on_acknowledged`). Must never tell the gateway or a caller anything that was not acknowledged.
Handlers run one at a time and never block.
"""

import asyncio
import itertools
import logging
from typing import Any, ClassVar, Final, assert_never

import pykka

from commitcast.actors import messages
from commitcast.actors.agent_services import AgentServices
from commitcast.actors.errors import AgentEndedError, InputRefusedError, MailboxFullError, RuntimeStoppedError
from commitcast.actors.kernel.actor import TURN_MESSAGES, Actor
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.kernel.timers import Timer
from commitcast.actors.lifecycle import check_transition
from commitcast.actors.source_state import ENDS, NOT_KNOWN, AgentSource, HeldEnd
from commitcast.actors.sources.draft import Ending
from commitcast.persistence.clock import now
from commitcast.persistence.errors import AgentNotFoundError, CommitcastError, IllegalTransitionError, NotOwnerError
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, StatusChange
from commitcast.persistence.writes import AgentPatch, NewMessage, NewStatus

logger: Final = logging.getLogger(__name__)

MAILBOX_LIMIT_MESSAGES: Final = 4_096
"""Commands that may wait for one agent. Its messages are limited before they get here (`backpressure.py`)."""
_generations: Final = itertools.count(1)
"""Rises over all actors: an actor that is made again must not be taken for the one before it."""


class AgentActor(Actor):
    """One agent."""

    mailbox_limit_messages: ClassVar[int | None] = MAILBOX_LIMIT_MESSAGES

    sleeps_on: ClassVar[bool] = True

    last_sequence: int | None = None
    """Of its stored messages; None while it is not known that the agent is stored. Any thread."""
    is_foreign = False
    """Whether it is at work in another runtime: this actor only passes on what that one is asked. Any thread."""
    _is_last_chance = False  # the runtime stops
    _has_given_up = False  # to come to an end: the database has refused it then

    def __init__(self, agent: str, services: AgentServices, created: messages.Created | None) -> None:
        """Make the actor of an agent that was just created, or with None of one that may be in the store."""
        super().__init__(agent, services.dispatcher)
        self.agent = agent
        self.services = services
        self._created = created
        self._is_loaded = False
        self._stored_status: AgentStatus | None = None  # None: the agent does not exist
        self.status = AgentStatus.INITIALIZING
        """Its status when everything in flight is stored."""
        self._source: AgentSource | None = None
        self._generation = next(_generations)
        self._in_flight: list[Envelope] = []  # all writes that are not acknowledged yet, oldest first
        self._outgoing: list[NewMessage] = []  # the newest of them, which are still to be sent to the database
        self._outgoing_bytes = 0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is in flight, so that a message may be handled inline: a busy agent batches. Any thread."""
        return self._is_loaded and not self._in_flight

    @property
    def source_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that its source runs on; None if that is on none. Any thread."""
        return None if self._source is None else self._source.loop

    @property
    def has_ended(self) -> bool:
        """Whether the agent's end is stored. Any thread."""
        return self._stored_status is not None and self._stored_status.is_terminal

    def on_start(self) -> None:
        """Begin with what was just created. An agent of the store is loaded with the first command, on a worker."""
        if self._created is not None:
            self._on_created(self._created)
            self._created = None

    def on_receive(self, command: messages.AgentCommand) -> Any:
        """Handle one command."""
        if not self._is_loaded or self.is_foreign:  # a foreign one may have ended
            self._load(command)
        if self.is_foreign and self._has_forwarded(command):
            return None
        if isinstance(command, messages.Emit):
            return self._on_emit(command)
        if self._source is not None and isinstance(command, ENDS) and self._source.has_last_words(self, command):
            return None
        if self._outgoing:
            self._send_outgoing()  # what was emitted before the command is stored before it
        match command:
            case messages.Acknowledged():
                return self._on_acknowledged(command)
            case messages.Start():
                return self.change(AgentStatus.RUNNING)
            case messages.Complete(result_json):
                return self._end(AgentStatus.COMPLETED, result_json=result_json)
            case messages.Fail(name, message, result_json):
                return self._end(AgentStatus.FAILED, error_name=name, error_message=message, result_json=result_json)
            case messages.Terminate(reason):
                return self._end(AgentStatus.TERMINATED, reason=reason)
            case messages.Created():
                return self._on_created(command)
            case messages.Patch(patch):
                return self._on_patch(patch)
            case messages.SourceEnded(ending):
                return self._end_orphan() if self._source is None else self._source.on_ended(self, ending)
            case messages.RestartDue():
                return None if self._source is None else self._source.on_restart_due(self)
            case messages.EndingDue():
                return None if self._source is None else self._source.end_if_due(self)
            case messages.RuntimeStopping(ending):
                return self._on_runtime_stopping(ending)
            case _:
                assert_never(command)

    def may_wait(self, waiting: int) -> bool:
        """Whether further messages of the agent are to be sent together, once those in flight are acknowledged."""
        return bool(self._in_flight) and waiting < TURN_MESSAGES

    def on_turn_end(self) -> None:
        """Send the messages of the turn, and retire if there is nothing left to do.

        While earlier writes are unacknowledged, messages wait for that, or until there are a turn's worth: so thousands
        of busy agents add a few messages each to every batch, instead of one message to each of many batches.
        """
        if unanswered := len(self._in_flight):
            outgoing = len(self._outgoing)
            if outgoing and (outgoing == unanswered or outgoing >= TURN_MESSAGES):
                self._send_outgoing()
        else:
            self._retire_if_done()

    # On the way down: to the database.

    def _on_emit(self, emit: messages.Emit) -> None:
        refusal = self._refusal_of(emit) if emit.from_source or emit.for_source else None
        if refusal is None:
            asker, self._asker = self._asker, None  # `defer_reply`, without a call for every token
            self._in_flight.append(Envelope(emit, asker))
            self._outgoing.append(emit.message)
            self._outgoing_bytes += emit.message.size
            return
        self.on_dropped(emit)
        if (asker := self.defer_reply()) is not None:
            self.services.refuse(self.agent, emit.message, refusal, asker)

    def _send_outgoing(self) -> None:
        append = messages.Append(self.agent, self.number, self._generation, self._outgoing, self._outgoing_bytes)
        self._outgoing, self._outgoing_bytes = [], 0
        self.services.database.tell(append)

    def _refusal_of(self, emit: messages.Emit) -> CommitcastError | None:
        """Return why a message is refused; for an accepted text to the source, a place in the inbox is reserved."""
        if emit.from_source and self.status.is_terminal:
            return AgentEndedError(self.agent)
        if not emit.for_source:
            return None
        if self.status.is_terminal:
            return InputRefusedError(self.agent, f"is {self.status} and no longer reads messages")
        return None if self._source is None else self._source.keep_place(self.agent, emit.message.size)

    # On the way up: committed, so it may be cast.

    def _on_acknowledged(self, acknowledged: messages.Acknowledged) -> None:
        if acknowledged.actor == self.number:
            self._settle(acknowledged)
        elif acknowledged.committed is not None:  # for an actor that was here before: it has answered its callers
            for change in acknowledged.committed.changes:
                self._stored_status = change.status
                if change.status.is_terminal or not self.status.is_terminal:  # else an end of its own is on its way
                    self.status = change.status
        if acknowledged.committed is not None:
            self.last_sequence = acknowledged.committed.last  # before the look for readers, who look here after
            self._cast(acknowledged.committed)
            if (log := self.services.readers.get(self.agent)) is not None:
                log.publish(acknowledged.committed, acknowledged.replies, self.services.readers.share_bytes)
        if self._source is not None:
            self._source.end_if_due(self)

    def _settle(self, acknowledged: messages.Acknowledged) -> None:
        answered = count = size = 0
        try:
            for reply in acknowledged.replies:
                waiting = self._in_flight[answered]
                answered += 1
                emit, asker = waiting.message, waiting.reply_to
                if emit is not None:
                    count += 1
                    size += emit.message.size
                    if emit.for_source and self._source is not None:
                        self._source.settle(emit.message, reply, acknowledged.committed)
                elif isinstance(reply, (AgentRecord, StatusChange)):
                    self._stored_status = reply.status
                if isinstance(reply, Exception):
                    self._on_refused(waiting, reply)
                elif asker is not None:
                    asker.set(reply)
        finally:
            del self._in_flight[:answered]
            if count:
                self.services.credit.release(self.agent, count, size)

    def _on_refused(self, waiting: Envelope, error: Exception) -> None:
        if waiting.reply_to is not None:
            waiting.reply_to.fail(error)
        if waiting.message is None:
            self._has_given_up = self._is_last_chance  # the next start ends it
            if isinstance(error, IllegalTransitionError):
                self._stored_status = AgentStatus(error.previous)  # another change was faster
            if self._stored_status is not None:
                self.status = self._stored_status
        else:
            self._generation = next(_generations)
            code, retry = (error.code, error.retryable) if isinstance(error, CommitcastError) else ("internal", False)
            self._cast(messages.Notice(self.agent, code, str(error), retry))
        if self._source is not None:
            self._source.lost(error)

    def _cast(self, message: Committed | messages.Notice) -> None:
        try:
            self.services.cast(message)
        except (pykka.ActorDeadError, MailboxFullError) as error:
            # It is durable: subscribers find it in the store, where the next heartbeat sends them.
            self.dispatcher.dead_letters.add("gateway", message, str(error))

    # Its life.

    def _load(self, command: messages.AgentCommand) -> None:
        self._is_last_chance = self._is_last_chance or isinstance(command, messages.RuntimeStopping)
        if self._is_last_chance:
            return  # it is told to end, and nothing else is done for it
        try:
            record = self.services.reader.agent(self.agent)
        except BaseException:  # whatever it is, the credit is given back
            self.on_dropped(command)
            raise
        if record is not None:
            self.last_sequence = record.head
            self._stored_status = self.status = record.status
            self.is_foreign = not record.status.is_terminal and not self.services.owns(self.agent)
        self._is_loaded = True

    def _has_forwarded(self, command: messages.AgentCommand) -> bool:
        """Have the runtime of this agent do what it alone can; return whether this is that. Raises `NotOwnerError`."""
        match command:
            case messages.Terminate(reason):
                self._forward("terminate", [self.agent, reason])
            case messages.Emit(message, for_source=True):
                self.on_dropped(command)
                self._forward("send", [self.agent, message.content, message.key])
            case messages.Emit() | messages.Start() | messages.Complete() | messages.Fail():
                self.on_dropped(command)
                raise NotOwnerError(self.agent)
            case messages.RuntimeStopping():
                pass
            case _:
                return False
        return True

    def _forward(self, method: str, arguments: list[Any]) -> None:
        asker = self.defer_reply()
        self.services.forward_for(asker, self.agent, method, arguments)

    def _on_created(self, created: messages.Created) -> None:
        if self._stored_status is None:  # else a command was faster, and this actor knows more than the creation
            self.last_sequence = created.record.head
            self._stored_status = self.status = created.record.status
        self._is_loaded = True
        if created.creation is not None:
            self._cast(created.creation)
        if created.source is not None and not self.status.is_terminal:
            self._source = created.source
            self._source.expect(self._in_flight)
            self._source.begin(self)

    def _on_patch(self, patch: AgentPatch) -> None:
        self.services.database.tell(messages.UpdateAgent(self.agent, self.number, self._generation, patch))
        self._in_flight.append(Envelope(None, self.defer_reply()))

    def _end(self, status: AgentStatus, **facts: str | None) -> None:
        if self._stored_status is None:
            self._refuse_unknown(status)
            return
        source = self._source
        if source is not None:
            status, facts = source.truth(status, facts)
        check_transition(self.agent, self.status, status)
        if source is not None and source.cancel():  # its processes are dead before the end is stored
            source.held = HeldEnd(self.status, status, facts, self.defer_reply())
            self.status = status
        else:
            self.change(status, **facts)

    def change(self, status: AgentStatus, **facts: str | None) -> None:
        """Have a change of status stored. Raises `AgentNotFoundError`, `IllegalTransitionError`."""
        if self._stored_status is None:
            raise AgentNotFoundError(self.agent)
        check_transition(self.agent, self.status, status)
        change = NewStatus(
            previous=self.status,
            status=status,
            at=now(),
            wants_record=self.is_asked or self._is_waited_for(),
            **facts,
        )
        self.services.database.tell(messages.ChangeStatus(self.agent, self.number, self._generation, change))
        self.status = status  # from now on, so that of two changes on their way the second is refused
        self._in_flight.append(Envelope(None, self.defer_reply()))

    def _is_waited_for(self) -> bool:
        log = self.services.readers.get(self.agent)
        return log is not None and log.is_waited_for

    def _on_runtime_stopping(self, ending: messages.Terminate | messages.Fail) -> None:
        self._is_last_chance = True
        if self._stored_status is not None and not self.status.is_terminal:
            self.on_receive(ending)

    def _refuse_unknown(self, status: AgentStatus) -> None:
        error = AgentNotFoundError(self.agent)
        logger.warning("cannot change its status to %s: %s", status, error)
        self._cast(messages.Notice(self.agent, error.code, str(error)))
        if status is AgentStatus.TERMINATED:
            raise error

    def _end_orphan(self) -> None:
        """End an agent whose source has ended, and whose actor failed before this one was made."""
        if self._stored_status is not None and not self.status.is_terminal:
            why = "The agent's actor failed while its source was running. Its earlier messages are kept."
            self.change(AgentStatus.FAILED, error_name="ActorFailed", error_message=why)

    def _retire_if_done(self) -> None:
        if self._is_last_chance:  # later commands are refused, and a source is not waited for here
            is_done = self._has_given_up or self._stored_status is None or self._stored_status.is_terminal
        elif not self._is_loaded:  # its only command was cancelled
            is_done = True
        else:
            is_running = self._source is not None and self._source.is_running
            is_settled = self._stored_status is None or self.status.is_terminal or self.is_foreign
            is_done = not is_running and is_settled
            is_done = is_done and self.services.credit.is_idle(self.agent)
        if is_done:
            self.services.directory.retire(self)

    def on_dropped(self, message: Any) -> None:
        """Release the credit of a message that will not be stored."""
        if isinstance(message, messages.Emit):
            self.services.credit.release(self.agent, 1, message.message.size)

    def on_stop(self) -> None:
        """Answer the callers that still wait."""
        in_flight, self._in_flight, self._outgoing = self._in_flight, [], []
        if self._source is not None:
            self._source.drop_held()
        for waiting in in_flight:
            if waiting.reply_to is not None and not waiting.reply_to.done():
                waiting.reply_to.fail(RuntimeStoppedError(NOT_KNOWN))
            self.on_dropped(waiting.message)

    def on_failure(self, *_: object) -> None:
        """Answer the callers that still wait, and make the source stop: nothing receives it any more."""
        self.on_stop()
        if self._source is not None:
            self._source.cancel()
            if not self._source.is_running:  # nothing else will tell the next actor of this agent to end it
                self.services.directory.tell(self.agent, messages.SourceEnded(Ending(status=AgentStatus.FAILED)))

    def drain_closed_mailbox(self) -> None:
        """Hand what came after the end to the next actor of this agent."""
        self.services.directory.redeliver(self)

    # For its source.

    def emit_own(self, message: NewMessage) -> None:
        """Store a message of the runtime's own, whatever the agent's bound."""
        self.services.credit.force_acquire(self.agent, message.size)
        self._on_emit(messages.Emit(message))

    def end_at_last(self, held: HeldEnd) -> None:
        """Bring about the end that was held back, and answer its caller."""
        self.status = held.previous if self.status.is_terminal else self.status
        self._asker = held.asker
        self._end(held.status, **held.facts)

    def tell_later(self, delay_s: float, command: messages.AgentCommand) -> Timer:
        """Send a command to this agent after a time, to a later actor if this one has ended."""
        agent, directory = self.agent, self.services.directory
        return self.dispatcher.call_later(delay_s, lambda: directory.tell(agent, command))
