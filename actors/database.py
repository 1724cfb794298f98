"""The DatabaseActor: the one writer. Collects what is waiting, commits it together, and acknowledges.

Owns the order of everything that is stored and the rule of what happens when the database refuses. Must never
acknowledge before the commit has returned, and must never repeat a commit whose outcome is unknown. Runs on a thread
of its own, which blocks for each commit; the batch is what arrived meanwhile, so no timer is needed.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, assert_never

import msgspec

from commitcast.actors import messages
from commitcast.actors.backend import Writer
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor, RunTogether
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.metrics import CommitStats
from commitcast.persistence.errors import (
    NotStoredError,
    PrecedingRefusedError,
    StoreUnavailableError,
    StoreUnknownError,
)
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
NO_ACTOR: Final = 0
"""In place of an actor's number, for the creation of an agent, which has none yet."""
RETRY_S: Final = 0.5
"""Between two attempts at a commit that the store refuses for the moment."""
REMEMBERED_REFUSALS: Final = 65_536

_NOTHING: Final = Outcome(None, [])

_OfAgent = messages.Append | messages.ChangeStatus | messages.UpdateAgent


def _is_message(write: Write) -> bool:
    return isinstance(write, NewMessage)


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

    def merge(self, replies: list[Any]) -> list[Any]:
        """Return one answer for each write, in order, given those of the writes that were not refused beforehand."""
        merged = list(replies)
        for place, error in self.refusals or ():
            merged.insert(place, error)
        return merged


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
        store: Writer,
        *,
        acknowledge: Callable[[str, messages.Acknowledged], object],
        on_fatal: Callable[[Exception], object],
        give_up: threading.Event,
        run_together: RunTogether,
        dispatcher: Dispatcher | None = None,
        dead_letters: DeadLetters | None = None,
        commits: CommitStats | None = None,
    ) -> None:
        """Make the actor.

        Args:
            store: open; only this actor calls its `commit`.
            acknowledge: delivers the answers to an agent's writes to the agent's actor.
            on_fatal: called once when the outcome of a commit is unknown; nothing is written after that.
            give_up: once set, a full disk, a lock and the like are no longer waited for.
            run_together: of the dispatcher of the agents; see `Dispatcher.run_together`.
            dispatcher: gives it turns instead of a thread of its own.
            dead_letters: where undeliverable messages are counted.
            commits: counts commits.
        """
        super().__init__(store.name, dispatcher, dead_letters)
        self._store = store
        self._acknowledge = acknowledge
        self._on_fatal = on_fatal
        self._give_up = give_up
        self._run_together = run_together
        self._groups: dict[str, _Group] = {}
        self._rows = 0
        self._bytes = 0
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._fatal: Exception | None = None
        self._commits = commits or CommitStats()

    def on_receive(self, command: messages.DatabaseCommand) -> Any:
        """Put a command into the batch. What waits in the mailbox joins it until it is full."""
        match command:
            case messages.Append():
                self._add(command, command.messages, command.size)
            case messages.ChangeStatus(change=write) | messages.UpdateAgent(patch=write):
                self._add(command, [write], write.size)
            case messages.CreateAgents(agents):
                return self._add_creation(agents)
            case _:
                assert_never(command)

    def on_turn_end(self) -> None:
        """Commit what was collected: nothing else waits."""
        self._commit_batch()

    def on_failure(self, *failure: Any) -> None:
        """Answer all writes of the batch: nothing more is stored."""
        self._fatal = self._fatal or self._failed(failure[1])
        self._commit_batch()

    def reject(self, envelope: Envelope) -> None:
        """Answer a command that came after the end."""
        why = self._fatal or RuntimeStoppedError()
        command = envelope.message
        if isinstance(command, _OfAgent):
            writes = len(command.messages) if isinstance(command, messages.Append) else 1
            self._acknowledge(command.agent, messages.Acknowledged(None, [why] * writes, command.actor))
        elif isinstance(command, messages.CreateAgents) and envelope.reply_to is not None:
            envelope.reply_to.fail(why)
        else:
            super().reject(envelope)

    def _add(self, command: _OfAgent, writes: Sequence[Write], size: int) -> None:
        agent = command.agent
        if self._rows and (self._rows + len(writes) > BATCH_ROWS or self._bytes + size > BATCH_BYTES):
            self._commit_batch()
        group = self._groups.get(agent)
        if group is not None and group.actor != command.actor:
            self._commit_batch()  # each actor is told of its own writes
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
            self._commit_batch()

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
            self._commit_batch()
        creation = _Creation(agents, self.defer_reply())
        for agent, new in agents:
            group = self._groups[agent] = _Group(NO_ACTOR)
            group.creation = creation
            group.writes.append(new)
            self._rows += 1 + len(new.messages)
        self._bytes += size
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._commit_batch()
        return None

    def _commit_batch(self) -> None:
        groups, self._groups = self._groups, {}
        if not groups:
            return
        self._rows = self._bytes = 0
        work: list[AgentWrites] = []
        writes = 0
        for agent, group in groups.items():
            if group.writes:
                work.append(AgentWrites(agent, group.writes))
                writes += len(group.writes)
        outcomes = self._commit_until_stored(work, writes) if work else []
        acknowledge = partial(self._acknowledge_all, groups, outcomes)
        self._run_together(acknowledge, inline=len(groups) <= SMALL_BATCH_AGENTS)

    def _acknowledge_all(self, groups: dict[str, _Group], outcomes: list[Outcome]) -> None:
        of_the_stored = iter(outcomes)
        for agent, group in groups.items():
            outcome = next(of_the_stored) if group.writes else _NOTHING
            if outcome.refused:
                self._remember_refusal(agent, group.generation)
            if group.creation is not None:
                group.creation.answer(agent, outcome)
            else:
                replies = outcome.replies if group.refusals is None else group.merge(outcome.replies)
                self._acknowledge(agent, messages.Acknowledged(outcome.committed, replies, group.actor))

    def _commit_until_stored(self, work: list[AgentWrites], writes: int) -> list[Outcome]:
        """Commit, again while the store is unavailable; return its outcomes, or its error for every write."""
        commits, is_warned, refusal = self._commits, False, self._fatal
        while refusal is None:
            began = perf_counter()
            try:
                outcomes = self._store.commit(work)
            except StoreUnavailableError as error:
                commits.refusals += 1
                if self._give_up.is_set():
                    refusal = error
                elif not is_warned:
                    logger.warning("%s: %s; it is retried, and agents wait until it succeeds", self._store.name, error)
                    is_warned = True
                self._give_up.wait(RETRY_S)
            except NotStoredError as error:
                refusal = error
            except BaseException as error:  # it may be stored or not, so going on could repeat or lose it
                refusal = error if isinstance(error, Exception) else self._failed(error)
                self._stop_writing(refusal)
            else:
                commits.seconds.observe(perf_counter() - began)
                commits.sizes.observe(writes)
                return outcomes
        return [Outcome(None, [refusal] * len(agent.writes), any(map(_is_message, agent.writes))) for agent in work]

    def _failed(self, error: BaseException) -> StoreUnknownError:
        return StoreUnknownError(f"the writer of {self._store.name} failed: {error!r}")

    def _remember_refusal(self, agent: str, generation: int) -> None:
        self._refused[agent] = generation
        while len(self._refused) > REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)

    def _stop_writing(self, error: Exception) -> None:
        if self._fatal is None:
            self._fatal = error
            logger.critical("%s: %s", self._store.name, error)
            self._on_fatal(error)
