"""The batches of all hosts that wait for the writer, put together to transactions. Pure; the writer's thread only.

Must keep the order of each host's batches, answer each batch once, and let nobody but its host write to an agent that
is at work.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from commitcast.persistence.errors import NotOwnerError, PrecedingRefusedError
from commitcast.persistence.remote.frames import Part, Stored
from commitcast.persistence.remote.outcomes import packed_failure, packed_replies, part_of, place_of
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.writes import AgentWrites, NewAgent, NewMessage, Outcome, Write, needs_preceding

TRANSACTION_ROWS: Final = 4_096
TRANSACTION_BYTES: Final = 8 * 1024 * 1024
"""What a transaction has of further batches at most, as the batch of one host: a larger one is not faster."""


class Batch(msgspec.Struct, frozen=True, eq=False):
    """What one host wants written together."""

    owner: Any
    """The host."""
    number: int
    after: int
    """The last batch of whose refusals the host knew."""
    work: Sequence[AgentWrites]
    size: int
    """Bytes of its frame."""

    @property
    def rows(self) -> int:
        """How many writes it has."""
        return sum(len(agent.writes) for agent in self.work)


class Refusals:
    """Agents of which a message was refused, until their host knows: what it has sent meanwhile would leave a gap."""

    def __init__(self) -> None:
        self._of: dict[Any, dict[str, int]] = {}

    def note(self, batch: Batch, agent: str) -> None:
        """Take note that a message of an agent was refused for its own sake, not for that of one before it."""
        self._of.setdefault(batch.owner, {})[agent] = batch.number

    def note_all(self, batch: Batch) -> None:
        """Take note that nothing of a batch was stored."""
        for agent in batch.work:
            if any(isinstance(write, NewMessage) for write in agent.writes):
                self.note(batch, agent.agent)

    def learn(self, batch: Batch) -> None:
        """Forget what the host of a batch knew when it sent it."""
        if (noted := self._of.get(batch.owner)) is not None:
            left = {agent: number for agent, number in noted.items() if number > batch.after}
            if left:
                self._of[batch.owner] = left
            else:
                del self._of[batch.owner]

    def affect(self, batch: Batch, agent: str) -> bool:
        """Whether a batch was sent before its host knew that a message of an agent was refused. After `learn`."""
        return batch.owner in self._of and agent in self._of[batch.owner]

    def forget(self, owner: Any) -> None:
        """Forget a host that is gone."""
        self._of.pop(owner, None)


class Transaction:
    """Batches that are written together."""

    def __init__(self, batches: Sequence[Batch], owners: Owners, refusals: Refusals) -> None:
        self.batches = batches
        self.work: list[AgentWrites] = []
        """Everything that may be written."""
        self._owners = owners
        self._refusals = refusals
        self._refused: dict[int, _Refused] = {}
        """By identity of the `AgentWrites`, what is not written of it."""
        for batch in batches:
            refusals.learn(batch)
            for agent in batch.work:
                self._add(batch, agent)

    def _add(self, batch: Batch, agent: AgentWrites) -> None:
        if not self._owners.may_write(batch.owner, agent.agent):
            refused = _Refused(agent, NotOwnerError(agent.agent), _needs_owner)
        elif self._refusals.affect(batch, agent.agent):
            refused = _Refused(agent, PrecedingRefusedError(agent.agent), needs_preceding)
        else:
            self.work.append(agent)
            return
        self._refused[id(agent)] = refused
        if refused.rest.writes:
            self.work.append(refused.rest)

    def answers(self, outcomes: Sequence[Outcome], committed_ns: int) -> Iterator[tuple[Batch, Stored, list[Outcome]]]:
        """Yield the answer to each batch with the outcomes of what was written of it, given those of `work`."""
        of_the_written = iter(outcomes)
        for batch in self.batches:
            parts: list[Part] = []
            written: list[Outcome] = []
            for agent in batch.work:
                refused = self._refused.get(id(agent)) if self._refused else None
                rest = agent if refused is None else refused.rest
                outcome = next(of_the_written) if rest.writes else _NOTHING
                if rest.writes:
                    written.append(outcome)
                    self._owners.note(batch.owner, rest, outcome)
                parts.append(part_of(agent, outcome) if refused is None else refused.answer(outcome))
                if outcome.refused or (refused is not None and refused.is_cause):
                    self._refusals.note(batch, agent.agent)
            yield batch, Stored(batch.number, committed_ns, parts), written


def _needs_owner(write: Write) -> bool:
    """Whether only the host of an agent that is at work may write this: a creation the store answers by itself."""
    return not isinstance(write, NewAgent)


_NOTHING: Final = Outcome(None, [])


class _Refused:
    """One agent's writes of which some are refused, and the rest that is written."""

    def __init__(self, agent: AgentWrites, error: Exception, is_refused: Callable[[Write], bool]) -> None:
        self._are_refused = [is_refused(write) for write in agent.writes]
        self._has_refused_message = any(
            refused and isinstance(write, NewMessage)
            for write, refused in zip(agent.writes, self._are_refused, strict=True)
        )
        self._error = error
        self.is_cause = self._has_refused_message and not isinstance(error, PrecedingRefusedError)
        """Whether what comes after it must be refused too. What was refused for the sake of one before is no new cause:
        else a host that always has a batch on its way would be refused for ever."""
        self.rest = AgentWrites(
            agent.agent,
            [write for write, refused in zip(agent.writes, self._are_refused, strict=True) if not refused],
        )

    def answer(self, outcome: Outcome) -> Part:
        """Return the answer to all of them, given the outcome of the rest."""
        replies = iter(packed_replies(self.rest, outcome))
        failure = packed_failure(self._error)
        packed = [failure if refused else next(replies) for refused in self._are_refused]
        return Part(*place_of(outcome.committed), outcome.refused or self._has_refused_message, packed)


