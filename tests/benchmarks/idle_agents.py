"""Measures the memory of an idle agent, and the time to stop many, in a process that does nothing else.

Reports resident bytes of the empty runtime and with all agents, and the seconds of the stop.
"""

import gc
import time
from pathlib import Path
from typing import Final

from benchmark_errors import BenchmarkError
from child import Report, listen_for_orders, report, run_child
from commitcast.actors.runtime import AgentRuntime
from commitcast.persistence.records import AgentStatus
from machine import resident_bytes

LAUNCHED_AT_ONCE: Final = 4_096
"""In steps, so that what launching needs for a moment is not taken for what an idle agent needs."""
STOP_TIMEOUT_S: Final = 120.0


def _resident_bytes() -> int:
    gc.collect()
    return resident_bytes()


def _work(order: Report) -> None:
    listen_for_orders()
    path, agents = Path(order["path"]), int(order["agents"])
    runtime = AgentRuntime(path).start()
    runtime.launch()  # for what is made only once
    empty = _resident_bytes()
    for first in range(0, agents, LAUNCHED_AT_ONCE):
        runtime.launch_many(min(LAUNCHED_AT_ONCE, agents - first))
    full = _resident_bytes()
    began = time.perf_counter()
    runtime.stop(STOP_TIMEOUT_S)
    stop_s = time.perf_counter() - began
    with AgentRuntime(path) as again:  # which finds out whether the stop was a whole one
        if again.recovered_agents or len(again.agents(AgentStatus.TERMINATED, limit=agents + 1)) != agents + 1:
            raise BenchmarkError(f"the stop left {again.recovered_agents:,} of {agents:,} agents without an end")
    report(empty=empty, full=full, stop_s=stop_s)


if __name__ == "__main__":
    run_child(_work)
