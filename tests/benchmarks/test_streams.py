"""The scenario `streams` with tiny loads: every way delivers every token, and the figures are of the same round."""

import json
import sys
from pathlib import Path

import pytest

import streams
from benchmark_errors import BenchmarkError
from child import Child
from commands import run
from commitcast.persistence.sqlite.verify import verify
from harness import Harness
from report import table_of_streams
from stream_control import ControlWriter
from stream_pace import dues_s, percentiles_ms
from streams import StreamSample, plan, results_of

pytestmark = pytest.mark.sampled(3, of_file=True)

PROGRAM = (sys.executable, str(Path(__file__).with_name("run.py")))


def test_every_way_is_measured_and_is_one_line_of_json(tmp_path: Path) -> None:
    sizes = ("--agents", "2", "--messages", "4", "--rounds", "1", "--host-us", "5")

    done = run("--scenario", "streams", *sizes, "--json", "--folder", str(tmp_path), program=PROGRAM)

    assert (done.returncode, done.stderr) == (0, "")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["way"] for result in results] == list(streams.WAYS)
    for result in results:
        assert (result["agents"], result["host_us"], result["rounds"]) == (2, 5, 1)
        assert result["cpu_us"] > 0 and result["commits"] >= 1 and 0 < result["delivered"] <= 1
        assert (result["p50_ms"] > 0) == (result["way"] not in ("source", "wait"))
    assert list(tmp_path.iterdir()) == []


def sample(p50_ms: float, cpu_us: float = 10) -> StreamSample:
    return StreamSample(p50_ms=p50_ms, p99_ms=9, cpu_us=cpu_us, loop_p99_ms=1, commits=5, delivered=1)


def test_a_goal_is_a_ratio_within_a_round() -> None:
    places = plan([64], [0, 20])
    slow_and_fast = [{place: sample(speed) for place in places} for speed in (1, 10, 100)]
    for samples in slow_and_fast:
        for work, control in ((0, "control"), (20, "control_process")):
            samples["emit", 64, work] = sample(1.9 * samples[control, 64, work].p50_ms)
            samples["follow", 64, work] = sample(3.1 * samples[control, 64, work].p50_ms)
        samples["wait", 64, 0] = sample(0, cpu_us=10.9)

    results = {(result.way, result.host_us): result for result in results_of(places, slow_and_fast)}

    assert results["emit", 0].of_control == 1.9
    for work in (0, 20):
        assert [goal.met for goal in results["emit", work].goals] == [True]
        assert [goal.met for goal in results["follow", work].goals] == [False]
    assert [goal.met for goal in results["wait", 0].goals] == [True]
    assert results["emit", 0].spread["p50_ms"] == (1.9, 190)
    lines = table_of_streams(list(results.values()))
    assert len(lines) == 1 + len(places) and "missed" in "".join(lines)


def test_goals_for_512_agents_are_figures_of_their_own() -> None:
    places = plan([512], [0])

    results = {result.way: result for result in results_of(places, [{place: sample(1) for place in places}])}

    assert [(goal.field, goal.met) for goal in results["emit"].goals] == [("delivered", True), ("p99_ms", True)]


def test_a_token_that_is_lost_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Child.hear

    def lossy(child: Child, *arguments: float) -> dict[str, object]:
        report = heard(child, *arguments)
        return report | {"timed": report["timed"] - 1} if "timed" in report else report

    monkeypatch.setattr(Child, "hear", lossy)
    with pytest.raises(BenchmarkError, match="7 of 8 tokens"):
        streams.measure(Harness(tmp_path, messages=4), "control", 2, 0)


def test_the_control_writes_a_file_of_the_product(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    writer = ControlWriter(path, 2, "delete")
    for _ in range(40):
        writer.commit([(0, "a"), (1, "b"), (0, "c")])
    writer.close()

    problems = verify(path).problems

    assert verify(path).messages == 120
    assert all("was changed since it was stored" in problem for problem in problems)  # it computes no checksums


def test_the_tokens_are_due_at_the_same_times_in_every_way() -> None:
    assert list(dues_s(7, 9)) == list(dues_s(7, 9)) != list(dues_s(8, 9))
    assert percentiles_ms([0.001] * 99 + [0.002]) == pytest.approx((1.0, 1.99))
    assert percentiles_ms([]) == (0.0, 0.0)
