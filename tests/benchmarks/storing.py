"""The scenarios of storage: launch, idle and growth."""

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from bare_sqlite import CEILING_ROWS, BareWriter
from benchmark_errors import BenchmarkError
from child import Child
from commitcast.actors.runtime import AgentRuntime
from commitcast.persistence.clock import now
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, new_message
from harness import Harness
from idle_agents import STOP_TIMEOUT_S
from results import Sample
from stream_check import agent_name, content_of

SMALL_ROWS: Final = 10_000
ROW_BYTES: Final = 160
"""Of a message in the file with its index entry, rounded up, for the question whether there is room."""
GROWTH_COMMITS: Final = 16
BUILT_AT_ONCE: Final = 8 * CEILING_ROWS
IDLE_PATIENCE_S: Final = 600.0


def measure_launch(harness: Harness, agents: int) -> Sample:
    """Launch many agents with one call; they are durable when it returns."""
    with harness.fresh() as path:
        runtime = AgentRuntime(path, **harness.options).start()
        try:
            began = time.perf_counter_ns()
            handles = runtime.launch_many(agents)
            took_s = (time.perf_counter_ns() - began) / 1e9
            stored = runtime.store.position()[0]
            if len({handle.id for handle in handles}) != agents or stored < agents:
                raise BenchmarkError(f"{agents:,} agents were launched and {stored:,} are stored")
        finally:
            runtime.stop(STOP_TIMEOUT_S)
    return Sample(messages_per_s=agents / took_s, times_naive=agents / took_s / harness.main.naive_per_s)


def measure_idle(harness: Harness, agents: int) -> Sample:
    """Take the memory of many agents that do nothing, in a process of its own, and the time to stop them."""
    with (
        harness.fresh() as path,
        Child("idle_agents", "the process of the idle agents", path=str(path), agents=agents) as child,
    ):
        report = child.hear(IDLE_PATIENCE_S)
    return Sample(bytes_per_agent=(report["full"] - report["empty"]) / agents, stop_s=report["stop_s"])


def measure_growth(harness: Harness, agents: int) -> Sample:
    """Append to a small and to a large file in turn, with the product's own store."""
    names = [agent_name(index) for index in range(agents)]
    large = harness.kept(f"growth-{agents}", lambda path: build_file(harness, path, names, harness.rows))
    with harness.fresh() as small, ExitStack() as stack:
        build_file(harness, small, names, min(SMALL_ROWS, harness.rows))
        mode = harness.journal_mode
        stores = [stack.enter_context(closing(SqliteStore(path, journal_mode=mode))) for path in (small, large)]
        for store in stores:
            store.open()
            store.commit(_work(names, len(names)))  # the heads are in memory afterwards
        took_ns = [0, 0]
        commits = max(1, harness.limited(GROWTH_COMMITS * CEILING_ROWS) // CEILING_ROWS)
        for turn in range(commits):
            work = _work(names, CEILING_ROWS)
            for which in (0, 1) if turn % 2 else (1, 0):
                began = time.perf_counter_ns()
                outcomes = stores[which].commit(work)
                took_ns[which] += time.perf_counter_ns() - began
                if any(outcome.refused for outcome in outcomes):
                    raise BenchmarkError(f"{stores[which].name} refused messages")
    return Sample(
        messages_per_s=commits * CEILING_ROWS / (took_ns[1] / 1e9),
        of_small=took_ns[1] / took_ns[0],
    )


def build_file(harness: Harness, path: Path, names: list[str], rows: int) -> None:
    """Make a file with that many messages of these agents in turn, the fast way."""
    harness.needs(rows * ROW_BYTES)
    with BareWriter(path, names, content_of) as writer:
        for done in range(0, rows, BUILT_AT_ONCE):
            if rows > SMALL_ROWS:
                harness.advance(done, rows)
            writer.commit_batches(writer.rows(min(BUILT_AT_ONCE, rows - done)), BUILT_AT_ONCE)
        if rows > SMALL_ROWS:
            harness.advance(rows, rows)
        writer.end_agents()


def _work(names: list[str], rows: int) -> list[AgentWrites]:
    each, more = divmod(rows, len(names))
    written_at = now()
    return [
        AgentWrites(
            name,
            [
                new_message(content_of(name, sequence), created_at=written_at)
                for sequence in range(each + (place < more))
            ],
        )
        for place, name in enumerate(names[:rows])
    ]
