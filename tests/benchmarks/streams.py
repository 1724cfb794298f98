"""The scenario `streams`: agents in one event loop that speak as fast as models do, beside a control by hand.

Each way is measured in a process of its own, with the same tokens at the same times; the control in the same round.
Owns the order of the measurements and the figures that they come to.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

import msgspec

from benchmark_errors import BenchmarkError
from child import Child
from harness import Harness
from results import Verdict, rounded
from stream_pace import RATE, dues_s

WAYS: Final = {
    "control": "a list, and bare SQLite on a thread",
    "control_process": "the same, with SQLite in a process of its own",
    "emit": "the host emits, and times the futures",
    "source": "the agents are async sources, and nobody waits",
    "wait": "the same, and each agent's end is awaited",
    "follow": "the same, and each agent is followed in the host",
    "subscriber": "the host emits, and a subscriber to all hears it in another process",
}
SIZES: Final = (1, 16, 64, 128, 256, 512, 1_000)
HOST_US: Final = (0, 20, 60)
"""Work of the host's own for each token, in microseconds."""
SECONDS: Final = 3.0
PATIENCE_S: Final = 300.0

Place = tuple[str, int, int]
"""A way, a number of agents, and the host's own work in microseconds."""


class StreamSample(msgspec.Struct, frozen=True, kw_only=True):
    """One way in one round."""

    p50_ms: float
    """From saying a token until it is acknowledged, or heard."""
    p99_ms: float
    cpu_us: float
    """CPU time of all processes for a token."""
    loop_p99_ms: float
    """How late the host's loop was for a timer."""
    commits: int
    delivered: float
    """Tokens that were committed in the time in which they were due, as a share."""


class StreamGoal(msgspec.Struct, frozen=True):
    """A goal for one field of a way."""

    way: str
    field: str
    of: str | None
    """The way in the same round whose field it is relative to; None for the figure itself."""
    limits: dict[tuple[int, int], float]
    """By number of agents, and the host's own work in microseconds."""
    at_most: bool = True


GOALS: Final = (
    StreamGoal("emit", "p50_ms", "control", {(16, 0): 2, (64, 0): 2, (256, 0): 4}),
    StreamGoal("follow", "p50_ms", "control", {(16, 0): 3, (64, 0): 3, (256, 0): 6}),
    StreamGoal("subscriber", "p50_ms", "control", {(16, 0): 3, (64, 0): 3, (256, 0): 6}),
    StreamGoal("emit", "p50_ms", "control_process", {(64, 20): 2, (256, 20): 2, (128, 60): 2}),
    StreamGoal("follow", "p50_ms", "control_process", {(64, 20): 3, (256, 20): 3}),
    StreamGoal("subscriber", "p50_ms", "control_process", {(64, 20): 3, (256, 20): 3}),
    StreamGoal("emit", "delivered", None, {(512, 0): 0.98}, at_most=False),
    StreamGoal("emit", "p99_ms", None, {(512, 0): 250}),
    StreamGoal("wait", "cpu_us", "source", {(agents, work): 1.1 for agents in (16, 64, 256) for work in (0, 20)}),
)


class StreamResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One way with one number of agents over all rounds: medians."""

    scenario: str = "streams"
    way: str
    agents: int
    host_us: int
    rounds: int
    p50_ms: float
    p99_ms: float
    cpu_us: float
    loop_p99_ms: float
    commits: float
    delivered: float
    of_control: float | None = None
    """Its p50 by that of the control as a thread, in the same round."""
    of_control_process: float | None = None
    spread: dict[str, tuple[float, float]] = {}
    goals: list[Verdict] = []


def measure(harness: Harness, way: str, agents: int, host_us: int) -> StreamSample:
    """Measure one way.

    Raises:
        BenchmarkError: not every token arrived.
    """
    seconds = SECONDS if harness.limited(1_000_000) == 1_000_000 else harness.limited(int(RATE * SECONDS)) / RATE
    tokens = max(2, int(RATE * seconds))
    with harness.fresh() as path, ExitStack() as stack:
        order = {"way": way, "agents": agents, "host_us": host_us, "tokens": tokens, "path": str(path)}
        host = stack.enter_context(Child("stream_host", "the host", **harness.options, **order))
        url = host.hear(PATIENCE_S).get("url")
        listener = None
        if way == "subscriber":
            listener = stack.enter_context(
                Child("stream_listener", "the subscriber", url=url, messages=agents * tokens)
            )
            listener.hear()
        host.order(go=True)
        report = host.hear(PATIENCE_S)
        heard = report if listener is None else listener.hear(PATIENCE_S)
    said = agents * tokens
    if way not in ("source", "wait") and heard["timed"] != said:
        raise BenchmarkError(f"{heard['timed']:,} of {said:,} tokens were timed ({way}, {agents} agents)")
    p50_ms, p99_ms = heard["lags_ms"]
    cpu_s = report["cpu_s"] + (0 if listener is None else heard["cpu_s"])
    return StreamSample(
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        cpu_us=1e6 * cpu_s / said,
        loop_p99_ms=report["loop_ms"][1],
        commits=report["commits"],
        delivered=min(1.0, max(max(dues_s(agent, tokens)) for agent in range(agents)) / report["took_s"]),
    )


def plan(sizes: Sequence[int], host_us: Sequence[int]) -> list[Place]:
    """Return what each round measures, in order."""
    return [(way, agents, work) for work in host_us or HOST_US for agents in sizes or SIZES for way in WAYS]


def run_streams(
    harness: Harness, places: Sequence[Place], rounds: int, started: Callable[[str], object]
) -> Iterator[dict[Place, StreamSample]]:
    """Measure every way in each round; yield its samples."""
    for _ in range(rounds):
        samples = {}
        for place in places:
            way, agents, work = place
            started(f"streams {way} {agents:,}" + (f", {work} µs of work" if work else ""))
            samples[place] = measure(harness, *place)
        yield samples


def results_of(places: Sequence[Place], rounds: Sequence[dict[Place, StreamSample]]) -> list[StreamResult]:
    """Return the medians over the rounds, and the verdicts."""
    return [_result(place, rounds) for place in places]


def _result(place: Place, rounds: Sequence[dict[Place, StreamSample]]) -> StreamResult:
    way, agents, work = place
    names = StreamSample.__struct_fields__
    found: dict[str, list[float]] = {name: [getattr(samples[place], name) for samples in rounds] for name in names}
    if found["p50_ms"][0]:
        for other in ("control", "control_process"):
            found[f"of_{other}"] = _ratios(place, "p50_ms", other, rounds)
    medians: dict[str, Any] = {name: rounded(median(values)) for name, values in found.items() if values}
    spread = {name: (rounded(min(values)), rounded(max(values))) for name, values in found.items() if values}
    goals = []
    for goal in GOALS:
        if goal.way == way and (agents, work) in goal.limits:
            limit = goal.limits[agents, work]
            values = found[goal.field] if goal.of is None else _ratios(place, goal.field, goal.of, rounds)
            value = rounded(median(values))
            is_met = value <= limit if goal.at_most else value >= limit
            field = goal.field if goal.of is None else f"{goal.field} of {goal.of}"
            goals.append(Verdict(field, limit, at_most=goal.at_most, met=is_met))
            spread.setdefault(field, (value, value))
    return StreamResult(way=way, agents=agents, host_us=work, rounds=len(rounds), spread=spread, goals=goals, **medians)


def _ratios(place: Place, field: str, other: str, rounds: Sequence[dict[Place, StreamSample]]) -> list[float]:
    return [getattr(samples[place], field) / getattr(samples[other, *place[1:]], field) for samples in rounds]
