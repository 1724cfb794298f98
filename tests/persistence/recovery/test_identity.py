"""Processes are told from each other, and signalled only if they are the ones that are meant."""

import os
import signal
import sys
from pathlib import Path

import pytest

from commitcast.actors.sources.processes.process import has_exited
from commitcast.persistence.recovery import identity
from commitcast.persistence.recovery.identity import (
    is_still,
    names_boot,
    open_pidfd,
    process_started,
    runtime_is_alive,
    signal_process,
    start_text,
    this_runtime,
)
from shells import Children, is_alive, read_line
from waiting import wait_until

# Telling one process from another.


def test_the_start_text_stays_the_same_while_a_process_lives_and_differs_from_any_other(
    children: Children,
) -> None:
    child = children.shell("echo; exec sleep 60")

    started = process_started(child.pid)

    assert started is not None
    assert started == process_started(child.pid)
    assert started != process_started(1)
    assert started.startswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def test_the_start_time_is_read_past_any_name_of_a_process(children: Children, tmp_path: Path) -> None:
    program = tmp_path / ") Z 1 (x y)"
    program.symlink_to("/bin/sleep")
    child = children.start(str(program), "60")
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()

    started = process_started(child.pid)

    assert started is not None
    assert started.endswith(f":{fields[19]}")


def test_a_zombie_counts_as_gone(children: Children) -> None:
    child = children.start("/bin/true")

    wait_until(lambda: has_exited(child.pid), "the child to exit")

    assert process_started(child.pid) is None
    assert child.wait() == 0  # it was not reaped by looking at it


def test_a_process_whose_main_thread_has_ended_is_not_taken_for_a_zombie(children: Children) -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (print(flush=True), time.sleep(60))).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = children.start(sys.executable, "-c", script)
    read_line(child)
    stat = Path(f"/proc/{child.pid}/stat")
    wait_until(lambda: ") Z " in stat.read_text(), "the main thread to end")

    assert is_alive(child.pid)


def test_no_such_process_has_no_start(children: Children) -> None:
    child = children.start("/bin/true")
    child.wait()

    assert process_started(child.pid) is None


# Runtimes.


def test_a_runtime_that_has_ended_or_whose_number_another_has_is_not_alive(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")
    namespace = this_runtime().split(":")[0]
    alive = f"{namespace}:{child.pid}:{process_started(child.pid)}"

    assert runtime_is_alive(alive)
    assert not runtime_is_alive(f"{alive}0")
    assert not runtime_is_alive(f"{namespace}:{child.pid}:another-boot:1")
    child.kill()
    child.wait()
    assert not runtime_is_alive(alive)


def test_a_runtime_that_cannot_be_seen_from_here_counts_as_alive_and_one_that_was_not_named_does_not() -> None:
    assert runtime_is_alive("another-namespace:2:boot:3")
    assert not runtime_is_alive("")


# Without the boot's name, as in some sandboxes.


def test_where_the_boot_has_no_name_a_start_is_the_time_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = start_text("77")
    monkeypatch.setattr(identity, "_BOOT_ID_PATH", str(tmp_path / "missing"))

    assert start_text("77") == ":77"
    assert not names_boot(start_text("77")) and names_boot(named)
    started = process_started(os.getpid())
    assert started is not None and started.startswith(":")
    assert runtime_is_alive(this_runtime())


# Signalling.


def test_without_pidfds_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError("filtered")

    monkeypatch.setattr(os, "pidfd_open", refuse)

    assert open_pidfd(os.getpid()) is None


def test_a_process_is_signalled_only_if_it_is_still_the_one_that_is_meant(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")
    started = _ticks(child.pid)

    assert not signal_process(child.pid, f"{started}0", signal.SIGKILL)
    assert is_alive(child.pid) and is_still(child.pid, started)

    assert signal_process(child.pid, started, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not signal_process(child.pid, started, signal.SIGKILL)


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_a_process_is_signalled_by_its_number_where_there_are_no_pidfds(
    children: Children, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    child = children.shell("echo; exec sleep 60")

    def refuse(_: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", refuse)

    assert signal_process(child.pid, _ticks(child.pid), signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def _ticks(pid: int) -> str:
    started = process_started(pid)
    assert started is not None
    return started.rpartition(":")[2]
