"""The source of an agent, for its actor: whether it runs, how it ended, and whether it is started again.

Owns what follows from a source's end: another run, or the end of its agent; and what an end of the agent waits for,
which is all that its source has read, and the end of its source's processes. Used from the actor's turns only.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from commitcast.actors import messages
from commitcast.actors.errors import InboxFullError, InputRefusedError, RuntimeStoppedError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.kernel.supervision import RestartPolicy, Restarts
from commitcast.actors.kernel.timers import Timer
from commitcast.actors.sources.draft import Ending
from commitcast.actors.sources.inbox import Inbox
from commitcast.persistence.clock import now
from commitcast.persistence.errors import CommitcastError, IllegalTransitionError
from commitcast.persistence.records import AgentStatus, Committed, MessageRecord
from commitcast.persistence.writes import NewMessage, encode_json, new_message

if TYPE_CHECKING:
    from commitcast.actors.agent import AgentActor
    from commitcast.actors.sources.runner import SourceRunner

NOT_KNOWN: Final = "it stopped before the commit was confirmed, so this may or may not be stored"
"""The answer to callers that still wait when an agent's actor ends."""
ENDINGS_TRIED: Final = 3
"""How often the end of an agent is tried at once when the database refuses it."""
ENDING_PAUSE_S: Final = 1.0
"""How long it waits after that, before it is tried again."""
MAX_REASON_CHARACTERS: Final = 1_000
"""Of an error's text in the message that marks a restart; the whole text is in the record when the agent fails."""
ENDS: Final = (messages.Complete, messages.Fail, messages.Terminate, messages.SourceEnded)
"""Commands that end an agent."""


class HeldEnd(NamedTuple):
    """The end of an agent, held back until all processes of its source are dead."""

    previous: AgentStatus
    status: AgentStatus
    facts: dict[str, str | None]
    asker: Future[Any] | None


