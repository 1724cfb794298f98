"""The DatabaseActor: the one writer of a runtime. Collects what waits, has it committed together, and acknowledges.

Owns the order of everything that is stored. Must never acknowledge before the commit has returned. It commits by a
`Writer` (`backend.py`): one that commits on the actor's own thread, which blocks for it, or one that sends batches to
the server process, and then the actor takes its turns on the threads of others. The batch is what arrived during the
last commit, so no timer is needed.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, assert_never

import msgspec

from commitcast.actors import messages
from commitcast.actors.backend import Writer
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor, RunTogether
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.persistence.errors import NotStoredError, PrecedingRefusedError, StoreUnknownError
from commitcast.persistence.writes import (
    AgentWrites,
    NewAgent,
    NewMessage,
    Outcome,
    Write,
    needs_preceding,
)

logger: Final = logging.getLogger(__name__)

BATCH_ROWS: Final = 4_096
BATCH_BYTES: Final = 8 * 1024 * 1024
"""What one transaction holds at most: a larger batch is not faster, and its acknowledgements come late."""
SMALL_BATCH_AGENTS: Final = 64
"""The acknowledgements of up to this many agents are handled on the writer's own thread: handing a few of them to
another takes longer than handling them, and what those agents say next belongs into one batch."""
FEW_AGENTS: Final = 16
"""Up to this many agents are acknowledged before the next batch is given to the writer, so that it has what they say
next. Else half of the agents of a closed loop would always wait for the commit of the other half: 16 of them were half
as fast. With more agents the writer would be idle meanwhile for too long."""
NO_ACTOR: Final = 0
"""In place of an actor's number, for the creation of an agent, which has none yet."""
REMEMBERED_REFUSALS: Final = 65_536

_NOTHING: Final = Outcome(None, [])

_OfAgent = messages.Append | messages.ChangeStatus | messages.UpdateAgent


def _has_message(writes: Sequence[Write]) -> bool:
    return any(isinstance(write, NewMessage) for write in writes)


class _Group(msgspec.Struct, gc=False):
    """One agent's part of the batch: its writes, and those among them that are refused beforehand."""

    actor: int
    creation: "_Creation | None" = None
    generation: int = 0
    """Of the last write."""
    writes: list[Write] = []
    refusals: list[tuple[int, Exception]] | None = None
    """Each with its place among all."""

    def refuse(self, error: Exception) -> None:
        """Answer one more write with an error."""
        if self.refusals is None:
            self.refusals = []
        self.refusals.append((len(self.writes) + len(self.refusals), error))

    def refuse_dependent(self, error: Exception) -> None:
        """Answer those writes with an error that would be wrong without what came before them."""
        writes, refused = self.writes, dict(self.refusals or ())
        places = (place for place in range(len(writes) + len(refused)) if place not in refused)
        self.writes = []
        for place, write in list(zip(places, writes, strict=True)):
            if needs_preceding(write):
                refused[place] = error
            else:
                self.writes.append(write)
        self.refusals = sorted(refused.items())

    def merge(self, replies: list[Any]) -> list[Any]:
        """Return one answer for each write, in order, given those of the writes that were not refused beforehand."""
        merged = list(replies)
        for place, error in self.refusals or ():
            merged.insert(place, error)
        return merged


class _Batch(msgspec.Struct, gc=False):
    """What is committed together, or was."""

    groups: dict[str, _Group]
    rows: int
    number: int = 0
    """As the writer counts them."""
    answer: "list[Outcome] | Exception | None" = None
    """None: it is not known yet."""


class _Committed(msgspec.Struct, frozen=True, gc=False):
    """To itself: a batch was answered."""

    batch: _Batch
    answer: list[Outcome] | Exception


class _Creation:
    """A `CreateAgents` that waits for its commit."""

    def __init__(self, agents: tuple[tuple[str, NewAgent], ...], asker: Future[Any] | None) -> None:
        self._order = [agent for agent, _ in agents]
        self._asker = asker
        self._outcomes: dict[str, Outcome] = {}

    def answer(self, agent: str, outcome: Outcome) -> None:
        """Take what became of one of them; answer when it was the last."""
        self._outcomes[agent] = outcome
        if len(self._outcomes) == len(self._order) and self._asker is not None:
            self._asker.set([self._outcomes[agent] for agent in self._order])


