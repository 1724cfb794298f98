"""Child processes: real ones, started, stopped with all that they started, and found again after a crash."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from commitcast.actors.sources import process
from commitcast.actors.sources.process import (
    has_exited,
    kill_orphan,
    open_pidfd,
    process_started,
    reap,
    start_process,
    stop_group,
)
from waiting import TIMEOUT_S, wait_until

EPOCH = "epoch-of-this-test"
STUBBORN = "trap '' TERM; echo ready; sleep 60"

Child = subprocess.Popen[bytes]


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """What a test starts, killed and reaped at its end whatever becomes of the test."""
    started: list[Child] = []
    yield started
    for child in started:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in filter(None, (child.stdin, child.stdout, child.stderr)):
            stream.close()


def start(children: list[Child], *argv: str, epoch: str = EPOCH, **options: str) -> Child:
    child = start_process(argv, agent="agent-1", epoch=epoch, env=options)
    children.append(child)
    return child


def shell(children: list[Child], script: str, epoch: str = EPOCH) -> Child:
    """Start a shell script and return once it has printed a line."""
    child = start(children, "/bin/sh", "-c", script, epoch=epoch)
    read_line(child)
    return child


def read_line(child: Child) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


def is_alive(pid: int) -> bool:
    return process_started(pid) is not None


# Starting.


def test_a_command_leads_its_own_session_and_group_and_knows_its_agent(children: list[Child]) -> None:
    script = "echo $COMMITCAST_AGENT $COMMITCAST_EPOCH $EXTRA; read line; echo end:$line"
    child = start(children, "/bin/sh", "-c", script, EXTRA="more", COMMITCAST_EPOCH="forged")

    assert read_line(child) == b"agent-1 epoch-of-this-test more\n"
    assert read_line(child) == b"end:\n"  # standard input is /dev/null
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid


def test_arguments_are_not_read_by_a_shell(children: list[Child]) -> None:
    child = start(children, "/bin/echo", "$HOME `id` 'x", "y;z")

    assert read_line(child) == b"$HOME `id` 'x y;z\n"


def test_descriptors_of_this_process_are_not_passed_on(children: list[Child], tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)

        child = start(children, "/bin/ls", "-l", "/proc/self/fd")

        assert child.stdout is not None
        assert b"secret" not in child.stdout.read()


# Telling one process from another.


def test_the_start_text_stays_the_same_while_a_process_lives_and_differs_from_any_other(
    children: list[Child],
) -> None:
    child = shell(children, "echo; exec sleep 60")

    started = process_started(child.pid)

    assert started is not None
    assert started == process_started(child.pid)
    assert started != process_started(1)
    assert started.startswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def test_the_start_time_is_read_past_any_name_of_a_process(children: list[Child], tmp_path: Path) -> None:
    program = tmp_path / ") Z 1 (x y)"
    program.symlink_to("/bin/sleep")
    child = start(children, str(program), "60")
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()

    started = process_started(child.pid)

    assert started is not None
    assert started.endswith(f":{fields[19]}")


def test_a_zombie_counts_as_gone(children: list[Child]) -> None:
    child = start(children, "/bin/true")

    wait_until(lambda: has_exited(child.pid), "the child to exit")

    assert process_started(child.pid) is None
    assert child.wait() == 0  # it was not reaped by looking at it


def test_a_process_whose_main_thread_has_ended_is_not_taken_for_a_zombie(children: list[Child]) -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (print(flush=True), time.sleep(60))).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = start(children, sys.executable, "-c", script)
    read_line(child)
    stat = Path(f"/proc/{child.pid}/stat")
    wait_until(lambda: ") Z " in stat.read_text(), "the main thread to end")

    assert is_alive(child.pid)


def test_no_such_process_has_no_start(children: list[Child]) -> None:
    child = start(children, "/bin/true")
    child.wait()

    assert process_started(child.pid) is None


# Exit codes.


def test_a_pidfd_becomes_readable_at_the_exit_and_reaping_gives_the_exit_code(children: list[Child]) -> None:
    child = start(children, "/bin/sh", "-c", "exit 7")
    fd = open_pidfd(child.pid)
    assert fd is not None

    wait_until(lambda: has_exited(child.pid), "the child to exit")
    os.close(fd)

    assert reap(child) == 7


def test_an_exit_code_that_somebody_else_took_is_not_called_success(children: list[Child]) -> None:
    child = start(children, "/bin/sh", "-c", "exit 7")
    os.waitpid(child.pid, 0)

    assert has_exited(child.pid)
    assert reap(child) is None


def test_a_child_that_cannot_be_killed_is_not_waited_for_for_ever(
    children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = shell(children, "echo; exec sleep 60")
    monkeypatch.setattr(process, "KILL_WAIT_S", 0.01)

    assert reap(child) is None
    assert is_alive(child.pid)


def test_without_pidfds_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError("filtered")

    monkeypatch.setattr(os, "pidfd_open", refuse)

    assert open_pidfd(os.getpid()) is None


# Stopping.


def test_stopping_ends_the_leader_and_its_background_children(children: list[Child]) -> None:
    child = start(children, "/bin/sh", "-c", "sleep 60 & echo $!; wait")
    background = int(read_line(child))

    assert stop_group(child.pid, TIMEOUT_S)

    assert child.wait() == -signal.SIGTERM
    assert not is_alive(background)


def test_a_group_that_ignores_sigterm_is_killed_after_the_grace(children: list[Child]) -> None:
    child = shell(children, f"({STUBBORN}) & {STUBBORN}")
    read_line(child)  # both are ready
    pauses: list[float] = []

    assert stop_group(child.pid, 0.05, pause=lambda pause_s: pauses.append(pause_s))

    assert pauses
    assert child.wait() == -signal.SIGKILL


def test_a_background_job_in_a_group_of_its_own_is_stopped_too(children: list[Child]) -> None:
    child = start(children, "/bin/bash", "-c", "set -m; sleep 60 & echo $!; wait")
    job = int(read_line(child))
    assert os.getpgid(job) != child.pid

    assert stop_group(child.pid, TIMEOUT_S)

    assert not is_alive(job)


def test_sigterm_is_sent_once(children: list[Child]) -> None:
    script = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('term', flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    child = start(children, sys.executable, "-c", script)
    read_line(child)
    heard: list[bytes] = []

    def pause(_: float) -> None:
        if not heard:
            heard.append(read_line(child))

    assert stop_group(child.pid, 0.05, pause=pause)

    assert child.stdout is not None
    assert heard + child.stdout.readlines() == [b"term\n"]


def test_stopping_what_is_gone_does_nothing(children: list[Child]) -> None:
    child = start(children, "/bin/true")
    child.wait()

    assert stop_group(child.pid, TIMEOUT_S)


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_cannot_be_killed_is_given_up_in_the_end(
    children: list[Child], monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    child = shell(children, STUBBORN)

    def refuse(_group: int, _number: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(process, "KILL_WAIT_S", 0.01)
        patch.setattr(os, "killpg", refuse)

        assert not stop_group(child.pid, 0)


# Orphans.


def test_an_orphan_with_the_same_start_is_killed_with_its_group(children: list[Child]) -> None:
    child = shell(children, "sleep 60 & echo $!; wait")

    assert kill_orphan(child.pid, process_started(child.pid), EPOCH, TIMEOUT_S)

    assert child.wait() == -signal.SIGTERM
    assert stop_group(child.pid, 0)


@pytest.mark.parametrize("pid_started", ["another-boot:1", ""])
def test_a_process_with_another_start_is_left_alone_even_if_it_has_the_epoch(
    children: list[Child], pid_started: str
) -> None:
    child = shell(children, "echo; exec sleep 60")

    assert not kill_orphan(child.pid, pid_started, EPOCH, 0)

    assert is_alive(child.pid)


@pytest.mark.parametrize(("epoch", "killed"), [(EPOCH, True), ("another", False), ("", False), (EPOCH[:-1], False)])
def test_what_a_dead_leader_left_behind_is_killed_only_if_it_has_the_epoch(
    children: list[Child], epoch: str, killed: bool
) -> None:
    leader = start(children, "/bin/sh", "-c", "sleep 60 > /dev/null 2>&1 & echo $!")
    started = process_started(leader.pid) or "unknown"
    left_behind = int(read_line(leader))
    leader.wait()

    assert kill_orphan(leader.pid, started, epoch, TIMEOUT_S) is killed

    if killed:
        wait_until(lambda: not is_alive(left_behind), "what was left behind to be gone")
    else:
        assert is_alive(left_behind)
        os.kill(left_behind, signal.SIGKILL)


@pytest.mark.parametrize(("epoch", "killed"), [(EPOCH, True), ("another", False)])
def test_a_leader_whose_start_was_never_recorded_is_killed_only_if_it_has_the_epoch(
    children: list[Child], epoch: str, killed: bool
) -> None:
    child = shell(children, "echo; while :; do sleep 60; done")  # no exec: in it there is no environment to be read

    assert kill_orphan(child.pid, None, epoch, TIMEOUT_S) is killed

    assert is_alive(child.pid) is not killed


@pytest.mark.parametrize("pid", [-1, 0, 1, os.getpgrp(), os.getsid(0)])
def test_a_damaged_record_never_kills_this_process_or_everything(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    killed: list[int] = []
    monkeypatch.setattr(process, "stop_group", lambda pgid, grace_s: killed.append(pgid))
    monkeypatch.setattr(process, "_has_epoch", lambda pid, epoch: True)

    assert not kill_orphan(pid, process_started(pid), EPOCH, 0)
    assert not kill_orphan(pid, None, EPOCH, 0)

    assert not killed


def test_a_process_that_vanishes_while_it_is_looked_at_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = process._Stat(pid=2**22 + 1, alive=True, group=2**22 + 1, session=2**22 + 1, started="1")
    monkeypatch.setattr(process, "_members", lambda pgid: iter([gone]))

    assert not kill_orphan(gone.pid, None, EPOCH, 0)


def test_nothing_is_left_to_kill_when_all_are_gone(children: list[Child]) -> None:
    child = start(children, "/bin/true")
    started = process_started(child.pid)
    child.wait()

    assert not kill_orphan(child.pid, started, EPOCH, TIMEOUT_S)
