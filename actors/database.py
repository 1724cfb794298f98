"""The DatabaseActor: the one writer. Collects what is waiting, commits it together, and acknowledges.

Owns the order of everything that is stored and the rule of what happens when the database refuses. Must never
acknowledge before the commit has returned, and must never repeat a commit whose outcome is unknown. Runs on a thread
of its own, which blocks for each commit; the batch is what arrived meanwhile, so no timer is needed.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol, assert_never

import msgspec

from commitcast.actors.commit_meter import CommitMeter
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.messages import Acknowledged, Append, ChangeStatus, CreateAgents, DatabaseCommand, UpdateAgent
from commitcast.persistence.errors import (
    NotStoredError,
    PrecedingRefusedError,
    StoreUnavailableError,
    StoreUnknownError,
)
from commitcast.persistence.store import Store
from commitcast.persistence.writes import (
    AgentPatch,
    AgentWrites,
    NewAgent,
    NewMessage,
    NewStatus,
    Outcome,
    Write,
    needs_preceding,
    text_size,
)

logger: Final = logging.getLogger(__name__)

BATCH_ROWS: Final = 4_096
BATCH_BYTES: Final = 8 * 1024 * 1024
"""What one transaction holds at most: beyond this a larger batch is no faster and its acknowledgements come late."""
SMALL_BATCH_AGENTS: Final = 64
"""The acknowledgements of up to this many agents are handled on the writer's own thread: handing a few of them to
another takes longer than handling them, and what those agents say next belongs into one batch."""
NO_ACTOR: Final = 0
"""The number that no actor has: who creates agents is no actor."""
RETRY_S: Final = 0.5
REMEMBERED_REFUSALS: Final = 65_536


class Acknowledge(Protocol):
    """Hands an acknowledgement to the agent's actor; made by the runtime."""

    def __call__(self, agent: str, command: Acknowledged, /) -> object: ...


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
        """Return one answer for each write, in order."""
        if self.refusals is not None:
            replies = list(replies)
            for place, error in self.refusals:
                replies.insert(place, error)
        return replies


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
        store: Store,
        *,
        acknowledge: Acknowledge,
        on_fatal: Callable[[Exception], object],
        give_up: threading.Event,
        turns_here: Callable[[], AbstractContextManager[None]],
        dispatcher: Dispatcher | None = None,
        dead_letters: DeadLetters | None = None,
        commits: CommitMeter | None = None,
    ) -> None:
        """Make the actor.

        Args:
            store: open; its `commit` is called by nobody else.
            acknowledge: takes the answers to an agent's writes.
            on_fatal: called once when the outcome of a commit is unknown; nothing is written after that.
            give_up: once set, a full disk, a lock and the like are no longer waited for.
            turns_here: while it is entered, the agents' turns become due on this thread; taken when it is left.
            dispatcher: who gives it turns instead of a thread of its own.
            dead_letters: where what reaches nobody is counted.
            commits: counts commits.
        """
        super().__init__(store.name, dispatcher, dead_letters)
        self._store = store
        self._acknowledge = acknowledge
        self._on_fatal = on_fatal
        self._give_up = give_up
        self._turns_here = turns_here
        self._groups: dict[str, _Group] = {}
        self._rows = 0
        self._bytes = 0
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._fatal: Exception | None = None
        self._commits = commits or CommitMeter()

    def on_receive(self, command: DatabaseCommand) -> Any:
        """Put a command into the batch. What waits in the mailbox joins it until it is full."""
        match command:
            case Append():
                self._append(command)
            case ChangeStatus():
                self._add(command, command.change, text_size(command.change.result_json or ""))
            case UpdateAgent():
                self._add(command, command.patch, text_size(command.patch.configuration_json or ""))
            case CreateAgents(agents):
                return self._add_creation(agents)
            case _:
                assert_never(command)

    def on_turn_end(self) -> None:
        """Commit what was collected: nothing else waits."""
        self._commit()

    def on_failure(self, *failure: Any) -> None:
        """Answer everybody whose writes were in the batch: nothing more is stored."""
        self._fatal = self._fatal or self._failed(failure[1])
        self._commit()

    def refuse(self, envelope: Envelope) -> None:
        """Answer what came after the end."""
        why = self._fatal or RuntimeStoppedError()
        command = envelope.message
        if isinstance(command, Append):
            self._acknowledge(command.agent, Acknowledged(None, [why] * len(command.messages), command.actor))
        elif isinstance(command, (ChangeStatus, UpdateAgent)):
            self._acknowledge(command.agent, Acknowledged(None, [why], command.actor))
        elif isinstance(command, CreateAgents) and envelope.reply_to is not None:
            envelope.reply_to.fail(why)
        else:
            super().refuse(envelope)

    def _group(self, command: Append | ChangeStatus | UpdateAgent) -> _Group:
        group = self._groups.get(command.agent)
        if group is None or group.actor != command.actor:
            if group is not None:
                self._commit()  # each is told of its own writes
            group = self._groups[command.agent] = _Group(command.actor)
        group.generation = command.generation
        return group

    def _append(self, append: Append) -> None:
        agent, messages = append.agent, append.messages
        if self._rows and (self._rows + len(messages) > BATCH_ROWS or self._bytes + append.size > BATCH_BYTES):
            self._commit()
        group = self._group(append)
        if self._refused and self._is_refused(agent, append.generation):
            for _ in messages:
                group.refuse(PrecedingRefusedError(agent))
        else:
            group.writes += messages
        self._bytes += append.size
        self._rows += len(messages)
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._commit()

    def _add(self, command: ChangeStatus | UpdateAgent, write: NewStatus | AgentPatch, size: int) -> None:
        group = self._group(command)
        if self._is_refused(command.agent, command.generation) and needs_preceding(write):
            group.refuse(PrecedingRefusedError(command.agent))
        else:
            group.writes.append(write)
        self._rows += 1
        self._bytes += size
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._commit()

    def _is_refused(self, agent: str, generation: int) -> bool:
        if not self._refused or (refused := self._refused.get(agent)) is None:
            return False
        if generation > refused:
            del self._refused[agent]
            return False
        return True

    def _add_creation(self, agents: tuple[tuple[str, NewAgent], ...]) -> list[Outcome] | None:
        if not agents:
            return []
        if self._rows + len(agents) > BATCH_ROWS or any(agent in self._groups for agent, _ in agents):
            self._commit()
        creation = _Creation(agents, self.reply_later())
        for agent, new in agents:
            group = self._groups[agent] = _Group(NO_ACTOR)
            group.creation = creation
            group.writes.append(new)
            self._rows += 1 + len(new.messages)
            texts = text_size(new.prompt) + text_size(new.configuration_json)
            self._bytes += texts + sum(message.size for message in new.messages)
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._commit()
        return None

    def _commit(self) -> None:
        groups, self._groups = self._groups, {}
        if not groups:
            return
        self._rows = self._bytes = 0
        work = [AgentWrites(agent, group.writes) for agent, group in groups.items() if group.writes]
        outcomes = iter(self._store_all(work))
        with self._turns_here() if len(groups) <= SMALL_BATCH_AGENTS else nullcontext():
            self._answer(groups, outcomes)

    def _answer(self, groups: dict[str, _Group], outcomes: Iterator[Outcome]) -> None:
        for agent, group in groups.items():
            outcome = next(outcomes) if group.writes else _NOTHING
            if outcome.refused:
                self._remember_refusal(agent, group.generation)
            if group.creation is not None:
                group.creation.answer(agent, outcome)
            else:
                replies = group.merge(outcome.replies)
                self._acknowledge(agent, Acknowledged(outcome.committed, replies, group.actor))

    def _store_all(self, work: list[AgentWrites]) -> list[Outcome]:
        """Commit, and return the outcomes: those of the store, or its error for every write."""
        try:
            if self._fatal is not None:
                raise self._fatal
            return self._store_when_possible(work) if work else []
        except NotStoredError as error:
            refusal: Exception = error
        except BaseException as error:  # unknown to be stored or not: whatever it was, writing on could repeat or lose
            refusal = error if isinstance(error, Exception) else self._failed(error)
            self._stop_writing(refusal)
        return [Outcome(None, [refusal] * len(agent.writes), any(map(_is_message, agent.writes))) for agent in work]

    def _failed(self, error: BaseException) -> StoreUnknownError:
        return StoreUnknownError(f"the writer of {self._store.name} failed: {error!r}")

    def _store_when_possible(self, work: list[AgentWrites]) -> list[Outcome]:
        warned = False
        while True:
            try:
                return self._commits.commit(self._store, work)
            except StoreUnavailableError as error:
                if self._give_up.is_set():
                    raise
                if not warned:
                    logger.warning("%s: %s; agents wait until it can be stored", self._store.name, error)
                    warned = True
                self._give_up.wait(RETRY_S)

    def _remember_refusal(self, agent: str, generation: int) -> None:
        self._refused[agent] = generation
        while len(self._refused) > REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)

    def _stop_writing(self, error: Exception) -> None:
        if self._fatal is None:
            self._fatal = error
            logger.critical("%s: %s", self._store.name, error)
            self._on_fatal(error)


_NOTHING: Final = Outcome(None, [])


def _is_message(write: Write) -> bool:
    return isinstance(write, NewMessage)