class DatabaseActor(PinnedActor):
    """The one writer of a store."""

    def __init__(
        self,
        writer: Writer,
        *,
        acknowledge: Callable[[str, messages.Acknowledged], object],
        on_fatal: Callable[[Exception], object],
        run_together: RunTogether,
        dispatcher: Dispatcher | None = None,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        """Make the actor.

        Args:
            writer: of an open store; only this actor uses it.
            acknowledge: delivers the answers to an agent's writes to the agent's actor.
            on_fatal: called once when the outcome of a commit is unknown; nothing is written after that.
            run_together: of the dispatcher of the agents; see `Dispatcher.run_together`.
            dispatcher: gives it turns instead of a thread of its own.
            dead_letters: where undeliverable messages are counted.
        """
        super().__init__(writer.name, dispatcher, dead_letters)
        self.follows_its_senders = self.sleeps_on = writer.answers_later  # type: ignore[misc]  # by the writer
        self._writer = writer
        self._acknowledge = acknowledge
        self._on_fatal = on_fatal
        self._run_together = run_together
        self._groups: dict[str, _Group] = {}
        self._rows = 0
        self._bytes = 0
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._waiting: deque[_Batch] = deque()
        """Batches that are full, and wait until the writer takes them."""
        self._unacknowledged: deque[_Batch] = deque()
        """Batches that follow those, with the writer or answered, in the order in which agents are told of them."""
        self._noted = 0
        """The last batch of whose refusals it knows."""
        self._fatal: Exception | None = None

    def on_receive(self, command: messages.DatabaseCommand | _Committed) -> Any:
        """Put a command into the batch. What waits in the mailbox joins it until it is full."""
        match command:
            case messages.Append():
                self._add(command, command.messages, command.size)
            case messages.ChangeStatus(change=write) | messages.UpdateAgent(patch=write):
                self._add(command, [write], write.size)
            case messages.CreateAgents(agents):
                return self._add_creation(agents)
            case _Committed(batch, answer):
                self._note_refusals(batch, answer)
                if len(batch.groups) > FEW_AGENTS:
                    self._submit()  # before the acknowledgements, so that the writer has work meanwhile
                self._answer(batch, answer)
            case _:
                assert_never(command)

    def may_wait(self, waiting: int) -> bool:
        """Whether the writer takes nothing more before it has answered: then what comes is collected at that time."""
        return self._fatal is None and not self._writer.may_submit(self._rows + waiting)

    def on_turn_end(self) -> None:
        """Commit what was collected: nothing else waits."""
        self._submit()

    def on_stop(self) -> None:
        """Answer what the writer has not taken."""
        self._give_up(RuntimeStoppedError())

    def on_failure(self, *failure: Any) -> None:
        """Answer all writes that the writer has not taken: nothing more is stored."""
        self._give_up(StoreUnknownError(f"the writer of {self._writer.name} failed: {failure[1]!r}"))

    def _give_up(self, error: Exception) -> None:
        self._fatal = self._fatal or error
        self._submit()

    def reject(self, envelope: Envelope) -> None:
        """Answer a command that came after the end."""
        why = RuntimeStoppedError() if self._fatal is None else NotStoredError(str(self._fatal))
        command = envelope.message
        if isinstance(command, _OfAgent):
            writes = len(command.messages) if isinstance(command, messages.Append) else 1
            self._acknowledge(command.agent, messages.Acknowledged(None, [why] * writes, command.actor))
        elif isinstance(command, messages.CreateAgents) and envelope.reply_to is not None:
            envelope.reply_to.fail(why)
        elif isinstance(command, _Committed):
            self._answer(command.batch, command.answer)
        else:
            super().reject(envelope)

    def _add(self, command: _OfAgent, writes: Sequence[Write], size: int) -> None:
        agent = command.agent
        if self._rows and (self._rows + len(writes) > BATCH_ROWS or self._bytes + size > BATCH_BYTES):
            self._close_batch()
            self._submit()
        group = self._groups.get(agent)
        if group is not None and group.actor != command.actor:
            self._close_batch()  # each actor is told of its own writes
            group = None
        if group is None:
            group = self._groups[agent] = _Group(command.actor)
        group.generation = command.generation
        if self._refused and self._is_refused(agent, command.generation) and needs_preceding(writes[0]):
            for _ in writes:
                group.refuse(PrecedingRefusedError(agent))
        else:
            group.writes += writes
        self._rows += len(writes)
        self._bytes += size
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._submit()

    def _is_refused(self, agent: str, generation: int) -> bool:
        if (refused := self._refused.get(agent)) is None:
            return False
        if generation > refused:
            del self._refused[agent]
            return False
        return True

    def _add_creation(self, agents: tuple[tuple[str, NewAgent], ...]) -> list[Outcome] | None:
        if not agents:
            return []
        size = sum(new.size for _, new in agents)
        is_full = self._rows + len(agents) > BATCH_ROWS or self._bytes + size > BATCH_BYTES
        if is_full or any(agent in self._groups for agent, _ in agents):
            self._close_batch()
        creation = _Creation(agents, self.defer_reply())
        for agent, new in agents:
            group = self._groups[agent] = _Group(NO_ACTOR)
            group.creation = creation
            group.writes.append(new)
            self._rows += 1 + len(new.messages)
        self._bytes += size
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._submit()
        return None

    def _close_batch(self) -> None:
        """Add nothing more to what was collected, and have it committed as soon as the writer takes it."""
        if self._groups:
            self._waiting.append(_Batch(self._groups, self._rows))
            self._groups = {}
            self._rows = self._bytes = 0

    def _submit(self) -> None:
        """Give the writer what it takes now: full batches, and then what was collected."""
        while self._waiting or self._groups:
            rows = self._waiting[0].rows if self._waiting else self._rows
            if self._fatal is None and not self._writer.may_submit(rows):
                return
            if not self._waiting:
                self._close_batch()
            batch = self._waiting.popleft()
            self._unacknowledged.append(batch)
            work: list[AgentWrites] = []
            for agent, group in batch.groups.items():
                if group.writes:
                    work.append(AgentWrites(agent, group.writes))
            if self._fatal is not None:
                self._answer(batch, NotStoredError(str(self._fatal)))
            elif not work:
                self._answer(batch, [])
            else:
                answered = self._tell_committed if self._writer.answers_later else self._answer
                batch.number = self._writer.submit(work, rows, partial(answered, batch), self._noted)

    def _note_refusals(self, batch: _Batch, answer: list[Outcome] | Exception) -> None:
        """Refuse what was collected meanwhile of agents of which a message was refused: it would leave a gap.

        What was sent meanwhile the writer refuses. What an agent has sent since it knows of the refusal is accepted.
        """
        self._noted = max(self._noted, batch.number)
        of_the_stored = iter(() if isinstance(answer, Exception) else answer)
        for agent, group in batch.groups.items():
            if not group.writes:
                continue
            is_refused = _has_message(group.writes) if isinstance(answer, Exception) else next(of_the_stored).refused
            if is_refused:
                for collected in (*(waiting.groups for waiting in self._waiting), self._groups):
                    if agent in collected and collected[agent].generation <= group.generation:
                        collected[agent].refuse_dependent(PrecedingRefusedError(agent))

    def _tell_committed(self, batch: _Batch, answer: list[Outcome] | Exception) -> None:
        """Take an answer on the thread of the writer: in a turn of this actor, which is taken there if it is idle."""
        told = Envelope(_Committed(batch, answer))
        self._run_together(lambda: self.actor_inbox.put(told), inline=True)

    def _answer(self, batch: _Batch, answer: list[Outcome] | Exception) -> None:
        """Acknowledge a batch, once it is known what became of it and of all before it."""
        if not isinstance(answer, list | NotStoredError):
            self._stop_writing(answer)
        batch.answer = answer
        while self._unacknowledged and self._unacknowledged[0].answer is not None:
            known = self._unacknowledged.popleft()
            is_small = self._writer.answers_later or len(known.groups) <= SMALL_BATCH_AGENTS
            self._run_together(partial(self._acknowledge_all, known), inline=is_small)

    def _acknowledge_all(self, batch: _Batch) -> None:
        failure = batch.answer if isinstance(batch.answer, Exception) else None
        of_the_stored = iter(batch.answer if isinstance(batch.answer, list) else ())
        for agent, group in batch.groups.items():
            if not group.writes:
                outcome = _NOTHING
            elif failure is None:
                outcome = next(of_the_stored)
            else:
                outcome = Outcome(None, [failure] * len(group.writes), _has_message(group.writes))
            if outcome.refused:
                self._remember_refusal(agent, group.generation)
            if group.creation is not None:
                group.creation.answer(agent, outcome)
            else:
                replies = outcome.replies if group.refusals is None else group.merge(outcome.replies)
                self._acknowledge(agent, messages.Acknowledged(outcome.committed, replies, group.actor))

    def _remember_refusal(self, agent: str, generation: int) -> None:
        self._refused[agent] = generation
        while len(self._refused) > REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)

    def _stop_writing(self, error: Exception) -> None:
        if self._fatal is None:
            self._fatal = error
            logger.critical("%s: %s", self._writer.name, error)
            self._on_fatal(error)
