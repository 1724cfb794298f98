"""Pushes many small messages through a runtime whose disk is slow, and prints what the process grew by. Run by itself.

Usage: pushing.py FOLDER MESSAGES MICROSECONDS, the last being what a row costs the disk beyond its real cost.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, Outcome

AGENTS = 8


class SlowStore(SqliteStore):
    """Takes its time in proportion to what it writes."""

    seconds_a_row = 0.0

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write, slowly."""
        time.sleep(sum(len(writes.writes) for writes in work) * self.seconds_a_row)
        return super().commit(work)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def push(folder: str, messages: int, microseconds: int) -> dict[str, float]:
    """Return the figures."""
    each = messages // AGENTS

    def source(context: AgentContext) -> Iterator[str]:
        for number in range(each):
            yield f"token {number}"

    store = SlowStore(Path(folder) / "agents.db")
    store.seconds_a_row = microseconds / 1e6
    with AgentRuntime(store) as runtime:
        runtime.launch(lambda context: "warm").wait(30)
        before = most = resident()
        most_waiting = 0
        begun = time.monotonic()
        agents = [runtime.launch(source) for _ in range(AGENTS)]
        over = threading.Event()

        def watch() -> None:
            nonlocal most, most_waiting
            while not over.wait(0.02):
                most = max(most, resident())
                most_waiting = max(most_waiting, runtime.stats().unacknowledged_messages)

        watching = threading.Thread(target=watch)
        watching.start()
        completed = sum(agent.wait().status is AgentStatus.COMPLETED for agent in agents)
        seconds = time.monotonic() - begun
        over.set()
        watching.join()
        stored = sum(agent.record().head for agent in agents)
    return {
        "completed": completed,
        "stored": stored,
        "seconds": round(seconds, 2),
        "most_waiting": most_waiting,
        "grown_mib": round((most - before) / 2**20, 1),
    }


if __name__ == "__main__":
    print(json.dumps(push(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
