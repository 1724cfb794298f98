"""Recovery at start, for agents that a crash left behind: their processes are stopped, and the agents are ended.

Runs on the thread that starts the runtime, before any actor exists.
"""

import logging
import os
from collections.abc import Iterator
from typing import Final

from commitcast.actors.backend import Backend
from commitcast.actors.lifecycle import INTERRUPTED
from commitcast.actors.sources.processes.orphans import AtWork, stop_orphans
from commitcast.persistence.clock import now
from commitcast.persistence.errors import StoreCorruptError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import Reader
from commitcast.persistence.writes import AgentWrites, NewStatus

logger: Final = logging.getLogger(__name__)

ORPHAN_GRACE_S: Final = 2.0
"""How long orphaned processes may take to end after SIGTERM; all at the same time."""
PAGE: Final = 1_000
AGENTS_SHOWN: Final = 5
PROBLEMS_SHOWN: Final = 3


def recover(backend: Backend) -> int:
    """End every agent that is initializing or running, once all processes that agents left behind are stopped.

    Processes of ended agents are stopped too: the runtime may have crashed, or given up, before they were dead.

    Returns:
        How many there were.

    Raises:
        StoreCorruptError: an agent cannot be ended, because what is stored of it contradicts itself.

    Durability: on return every agent in the store has ended.
    """
    reader = backend.reader
    _stop_processes(reader)
    ended = 0
    for status in (AgentStatus.RUNNING, AgentStatus.INITIALIZING):
        while left_behind := reader.agents(status=status, limit=PAGE):
            outcomes = backend.writer.commit([AgentWrites(record.id, [_interrupted(record)]) for record in left_behind])
            for record, outcome in zip(left_behind, outcomes, strict=True):
                if isinstance(outcome.replies[0], Exception):  # it would be refused again, for ever
                    raise _contradiction(backend, record, outcome.replies[0])
            ended += len(left_behind)
    if ended:
        logger.warning("%s: %d agents were interrupted by a crash and are now marked as failed", reader.name, ended)
    return ended


def _contradiction(backend: Backend, record: AgentRecord, refusal: Exception) -> StoreCorruptError:
    """Say why an agent cannot be ended: in the words of `verify` if it finds problems."""
    name = backend.reader.name
    problems = backend.verify(deep=False, progress=lambda done, of: None).problems if os.path.isfile(name) else []
    why = "; ".join(problems[:PROBLEMS_SHOWN]) or str(refusal)
    return StoreCorruptError(
        name, f"agent {record.id!r} cannot be ended ({why}): run `commitcast verify`, and restore a backup"
    )


def _interrupted(record: AgentRecord) -> NewStatus:
    return NewStatus(
        previous=record.status,
        status=AgentStatus.FAILED,
        at=now(),
        reason="the runtime ended without stopping the agent",
        error_name=INTERRUPTED,
        error_message="The runtime ended while the agent was running. Its earlier messages are kept.",
    )


def _stop_processes(reader: Reader) -> None:
    """Stop the processes that agents of this store have left behind, before the end of the agents is stored."""
    try:
        stopped = stop_orphans(list(_at_work(reader)), lambda agent: _epoch(reader, agent), ORPHAN_GRACE_S)
    except OSError as error:  # no /proc, or no descriptor: the agents have ended nevertheless
        logger.warning("%s: cannot look for processes that agents have left running: %s", reader.name, error)
        return
    if stopped:
        names = ", ".join(list(stopped)[:AGENTS_SHOWN]) + (" and others" if len(stopped) > AGENTS_SHOWN else "")
        count = sum(stopped.values())
        logger.warning("%s: stopped %d processes that agents had left running: %s", reader.name, count, names)


def _at_work(reader: Reader) -> Iterator[AtWork]:
    for status in (AgentStatus.RUNNING, AgentStatus.INITIALIZING):
        after = 0
        while page := reader.agents(status=status, after=after, limit=PAGE):
            yield from (AtWork(record.id, record.epoch, record.pid, record.pid_started) for record in page)
            after = page[-1].position


def _epoch(reader: Reader, agent: str) -> str | None:
    record = reader.agent(agent)
    return None if record is None else record.epoch