class AgentSource:
    """The source of one agent, over all its runs."""

    def __init__(self, run: "SourceRunner", policy: RestartPolicy) -> None:
        """Begin with the first run, which is not started yet."""
        self._run = run
        self._restart_timer: Timer | None = None  # of the next run, during the backoff
        self._restarts = Restarts(policy)
        self._tries = 0
        self._delivered = 0  # the sequence of the last text that was put into the inbox
        self._first_end: messages.AgentCommand | None = None  # waits for the last words
        self.is_running = False
        self.ending: Ending | None = None
        """How the agent is to end; None while that is not settled."""
        self.held: HeldEnd | None = None
        """The requested end, which waits until the source's processes are dead."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._restarts.count

    @property
    def inbox(self) -> Inbox:
        """Messages that the agent was sent and has not read yet; the next run has it too."""
        return self._run.inbox

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that its run is on; None if it is on none. Any thread."""
        return self._run.loop if self.is_running else None

    @property
    def has_processes(self) -> bool:
        """Whether it may have live processes: then its agent's end is not told yet. Ask after `cancel`."""
        return self.is_running and self._run.has_processes

    @property
    def has_failed(self) -> bool:
        """Whether it is settled that the agent fails."""
        return self.ending is not None and self.ending.status is AgentStatus.FAILED

    # Its runs.

    def begin(self, agent: "AgentActor") -> None:
        """Begin the run; one that cannot be started has failed."""
        try:
            self.start()
        except Exception as error:  # no thread to be had, its loop is closed: the agent must come to an end
            self.on_ended(agent, Ending.of(error))

    def start(self) -> None:
        """Begin the run."""
        self.is_running = True
        self._run.start()

    def renew(self) -> None:
        """Have another run to be begun."""
        self._run = self._run.again()

    def cancel(self) -> bool:
        """Ask the source to stop, and do not run it again; return whether its end is to be waited for."""
        if self._restart_timer is not None:
            self._restart_timer.cancel()
        self._run.cancel()
        return self.has_processes

    def on_ended(self, agent: "AgentActor", ending: Ending) -> None:
        """Start another run after the backoff, or bring the agent to its end."""
        if agent.status.is_terminal or self.held is not None:
            if (held := self.let_go(ending)) is not None:
                agent.end_at_last(held)
        elif (delay_s := self.ended(ending, agent.dispatcher.now())) is None:
            self.end_if_due(agent)
        else:
            agent.emit_own(_restart_notice(ending, self.restarts, delay_s))
            self._restart_timer = agent.tell_later(delay_s, messages.RestartDue())

    def ended(self, ending: Ending, now: float) -> float | None:
        """Take note of a run's end.

        Returns:
            After how many seconds it is to be started again; None if this was the last run, and `ending` is settled.
        """
        self.is_running = False
        if self.ending is None and ending.status is AgentStatus.FAILED:
            delay_s = self._restarts.after_failure(now)
            if delay_s is not None:
                return delay_s
        self.ending = self.ending or ending
        return None

    def on_restart_due(self, agent: "AgentActor") -> None:
        """Begin another run, unless the agent is at its end meanwhile."""
        if not agent.status.is_terminal and self.ending is None:
            self.renew()
            self.begin(agent)

    def lost(self, error: Exception) -> None:
        """Take note that one of its messages was refused: the agent fails, however the source ends."""
        if not self.has_failed:
            self.ending = Ending.of(error)
        self.cancel()

    # The end of its agent.

    def has_last_words(self, agent: "AgentActor", end: messages.AgentCommand) -> bool:
        """Return whether one of `ENDS` has to wait for the source's last words: then it comes once more, after them.

        They are what it has read and not emitted yet. They go through the mailbox because what it emitted just before
        is in it too.
        """
        if end is self._first_end:
            self._first_end = None
            return False
        if self._first_end is None:
            is_its_own = isinstance(end, messages.SourceEnded)  # then it has emitted everything before
            words = self._run.last_words() if self.is_running and not is_its_own else []
            if not words:
                return False
            self._first_end = end
            for message in words:
                agent.services.credit.force_acquire(agent.agent, message.size)
                agent.actor_inbox.put(Envelope(messages.Emit(message, from_source=True)))
        agent.actor_inbox.put(Envelope(end, _still_wanted(agent.defer_reply())))
        return True

    def truth(self, status: AgentStatus, facts: dict[str, str | None]) -> tuple[AgentStatus, dict[str, str | None]]:
        """Return how an agent ends that was asked to end like this: a failure that is not stored yet comes first."""
        if status is AgentStatus.TERMINATED and self.ending is not None and self.has_failed:
            return AgentStatus.FAILED, self.ending.error
        return status, facts

    def let_go(self, ending: Ending) -> HeldEnd | None:
        """Take note of the last run's end; return the end that waited for it, with the run's result if it has none."""
        self.is_running = False
        held, self.held = self.held, None
        if held is not None and self.ending is not None and self.has_failed:  # one of its messages was refused
            held = held._replace(status=AgentStatus.FAILED, facts=self.ending.error)
        if held is None or ending.result is None or held.facts.get("result_json") is not None:
            return held
        return held._replace(facts={**held.facts, "result_json": encode_json(ending.result, "result")})

    def drop_held(self) -> None:
        """Answer the caller of the end that is held back: this actor will not bring it about."""
        held, self.held = self.held, None
        if held is not None and held.asker is not None:
            held.asker.fail(RuntimeStoppedError(NOT_KNOWN))

    def end_if_due(self, agent: "AgentActor") -> None:
        """Bring the agent to its end if the source is at its own, again if the database refused that."""
        ending = self.ending
        if ending is None or self.has_processes or agent.status.is_terminal:
            return
        if not self.may_try_ending():
            agent.tell_later(ENDING_PAUSE_S, messages.EndingDue())
            return
        result = None if ending.result is None else encode_json(ending.result, "result")
        try:
            agent.change(ending.status, result_json=result, **ending.error)
        except IllegalTransitionError as error:  # it never became running, so it cannot have completed
            name, message = type(error).__name__, str(error)
            agent.change(AgentStatus.FAILED, error_name=name, error_message=message, result_json=result)

    def may_try_ending(self) -> bool:
        """Whether the end may be tried now; if not, later, and then as often again."""
        self._tries = (self._tries + 1) % (ENDINGS_TRIED + 1)
        return self._tries != 0

    # Texts for it.

    def keep_place(self, agent: str, size: int) -> CommitcastError | None:
        """Reserve a place in the inbox for a text of `size` bytes; return why that cannot be done."""
        if not self._run.takes_input:
            return InputRefusedError(agent, "runs a program that does not accept further input")
        return None if self.inbox.reserve(size) else InboxFullError(agent)

    def settle(self, message: NewMessage, reply: object, committed: Committed | None) -> None:
        """Put a text into its place now that it is stored; or give the place back, if it was refused or is a repeat.

        Args:
            message: as it was sent.
            reply: of the store: its record, or of a repeat the record of the first; or an error.
            committed: everything that was stored with it.
        """
        if (
            isinstance(reply, MessageRecord)
            and committed is not None
            and reply.sequence > max(committed.previous, self._delivered)
        ):
            self._delivered = reply.sequence
            self.inbox.settle(reply.content, message.size)
        else:
            self.inbox.settle(None, message.size)

    def expect(self, in_flight: Iterable[Envelope]) -> None:
        """Reserve places for texts that were sent when the agent was stored and its source was not known yet."""
        for waiting in in_flight:
            if waiting.message is not None and waiting.message.for_source:
                self.inbox.count_in(waiting.message.message.size)


def _still_wanted(asker: Future[Any] | None) -> Future[Any] | None:
    """Return a future that answers the asker: what was begun goes on, also if the asker cancels meanwhile."""
    if asker is None:
        return None
    answer: Future[Any] = Future()
    answer.add_done_callback(lambda _: asker.complete_by(answer.get))
    return answer


def _restart_notice(ending: Ending, restarts: int, delay_s: float) -> NewMessage:
    """Return the message that marks a restart: later messages are of another run of the source."""
    why = (ending.error_message or "")[:MAX_REASON_CHARACTERS]
    return new_message(
        f"The source failed ({ending.error_name}: {why}) and will be restarted in {delay_s:g} s.",
        created_at=now(),
        type="system",
        metadata={"restart": restarts, "delay_s": delay_s, "error_name": ending.error_name, "error_message": why},
    )