class Batches:
    """The batches that wait."""

    def __init__(self, owners: Owners) -> None:
        self.refusals = Refusals()
        self._owners = owners
        self._waiting: deque[Batch] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def count(self, owner: Any) -> int:
        """Return how many of a host wait."""
        return sum(batch.owner is owner for batch in self._waiting)

    def put(self, batch: Batch) -> None:
        """Add a batch."""
        self._waiting.append(batch)

    def put_back(self, batches: Sequence[Batch]) -> None:
        """Put batches back that were taken and not written, before all others."""
        self._waiting.extendleft(reversed(batches))

    def take(self) -> Transaction | None:
        """Take what is written next: the oldest batch, and what fits beside it; None if nothing waits.

        An agent is in a transaction once, so a further batch that has it waits, and so do those of its host after it.
        """
        taken: list[Batch] = []
        left: deque[Batch] = deque()
        agents: set[str] = set()
        held: set[Any] = set()
        rows = size = 0
        while self._waiting:
            batch = self._waiting.popleft()
            fits = not taken or (
                rows + batch.rows <= TRANSACTION_ROWS
                and size + batch.size <= TRANSACTION_BYTES
                and batch.owner not in held
                and agents.isdisjoint(agent.agent for agent in batch.work)
            )
            if fits:
                taken.append(batch)
                rows, size = rows + batch.rows, size + batch.size
                if self._waiting or left:  # else there is nothing to compare with
                    agents.update(agent.agent for agent in batch.work)
            else:
                held.add(batch.owner)
                left.append(batch)
        self._waiting = left
        return Transaction(taken, self._owners, self.refusals) if taken else None

    def drop(self, owner: Any) -> list[Batch]:
        """Take out every batch of a host, and return them."""
        self.refusals.forget(owner)
        dropped = [batch for batch in self._waiting if batch.owner is owner]
        self._waiting = deque(batch for batch in self._waiting if batch.owner is not owner)
        return dropped
