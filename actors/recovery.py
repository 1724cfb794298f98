"""What is done at start for agents that a crash left behind: their processes are killed, their life is ended.

Runs on the thread that starts the runtime, before any actor exists.
"""

import logging
import os
from typing import Final

from commitcast.actors.lifecycle import INTERRUPTED
from commitcast.actors.sources.process import kill_orphan
from commitcast.persistence.clock import now
from commitcast.persistence.errors import StoreCorruptError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import Store
from commitcast.persistence.verify import verify
from commitcast.persistence.writes import AgentWrites, NewStatus

logger: Final = logging.getLogger(__name__)

ORPHAN_GRACE_S: Final = 2.0
"""How long an orphaned process group may take to end after SIGTERM."""
PAGE: Final = 1_000
PROBLEMS_SHOWN: Final = 3


def recover(store: Store) -> int:
    """End every agent that is initializing or running, and kill what is left of its CLI.

    Returns:
        How many there were.

    Raises:
        StoreCorruptError: an agent cannot be ended, because what is stored of it contradicts itself.

    Durability: on return every agent in the store has ended.
    """
    ended = 0
    for status in (AgentStatus.RUNNING, AgentStatus.INITIALIZING):
        while left_behind := store.agents(status=status, limit=PAGE):
            for record in left_behind:
                _kill(record)
            outcomes = store.commit([AgentWrites(record.id, [_interrupted(record)]) for record in left_behind])
            for record, outcome in zip(left_behind, outcomes, strict=True):
                if isinstance(outcome.replies[0], Exception):  # asked again it would be refused again, for ever
                    raise _contradiction(store, record, outcome.replies[0])
            ended += len(left_behind)
    if ended:
        logger.warning("%s: %d agents were interrupted by a crash and are failed now", store.name, ended)
    return ended


def _contradiction(store: Store, record: AgentRecord, refusal: Exception) -> StoreCorruptError:
    """Say why an agent cannot be ended: in the words of `verify` if it finds anything."""
    found = verify(store.name).problems if os.path.isfile(store.name) else []
    why = "; ".join(found[:PROBLEMS_SHOWN]) or str(refusal)
    return StoreCorruptError(
        store.name, f"agent {record.id!r} cannot be ended ({why}): run `commitcast verify`, and restore a backup"
    )


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
