"""Recovery at start, for agents that a crash left behind: their processes are stopped, and the agents are ended.

Runs on the thread that opens the store, before anything is served from it.
"""

import logging
import os
from collections.abc import Iterator
from typing import Final

from commitcast.persistence.errors import StoreCorruptError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.recovery.interruption import PAGE, end_interrupted
from commitcast.persistence.recovery.orphans import AtWork, IsAtWork, await_end, runs_no_commands, stop_orphans
from commitcast.persistence.store import Reader, Store

logger: Final = logging.getLogger(__name__)

ORPHAN_GRACE_S: Final = 2.0
"""How long orphaned processes may take to end after SIGTERM; all at the same time."""
AGENTS_SHOWN: Final = 5
PROBLEMS_SHOWN: Final = 3


def recover(store: Store, is_at_work: IsAtWork = runs_no_commands, *, hosts_s: float = 0.0) -> int:
    """End every agent that is initializing or running, once all processes that agents left behind are stopped.

    Processes of ended agents are stopped too: the runtime may have crashed, or given up, before they were dead.

    Args:
        store: open for writing; nothing else commits to it yet.
        is_at_work: tells of an epoch whether this process runs a command of that agent now.
        hosts_s: seconds that hosts which have lost their server may take to kill the programs of their agents.

    Returns:
        How many agents there were.

    Raises:
        StoreCorruptError: an agent cannot be ended, because what is stored of it contradicts itself.

    Durability: on return every agent in the store has ended.
    """
    _stop_processes(store, is_at_work, hosts_s)
    ended = 0
    for status in (AgentStatus.RUNNING, AgentStatus.INITIALIZING):
        while left_behind := store.agents(status=status, limit=PAGE):
            outcomes = end_interrupted(store.commit, left_behind)
            for record, outcome in zip(left_behind, outcomes, strict=True):
                if isinstance(outcome.replies[0], Exception):  # it would be refused again, for ever
                    raise _contradiction(store, record, outcome.replies[0])
            ended += len(left_behind)
    if ended:
        logger.warning("%s: %d agents were interrupted by a crash and are now marked as failed", store.name, ended)
    return ended


def _contradiction(store: Store, record: AgentRecord, refusal: Exception) -> StoreCorruptError:
    """Say why an agent cannot be ended: in the words of `verify` if it finds problems."""
    name = store.name
    problems = store.verify().problems if os.path.isfile(name) else []
    why = "; ".join(problems[:PROBLEMS_SHOWN]) or str(refusal)
    return StoreCorruptError(
        name, f"agent {record.id!r} cannot be ended ({why}): run `commitcast verify`, and restore a backup"
    )


def _stop_processes(reader: Reader, is_at_work: IsAtWork, hosts_s: float) -> None:
    """Stop the processes that agents of this store have left behind, before the end of the agents is stored."""
    try:
        agents = list(_at_work(reader))
        stopped = stop_orphans(agents, lambda agent: _epoch(reader, agent), ORPHAN_GRACE_S, is_at_work)
        left = await_end([agent.epoch for agent in agents], hosts_s) if hosts_s else 0
    except OSError as error:  # no /proc, or no descriptor: the agents have ended nevertheless
        logger.warning("%s: cannot look for processes that agents have left running: %s", reader.name, error)
        return
    if left:
        message = "%s: %d processes of interrupted agents are left to their runtime, which lives: is it stopped?"
        logger.warning(message, reader.name, left)
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
