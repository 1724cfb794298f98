"""The end that agents get when the runtime in which they were at work is gone: `failed`, with the error `Interrupted`.

Writes only by the commit that it is given. Must be called once no process of these agents is left: an agent's processes
are dead before its end is stored. Runs on the thread that may commit.
"""

from collections.abc import Callable, Sequence
from typing import Final

from commitcast.persistence.clock import now
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.writes import AgentWrites, NewStatus, Outcome

INTERRUPTED: Final = "Interrupted"
"""The `error_name` of an agent that the end of its runtime interrupted."""
PAGE: Final = 1_000
"""Agents that are ended in one transaction: other commits wait for it."""

Commit = Callable[[Sequence[AgentWrites]], list[Outcome]]
"""`Store.commit`, or what passes the work on to it."""


def interrupted(record: AgentRecord) -> NewStatus:
    """Return the change that ends an interrupted agent; it is refused if the agent has ended meanwhile."""
    return NewStatus(
        previous=record.status,
        status=AgentStatus.FAILED,
        at=now(),
        reason="the runtime ended without stopping the agent",
        error_name=INTERRUPTED,
        error_message="The runtime ended while the agent was running. Its earlier messages are kept.",
    )


def end_interrupted(commit: Commit, records: Sequence[AgentRecord]) -> list[Outcome]:
    """End interrupted agents, `PAGE` of them in a transaction.

    Args:
        commit: is called once for each page.
        records: of these agents, each once, initializing or running.

    Returns:
        One outcome for each, in order. Of an agent that could not be ended, the reply is its error.

    Raises:
        NotStoredError, StoreUnknownError: as `Store.commit`; earlier pages are stored.

    Durability: on return the ends are on disk.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(records), PAGE):
        outcomes += commit([AgentWrites(record.id, [interrupted(record)]) for record in records[start : start + PAGE]])
    return outcomes
