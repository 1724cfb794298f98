"""What an earlier run has left behind: what is certainly an orphan is stopped, all together, and nothing else is."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commitcast.persistence.recovery import identity
from commitcast.persistence.recovery.census import Census, Owner, Process
from commitcast.persistence.recovery.identity import process_started, start_text, this_runtime
from commitcast.persistence.recovery.orphans import AtWork, find_orphans, stop_orphans
from shells import STUBBORN, Child, Children, is_alive, wait_for_script
from waiting import TIMEOUT_S, wait_until

EPOCH = f"epoch-of-an-orphan-{os.getpid()}"  # tests run beside each other, and orphans are found over the whole machine
DEAD = f"{this_runtime().split(':')[0]}:{2**22 + 1}:boot:1"
"""A runtime that has ended."""


def nobody(_: str) -> None:
    """A store in which no agent has ended."""


def orphan(children: Children, script: str, runtime: str = DEAD, epoch: str = EPOCH, agent: str = "a") -> Child:
    """Start what a runtime that has crashed could have started, and return once it runs, after a line of output."""
    marks = {"COMMITCAST_AGENT": agent, "COMMITCAST_EPOCH": epoch, "COMMITCAST_RUNTIME": runtime}
    child = subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **{name: value for name, value in marks.items() if value}},
    )
    children.append(child)
    wait_for_script(child, script)
    return child


def at_work(child: Child | None = None, started: str | None = None) -> list[AtWork]:
    """What the store says of the agent: a command that was recorded, or none."""
    if child is None:
        return [AtWork("a", EPOCH, None, None)]
    return [AtWork("a", EPOCH, child.pid, started or process_started(child.pid))]


def test_a_recorded_command_is_stopped_with_its_group(children: Children) -> None:
    child = orphan(children, "sleep 60 & echo $!; wait")

    assert stop_orphans(at_work(child), nobody, TIMEOUT_S) == {"a": 2}

    assert child.wait() == -signal.SIGTERM


def test_one_that_was_never_recorded_is_found_by_its_epoch(children: Children) -> None:
    child = orphan(children, "echo; while :; do sleep 60; done")

    assert "a" in stop_orphans(at_work(), nobody, TIMEOUT_S)

    assert not is_alive(child.pid)


def test_what_a_dead_command_left_in_a_session_of_its_own_is_found_by_its_epoch(children: Children) -> None:
    child = orphan(children, "setsid sleep 60 >/dev/null 2>&1 & echo $!")
    child.wait()
    started = "unknown"
    tool = next(pid for pid in _marked() if pid != child.pid)

    assert stop_orphans(at_work(child, started), nobody, TIMEOUT_S) == {"a": 1}

    wait_until(lambda: not is_alive(tool), "it to be gone")


def test_what_an_agent_left_behind_that_had_ended_is_stopped_too(children: Children) -> None:
    child = orphan(children, "echo; exec sleep 60")
    ended = {"a": EPOCH}

    assert stop_orphans([], ended.get, TIMEOUT_S) == {"a": 1}

    assert child.wait() == -signal.SIGTERM


def test_all_share_one_grace(children: Children) -> None:
    stubborn = [orphan(children, STUBBORN, epoch=f"{EPOCH}-{number}", agent=f"a{number}") for number in range(8)]
    agents = [AtWork(f"a{number}", f"{EPOCH}-{number}", child.pid, None) for number, child in enumerate(stubborn)]
    began = time.monotonic()

    found = stop_orphans(agents, nobody, 0.4)

    assert time.monotonic() - began < len(stubborn) * 0.4
    assert len(found) == 8
    assert [child.wait() for child in stubborn] == [-signal.SIGKILL] * 8


@pytest.mark.parametrize(
    "epoch_of", [nobody, {"a": "another"}.get], ids=["no such agent", "another agent of that name"]
)
def test_what_is_another_stores_is_left_alone(children: Children, epoch_of: Callable[[str], str | None]) -> None:
    child = orphan(children, "echo; exec sleep 60")

    assert stop_orphans([AtWork("b", "another", None, None)], epoch_of, 0) == {}

    assert is_alive(child.pid)


@pytest.mark.parametrize("runtime", [this_runtime(), "another-namespace:7:boot:1"], ids=["here", "out of sight"])
def test_what_a_living_runtime_is_at_work_with_is_left_alone_for_this_file_may_be_a_copy_of_its(
    children: Children, runtime: str
) -> None:
    child = orphan(children, "echo; exec sleep 60", runtime=runtime)

    assert stop_orphans(at_work(child), {"a": EPOCH}.get, 0, lambda epoch: epoch == EPOCH) == {}

    assert is_alive(child.pid)


def test_what_an_earlier_runtime_of_this_process_left_behind_is_stopped(children: Children) -> None:
    child = orphan(children, "echo; exec sleep 60", runtime=this_runtime())

    assert stop_orphans(at_work(child), nobody, TIMEOUT_S) == {"a": 1}

    assert not is_alive(child.pid)


def test_an_epoch_without_a_runtime_is_an_orphans_for_a_runtime_names_itself(children: Children) -> None:
    child = orphan(children, "echo; exec sleep 60", runtime="")

    assert stop_orphans(at_work(), nobody, TIMEOUT_S) == {"a": 1}

    assert not is_alive(child.pid)


# Commands that have cleared their environment: only their record tells.


def unmarked(children: Children) -> Child:
    child = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, env={})
    children.append(child)
    return child


def test_a_recorded_command_is_known_by_its_number_and_start_time(children: Children) -> None:
    child = unmarked(children)

    assert stop_orphans(at_work(child), nobody, TIMEOUT_S) == {"a": 1}

    assert child.wait() == -signal.SIGTERM


@pytest.mark.parametrize("started", ["another-boot:1", ":1", None])
def test_a_number_that_another_process_has_now_is_left_alone(children: Children, started: str | None) -> None:
    child = unmarked(children)

    assert stop_orphans([AtWork("a", EPOCH, child.pid, started)], nobody, 0) == {}

    assert is_alive(child.pid)


def test_without_the_boots_name_a_number_and_a_time_are_not_enough_and_the_epoch_is(
    children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(identity, "_BOOT_ID_PATH", str(tmp_path / "missing"))
    bare, marked = unmarked(children), orphan(children, "echo; exec sleep 60")

    assert stop_orphans(at_work(bare), nobody, TIMEOUT_S) == {"a": 1}

    assert is_alive(bare.pid) and not is_alive(marked.pid)


# Decisions on what one census says.


def made(pid: int, leader: int, *, is_marked: bool = False) -> Process:
    owners = (Owner("a", EPOCH, DEAD),) if is_marked else ()
    return Process(pid, 1, leader, leader, str(pid), is_alive=True, owners=owners)


def found(*processes: Process, pid: int, started: str | None = None) -> set[int]:
    agents = [AtWork("a", EPOCH, pid, started)]
    return {orphan.process.pid for orphan in find_orphans(Census(processes), agents, nobody)}


def test_the_group_of_a_dead_command_is_its_own_as_long_as_one_in_it_has_the_epoch() -> None:
    assert found(made(201, 200, is_marked=True), made(202, 200), pid=200) == {201, 202}
    assert found(made(201, 200), made(202, 200), pid=200) == set()


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_a_damaged_record_never_means_everything(pid: int) -> None:
    everything = [made(1, 1), made(201, 0), made(202, 1, is_marked=True)]

    assert found(*everything, pid=pid, started=start_text("1")) == {202}


def test_a_record_that_names_this_process_stops_nothing() -> None:
    us = process_started(os.getpid())

    assert stop_orphans([AtWork("a", EPOCH, os.getpid(), us)], nobody, 0).get("a", 0) == 0


def _marked() -> list[int]:
    return [one.pid for one in Census.take().marked[EPOCH]]
