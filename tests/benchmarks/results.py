"""Turns the samples of the rounds into results: medians, spreads, ratios within a round, goals. Pure."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import msgspec


class Yardstick(msgspec.Struct, frozen=True, kw_only=True):
    """The throughput of bare SQLite in one round, with a number of agents in turn."""

    naive_per_s: float
    ceiling_per_s: float
    commit_p50_ms: float


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one scenario in one round; None where it does not measure."""

    messages_per_s: float | None = None
    acks_ns: list[int] = []
    times_naive: float | None = None
    of_ceiling: float | None = None
    ack_of_commit: float | None = None
    bytes_per_agent: float | None = None
    stop_s: float | None = None
    of_chain: float | None = None
    of_small: float | None = None
    of_bare: float | None = None
    send_of_bare: float | None = None
    live_p99_ms: float | None = None
    p99_of_alone: float | None = None
    grown_mib: float | None = None
    back_after_term_s: float | None = None
    back_after_kill_s: float | None = None


class Goal(msgspec.Struct, frozen=True):
    """The goal of a scenario of one size."""

    scenario: str
    agents: int | None
    """None: any size."""
    field: str
    limit: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value <= self.limit if self.at_most else value >= self.limit


GOALS: Final = (
    Goal("pipelined", 256, "times_naive", 60),
    Goal("pipelined", 256, "of_ceiling", 0.55),
    Goal("pipelined", 1, "times_naive", 60),
    Goal("pipelined", 4096, "times_naive", 40),
    Goal("closed", 16, "times_naive", 8),
    Goal("closed", 1, "ack_of_commit", 1.3, at_most=True),
    Goal("idle", None, "bytes_per_agent", 2048, at_most=True),
    Goal("idle", 100_000, "stop_s", 5, at_most=True),
    Goal("launch", None, "times_naive", 15),
    Goal("growth", None, "of_small", 1.2, at_most=True),
    Goal("replay", 0, "of_chain", 1.5),
    Goal("replay", 256, "of_chain", 0.5),
    Goal("fanout", None, "of_bare", 0.7),
    Goal("fanout", None, "send_of_bare", 0.7),
    Goal("stalled", None, "p99_of_alone", 1.2, at_most=True),
    Goal("stalled", None, "grown_mib", 32, at_most=True),
    Goal("restart", None, "back_after_term_s", 10, at_most=True),
    Goal("restart", None, "back_after_kill_s", 10, at_most=True),
)


class Verdict(msgspec.Struct, frozen=True):
    """A goal, and whether the result meets it."""

    field: str
    limit: float
    at_most: bool
    met: bool


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One scenario of one size over all rounds: medians."""

    scenario: str
    agents: int
    rounds: int
    subscribers: int | None = None
    rows: int | None = None
    messages_per_s: float | None = None
    times_naive: float | None = None
    of_ceiling: float | None = None
    ack_p50_ms: float | None = None
    ack_p99_ms: float | None = None
    ack_of_commit: float | None = None
    bytes_per_agent: float | None = None
    stop_s: float | None = None
    of_chain: float | None = None
    of_small: float | None = None
    of_bare: float | None = None
    send_of_bare: float | None = None
    live_p99_ms: float | None = None
    p99_of_alone: float | None = None
    grown_mib: float | None = None
    back_after_term_s: float | None = None
    back_after_kill_s: float | None = None
    spread: dict[str, tuple[float, float]] = {}
    """Least and most over the rounds, of every field."""
    goals: list[Verdict] = []


class Yardsticks(msgspec.Struct, kw_only=True):
    """The baselines over all rounds: medians."""

    scenario: str = "yardsticks"
    agents: int
    """Of those figures; `by_agents` has the others."""
    naive_per_s: float
    ceiling_per_s: float
    commit_p50_ms: float
    spread: dict[str, tuple[float, float]]
    by_agents: dict[int, Yardstick]
    machine: dict[str, Any]


_MEASURED: Final = tuple(name for name in Sample.__struct_fields__ if name != "acks_ns")


def percentile_ms(durations_ns: Sequence[int], share: float) -> float:
    """Return the duration that a share of all does not pass, in milliseconds."""
    ordered = sorted(durations_ns)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6


def result_of(scenario: str, agents: int, samples: Sequence[Sample]) -> Result:
    """Return the medians over the rounds, their spreads, and the verdicts."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        for name in _MEASURED:
            value = getattr(sample, name)
            if value is not None:
                found.setdefault(name, []).append(value)
        if sample.acks_ns:
            found.setdefault("ack_p50_ms", []).append(percentile_ms(sample.acks_ns, 0.5))
            found.setdefault("ack_p99_ms", []).append(percentile_ms(sample.acks_ns, 0.99))
    medians = {name: rounded(median(values)) for name, values in found.items()}
    goals = [
        Verdict(goal.field, goal.limit, goal.at_most, goal.is_met(medians[goal.field]))
        for goal in GOALS
        if goal.scenario == scenario and goal.agents in (None, agents) and goal.field in medians
    ]
    spread = {name: (rounded(min(values)), rounded(max(values))) for name, values in found.items()}
    result = Result(scenario=scenario, agents=agents, rounds=len(samples), spread=spread, goals=goals)
    for name, value in medians.items():
        setattr(result, name, value)
    return result


def yardsticks_of(rounds: Sequence[dict[int, Yardstick]], agents: int, machine: dict[str, Any]) -> Yardsticks:
    """Return the medians of the yardsticks.

    Args:
        rounds: of each round the yardsticks by number of agents.
        agents: whose figures are the main ones.
        machine: what they were measured on.
    """
    names = Yardstick.__struct_fields__
    by_agents = {
        size: Yardstick(**{name: rounded(median(getattr(found[size], name) for found in rounds)) for name in names})
        for size in rounds[0]
    }
    main = by_agents[agents]
    values = {name: [getattr(found[agents], name) for found in rounds] for name in names}
    return Yardsticks(
        agents=agents,
        naive_per_s=main.naive_per_s,
        ceiling_per_s=main.ceiling_per_s,
        commit_p50_ms=main.commit_p50_ms,
        spread={name: (rounded(min(found)), rounded(max(found))) for name, found in values.items()},
        by_agents=by_agents,
        machine=machine,
    )


def rounded(value: float) -> float:
    """Return a value with the digits that a measurement supports: four."""
    return float(f"{value:.4g}") if abs(value) < 1_000 else float(round(value))
