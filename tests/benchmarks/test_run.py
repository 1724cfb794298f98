"""The benchmarks' command with tiny sizes: real files, sockets and processes; nothing here is timed."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import injected_faults
import load
from benchmark_errors import BenchmarkError
from child import Child
from commands import run, running
from run import main
from waiting import wait_until

pytestmark = pytest.mark.sampled(4, of_file=True)

PROGRAM = (sys.executable, str(Path(__file__).with_name("run.py")))
TINY = ("--rounds", "1", "--messages", "64", "--agents", "2", "--rows", "2000")
RATIOS = {
    "closed": ("times_naive", "of_ceiling", "ack_of_commit", "ack_p50_ms", "ack_p99_ms"),
    "pipelined": ("times_naive", "of_ceiling", "ack_p50_ms", "ack_p99_ms"),
    "mixed": ("times_naive", "of_ceiling"),
    "launch": ("times_naive",),
    "growth": ("of_small",),
    "replay": ("of_chain",),
    "fanout": ("of_bare", "send_of_bare"),
}
OF_TROUBLE = {
    "stalled": ("live_p99_ms", "p99_of_alone"),
    "restart": ("back_after_term_s", "back_after_kill_s"),
}


def fail_in_this_process(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    code = main(arguments)
    return code, capfd.readouterr().err


def test_json_has_the_yardsticks_first_and_then_every_scenario(tmp_path: Path) -> None:
    names = [option for name in (*RATIOS, "idle") for option in ("--scenario", name)]

    done = run(*TINY, *names, "--json", "--folder", str(tmp_path), program=PROGRAM)

    assert (done.returncode, done.stderr) == (0, "")
    yardsticks, *results = [json.loads(line) for line in done.stdout.splitlines()]
    assert yardsticks["scenario"] == "yardsticks"
    assert yardsticks["naive_per_s"] > 0 and yardsticks["ceiling_per_s"] > 0 and yardsticks["commit_p50_ms"] > 0
    assert {"cpu", "cores", "python", "sqlite", "apsw", "filesystem"} <= set(yardsticks["machine"])
    by_name = {result["scenario"]: result for result in results}
    assert set(by_name) == {*RATIOS, "idle"}
    for name, fields in RATIOS.items():
        assert by_name[name]["messages_per_s"] > 0
        assert all(by_name[name][field] > 0 for field in fields), name
        least, most = by_name[name]["spread"]["messages_per_s"]
        assert least <= by_name[name]["messages_per_s"] <= most
    assert by_name["idle"]["stop_s"] > 0 and "bytes_per_agent" in by_name["idle"]
    assert (by_name["fanout"]["agents"], by_name["fanout"]["subscribers"]) == (1, 2)
    assert by_name["growth"]["rows"] == 2000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sampled(0)
def test_trouble_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(injected_faults, "STALLED_PER_S", 100.0)
    monkeypatch.setattr(injected_faults, "BEFORE_STOP_S", 0.1)
    names = [option for name in OF_TROUBLE for option in ("--scenario", name)]
    sizes = ("--rounds", "1", "--messages", "100", "--agents", "10")

    code = main([*sizes, *names, "--json", "--folder", str(tmp_path)])

    shown = capfd.readouterr()
    assert (code, shown.err) == (0, "")
    by_name = {result["scenario"]: result for result in map(json.loads, shown.out.splitlines())}
    for name, fields in OF_TROUBLE.items():
        assert all(by_name[name][field] > 0 for field in fields), name
        assert by_name[name]["subscribers"] == 10
    assert "grown_mib" in by_name["stalled"]
    assert (by_name["stalled"]["agents"], by_name["restart"]["agents"]) == (1, 10)
    assert list(tmp_path.iterdir()) == []


def test_those_who_were_to_stall_and_did_not_void_the_measurement(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, errors = fail_in_this_process(
        capfd, "--scenario", "stalled", "--rounds", "1", "--messages", "4", "--agents", "2", "--folder", str(tmp_path)
    )

    assert (code, errors) == (1, "run.py: 1 were to stall and 0 have: increase --messages\n")


@pytest.mark.sampled(0)
def test_people_get_a_table_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"

    done = run(
        *(*TINY, "--agents", "1", "--scenario", "closed", "--plot", str(picture), "--folder", str(tmp_path)),
        program=PROGRAM,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "naive" in done.stdout and "ceiling" in done.stdout
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["closed", "1"] in lines and ["closed", "2"] in lines
    assert "≤ 1.3 × a bare commit" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(tmp_path.iterdir()) == [picture]


def test_a_far_end_that_is_given_other_content_fails_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "content_of", lambda agent, sequence: f"not what {agent} says")

    code, errors = fail_in_this_process(capfd, *TINY, "--scenario", "pipelined", "--folder", str(tmp_path))

    assert code == 1
    assert errors.startswith("run.py: the receiver says: the subscriber was given message 1 of agent bench-000000")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_future_that_fails_fails_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "content_of", lambda agent, sequence: "\udc80")  # which cannot be stored

    code, errors = fail_in_this_process(
        capfd, *TINY, "--scenario", "closed", "--agents", "1", "--folder", str(tmp_path)
    )

    assert code == 1
    assert errors.startswith("run.py: the future of message 1 of bench-000000 failed: content has a lone surrogate")


def test_a_child_that_ends_before_it_is_done_is_told_of() -> None:
    with (
        pytest.raises(BenchmarkError, match="the receiver ended with code -9"),
        Child("idle_agents", "the receiver") as child,
    ):
        child._process.kill()
        child.hear()


def test_an_interrupted_command_leaves_nothing_behind(tmp_path: Path) -> None:
    with running("--scenario", "pipelined", "--folder", str(tmp_path), program=PROGRAM) as command:
        wait_until(lambda: list(tmp_path.glob("*/*/bench.db")), "the first file")

        command.process.send_signal(signal.SIGINT)

        assert command.wait() == 130
    assert "".join(command.output + command.errors) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    code, errors = fail_in_this_process(capfd, "--plot", str(tmp_path / "x.png"), "--folder", str(tmp_path))

    assert (code, errors) == (1, "run.py: a plot needs matplotlib: pip install matplotlib\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--scenario", "other"), "invalid choice: 'other'"),
        (("--folder", "not/there"), "there is no folder not/there"),
        (("--plot", "not/there/x.png"), "there is no folder"),
    ],
)
def test_an_option_that_cannot_be_measured_is_refused(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert why in capfd.readouterr().err
