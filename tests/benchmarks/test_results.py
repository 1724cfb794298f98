"""Rounds made into results."""

import math
from pathlib import Path

import pytest

from harness import Harness
from results import Sample, Yardstick, percentile_ms, result_of, yardsticks_of
from scenarios import SCENARIOS, Case, Plan, Scenario, plan, run_rounds, summarize


def test_a_result_is_the_median_with_its_spread_and_its_verdicts() -> None:
    samples = [Sample(messages_per_s=rate, times_naive=rate / 10, of_ceiling=0.5) for rate in (500, 900, 650)]

    result = result_of("pipelined", 256, samples)

    assert (result.messages_per_s, result.times_naive, result.rounds) == (650, 65, 3)
    assert result.spread["messages_per_s"] == (500, 900)
    assert {verdict.field: verdict.met for verdict in result.goals} == {"times_naive": True, "of_ceiling": False}


def test_a_goal_that_is_a_most_is_met_from_below() -> None:
    for ratio, met in ((1.2, True), (1.4, False)):
        (verdict,) = result_of("closed", 1, [Sample(ack_of_commit=ratio)]).goals

        assert verdict.met is met


def test_percentiles_are_of_the_sorted_durations() -> None:
    durations = [int(value * 1e6) for value in (3, 1, 2, 4)]

    assert percentile_ms(durations, 0.5) == 3
    assert percentile_ms(durations, 0.99) == 4
    assert percentile_ms(durations[:1], 0.5) == 3


def test_the_yardsticks_are_medians_by_number_of_agents() -> None:
    rounds = [
        {agents: Yardstick(naive_per_s=rate * agents, ceiling_per_s=1, commit_p50_ms=1) for agents in (1, 2)}
        for rate in (1, 5, 3)
    ]

    found = yardsticks_of(rounds, 2, {})

    assert found.naive_per_s == 6
    assert found.by_agents[1].naive_per_s == 3
    assert found.spread["naive_per_s"] == (2, 10)


def test_everything_is_measured_in_its_standard_sizes() -> None:
    everything = plan([], [])

    assert {case.scenario.name for case in everything.cases} == set(SCENARIOS)
    assert everything.yardstick_sizes == [1, 16, 256, 4096]
    assert everything.main_agents == 256


def test_what_takes_a_minute_is_measured_once(tmp_path: Path) -> None:
    scenarios = [
        Scenario(name, lambda harness, size: Sample(messages_per_s=size), (7,), is_long=is_long)
        for name, is_long in (("short", False), ("long", True))
    ]
    wanted = Plan([Case(scenario, 7) for scenario in scenarios], [1], 1)
    started: list[str] = []

    found = list(run_rounds(Harness(tmp_path, messages=1), wanted, 3, started.append))

    _, (short, long) = summarize(wanted, found, 0, {})
    assert (short.rounds, long.rounds) == (3, 1)
    assert short.messages_per_s == long.messages_per_s == 7
    assert len(started) == wanted.steps(3)


@pytest.mark.parametrize("sizes", [[], [4]])
def test_a_replay_is_compared_with_the_chain_of_the_same_round(sizes: list[int]) -> None:
    titles = [case.title for case in plan(["replay"], sizes).cases]

    assert titles[0] == "pipelined 256"
    assert len(titles) == 3 - len(sizes)


def test_only_a_replay_has_a_size_of_nobody() -> None:
    assert [case.title for case in plan(["closed", "replay"], [0]).cases] == ["pipelined 256", "replay 0"]


def test_a_ratio_is_no_number_that_json_cannot_carry() -> None:
    result = result_of("growth", 256, [Sample(of_small=1.23456)])

    assert result.of_small == 1.235
    assert math.isfinite(result.spread["of_small"][1])
