"""What is done at start for agents that a crash left behind: their processes are killed, their life is ended.

Runs on the thread that starts the runtime, before any actor exists.
"""

import logging
from typing import Final

from commitcast.actors.lifecycle import INTERRUPTED
from commitcast.actors.sources.process import kill_orphan
from commitcast.persistence.clock import now
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites, NewStatus

logger: Final = logging.getLogger(__name__)

ORPHAN_GRACE_S: Final = 2.0
"""How long an orphaned process group may take to end after SIGTERM."""
PAGE: Final = 1_000


def recover(store: Store) -> int:
    """End every agent that is initializing or running, and kill what is left of its CLI.

    Returns:
        How many there were.

    Durability: on return every agent in the store has ended.
    """
    ended = 0
    for status in (AgentStatus.RUNNING, AgentStatus.INITIALIZING):
        while left_behind := store.agents(status=status, limit=PAGE):
            for record in left_behind:
                _kill(record)
            store.commit([AgentWrites(record.id, [_interrupted(record)]) for record in left_behind])
            ended += len(left_behind)
    if ended:
        logger.warning("%s: %d agents were interrupted by a crash and are failed now", store.name, ended)
    return ended


def _interrupted(record: AgentRecord) -> NewStatus:
    return NewStatus(
        previous=record.status,
        status=AgentStatus.FAILED,
        at=now(),
        reason="the runtime ended without stopping the agent",
        error_name=INTERRUPTED,
        error_message="The runtime ended while the agent was at work. What it had said until then is kept.",
    )


def _kill(record: AgentRecord) -> None:
    if record.pid is not None and kill_orphan(record.pid, record.pid_started, record.epoch, ORPHAN_GRACE_S):
        logger.warning("killed the process group %d that agent %s had left behind", record.pid, record.id)
