"""What an agent's actor knows of its source: whether it runs, how it ended, and whether it is started again.

Used from the actor's turns only. Decides; the actor stores and tells.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from commitcast.actors.errors import InboxFullError, InputRefusedError, RuntimeStoppedError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.kernel.supervision import RestartPolicy, Restarts
from commitcast.actors.kernel.timers import Timer
from commitcast.actors.sources.draft import Ending
from commitcast.actors.sources.inbox import Inbox
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.records import AgentStatus, Committed, MessageRecord
from commitcast.persistence.writes import NewMessage, encode_json, new_message

NOT_KNOWN: Final = "it stopped before it was known whether this is stored"
"""What is told to whoever still waits when an agent's actor ends."""

ENDINGS_TRIED: Final = 3
"""How often the end of an agent is tried at once when the database refuses it."""


MAX_REASON_CHARACTERS: Final = 1_000
"""Of an error's text in the message that marks a restart; the whole of it is in the record when the agent fails."""


class SourceRun(Protocol):
    """One run of a source: a `SourceRunner`, which imports the messages, which import this module."""

    takes_input: bool
    """Whether it reads its inbox."""
    inbox: Inbox
    """What was sent to the agent; the same in every run."""

    @property
    def has_processes(self) -> bool:
        """Whether there may be processes of it until it has ended. Ask after `cancel`: then none come to be later."""

    def start(self) -> None:
        """Begin. Does not block."""

    def cancel(self) -> None:
        """Ask it to stop. Does not block; idempotent."""

    def last_words(self) -> list[NewMessage]:
        """Return what it has read and not said yet, once; from then on it says nothing more."""

    def again(self) -> "SourceRun":
        """Return another run of the same source, with the same inbox; not begun yet."""


class HeldEnd(NamedTuple):
    """What an agent's end will be, once nothing of its source lives any more."""

    previous: AgentStatus
    status: AgentStatus
    facts: dict[str, str | None]
    asker: Future[Any] | None


class AgentSource:
    """The source of one agent, over all its runs."""

    def __init__(self, run: SourceRun, policy: RestartPolicy) -> None:
        """Begin with the first run, which is not started yet."""
        self._run = run
        self.restart_timer: Timer | None = None
        """Of the next run, while it is waited for."""
        self._restarts = Restarts(policy)
        self._tries = 0
        self._delivered = 0  # the sequence of the last text that was put into the inbox
        self.is_running = False
        self.ending: Ending | None = None
        """How the agent shall end, until it has; None while nothing is settled."""
        self.held: HeldEnd | None = None
        """The end that was asked for and waits for the source's processes to be gone."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._restarts.count

    @property
    def inbox(self) -> Inbox:
        """What was sent to the agent and is not taken yet; the next run finds it too."""
        return self._run.inbox

    @property
    def has_processes(self) -> bool:
        """Whether processes of it may live: then its agent's end is not told yet. Ask after `cancel`."""
        return self.is_running and self._run.has_processes

    @property
    def has_failed(self) -> bool:
        """Whether it is settled that the agent fails."""
        return self.ending is not None and self.ending.status is AgentStatus.FAILED

    def start(self) -> None:
        """Begin the first run."""
        self.is_running = True
        self._run.start()

    def start_again(self) -> None:
        """Begin another run."""
        self._run = self._run.again()
        self.start()

    def cancel(self) -> bool:
        """Ask the source to stop, and do not run it again; return whether its end is to be waited for."""
        if self.restart_timer is not None:
            self.restart_timer.cancel()
        self._run.cancel()
        return self.has_processes

    def truth(self, status: AgentStatus, facts: dict[str, str | None]) -> tuple[AgentStatus, dict[str, str | None]]:
        """Return how an agent ends that is to end like this: if it has failed already, that stays the truth.

        Only the database has not taken it yet then.
        """
        if status is AgentStatus.TERMINATED and self.ending is not None and self.has_failed:
            return AgentStatus.FAILED, self.ending.error
        return status, facts

    def let_go(self, ending: Ending) -> HeldEnd | None:
        """Take note of the last run's end; return the end that waited for it, with its result if there is no other."""
        self.is_running = False
        held, self.held = self.held, None
        if held is not None and self.ending is not None and self.has_failed:  # something it said was refused meanwhile
            held = held._replace(status=AgentStatus.FAILED, facts=self.ending.error)
        if held is None or ending.result is None or held.facts.get("result_json") is not None:
            return held
        return held._replace(facts={**held.facts, "result_json": encode_json(ending.result, "result")})

    def drop_held(self) -> None:
        """Answer whoever waits for the end that is held back: it is not going to be told here."""
        held, self.held = self.held, None
        if held is not None and held.asker is not None:
            held.asker.fail(RuntimeStoppedError(NOT_KNOWN))

    def last_words(self) -> list[NewMessage]:
        """Return what the source has read and not said yet, if it runs, once; from then on it says nothing more."""
        return self._run.last_words() if self.is_running else []

    def keep_place(self, agent: str, size: int) -> CommitcastError | None:
        """Keep a place in the inbox for a text of so many bytes; return why that cannot be done."""
        if not self._run.takes_input:
            return InputRefusedError(agent, "runs a program that takes no further input")
        return None if self.inbox.reserve(size) else InboxFullError(agent)

    def settle(self, message: NewMessage, reply: object, committed: Committed | None) -> None:
        """Put a text into its place now that it is stored; or give the place back, if it was refused or is a repeat.

        Args:
            message: as it was sent.
            reply: what the store says to it: its record, or of a repeat the record of the first; or an error.
            committed: what was stored with it.
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
        """Keep places for what was sent when the agent was stored and its source was not known yet."""
        for waiting in in_flight:
            if waiting.message is not None and waiting.message.for_source:
                self.inbox.count_in(waiting.message.message.size)

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

    def lost(self, error: Exception) -> None:
        """Take note that something it said was refused: what it says of itself later, it did not complete."""
        if not self.has_failed:
            self.ending = Ending.of(error)
        self.cancel()

    def may_try_ending(self) -> bool:
        """Whether the end may be tried now; if not, later, and then as often again."""
        self._tries = (self._tries + 1) % (ENDINGS_TRIED + 1)
        return self._tries != 0


def restart_notice(ending: Ending, restarts: int, delay_s: float, created_at: str) -> NewMessage:
    """Return the message that marks: what follows is said by another run of the source."""
    why = (ending.error_message or "")[:MAX_REASON_CHARACTERS]
    return new_message(
        f"The source failed ({ending.error_name}: {why}) and is started again in {delay_s:g} s.",
        created_at=created_at,
        type="system",
        metadata={"restart": restarts, "delay_s": delay_s, "error_name": ending.error_name, "error_message": why},
    )
