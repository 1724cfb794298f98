"""The scenarios, their standard sizes, and the order in which the rounds run them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from delivering import measure_fanout, measure_replay
from harness import STANDARD_AGENTS, Harness
from injected_faults import RESTART_AGENTS, measure_restart, measure_stalled
from results import Result, Sample, Yardstick, Yardsticks, result_of, yardsticks_of
from storing import measure_growth, measure_idle, measure_launch
from streaming import measure_closed, measure_mixed, measure_pipelined

Measure = Callable[[Harness, int], Sample]
Round = tuple[dict[int, Yardstick], list[Sample | None]]


class Scenario(msgspec.Struct, frozen=True):
    """One kind of work."""

    name: str
    measure: Measure
    sizes: tuple[int, ...]
    """Numbers of agents, or of subscribers."""
    has_yardsticks: bool = False
    """Whether it is compared with the yardsticks of its own number of agents."""
    agents: int | None = None
    """How many agents there are where the sizes are numbers of subscribers."""
    is_long: bool = False
    """Whether it takes a minute, and interleaves by itself what it compares: only the first round has it."""


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("closed", measure_closed, (1, 16, 256), True),
        Scenario("pipelined", measure_pipelined, (1, 16, 256, 4096), True),
        Scenario("mixed", measure_mixed, (256,), True),
        Scenario("launch", measure_launch, (100_000,)),
        Scenario("idle", measure_idle, (100_000,)),
        Scenario("growth", measure_growth, (1, 16, 256)),
        Scenario("replay", measure_replay, (0, 256)),
        Scenario("fanout", measure_fanout, (1_000,), agents=1),
        Scenario("stalled", measure_stalled, (1_000,), agents=1, is_long=True),
        Scenario("restart", measure_restart, (2_000,), agents=RESTART_AGENTS),
    )
}


class Case(msgspec.Struct, frozen=True):
    """One scenario in one size."""

    scenario: Scenario
    size: int

    @property
    def title(self) -> str:
        """What to call it on a progress bar."""
        return f"{self.scenario.name} {self.size:,}"


class Plan(msgspec.Struct, frozen=True):
    """What each round measures."""

    cases: list[Case]
    yardstick_sizes: list[int]
    main_agents: int

    def steps(self, rounds: int) -> int:
        """Return how many measurements there are in that many rounds."""
        long = sum(case.scenario.is_long for case in self.cases)
        return rounds * (len(self.cases) - long + len(self.yardstick_sizes)) + long


def plan(names: Sequence[str], sizes: Sequence[int]) -> Plan:
    """Return what is measured.

    Args:
        names: of scenarios; none for all.
        sizes: in place of the standard ones; none for those.
    """
    chosen = [scenario for name, scenario in SCENARIOS.items() if not names or name in names]
    cases = [
        Case(scenario, size)
        for scenario in chosen
        for size in (sizes or scenario.sizes)
        if size or 0 in scenario.sizes  # a replay is also measured while nobody appends
    ]
    reference = Case(SCENARIOS["pipelined"], STANDARD_AGENTS)
    if any(case.scenario.name == "replay" for case in cases) and reference not in cases:
        cases.insert(0, reference)  # what a replay is compared with
    own = sorted({case.size for case in cases if case.scenario.has_yardsticks})
    main = STANDARD_AGENTS if not own or STANDARD_AGENTS in own else own[-1]
    return Plan(cases, own or [main], main)


def run_rounds(harness: Harness, wanted: Plan, rounds: int, started: Callable[[str], object]) -> Iterator[Round]:
    """Measure: in every round the yardsticks first and then each case, so that a slow minute falls on all.

    Args:
        harness: where.
        wanted: what.
        rounds: how often.
        started: is told what is measured next.

    Yields:
        Of each round the yardsticks by number of agents, and of each case a sample if it was measured.
    """
    harness.main_agents = wanted.main_agents
    for is_first in (round == 0 for round in range(rounds)):
        harness.yardsticks = {}
        for agents in wanted.yardstick_sizes:
            started(f"yardsticks {agents:,}")
            harness.measure_yardstick(agents)
        samples: list[Sample | None] = []
        for case in wanted.cases:
            if case.scenario.is_long and not is_first:
                samples.append(None)
                continue
            started(case.title)
            samples.append(case.scenario.measure(harness, case.size))
        yield harness.yardsticks, samples


def summarize(
    wanted: Plan, rounds: Sequence[Round], rows: int, machine: dict[str, Any]
) -> tuple[Yardsticks, list[Result]]:
    """Return what the rounds came to.

    Args:
        wanted: what was measured.
        rounds: what `run_rounds` yielded.
        rows: of the larger file of `growth`.
        machine: what they were measured on.
    """
    results = []
    for place, case in enumerate(wanted.cases):
        samples = [sample for _, found in rounds if (sample := found[place]) is not None]
        name, agents = case.scenario.name, case.scenario.agents
        result = result_of(name, case.size if agents is None else min(agents, case.size), samples)
        result.subscribers = None if agents is None else case.size
        result.rows = rows if name == "growth" else None
        results.append(result)
    return yardsticks_of([found for found, _ in rounds], wanted.main_agents, machine), results
