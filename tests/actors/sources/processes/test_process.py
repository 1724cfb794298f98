"""One child process: started with its marks, told from every other, signalled only if it is the one that is meant."""

import os
import signal
import sys
from pathlib import Path

import pytest

from commitcast.actors.sources.processes import process
from commitcast.actors.sources.processes.census import read_owners
from commitcast.actors.sources.processes.process import (
    has_exited,
    is_still,
    names_boot,
    open_pidfd,
    process_started,
    reap,
    runtime_is_alive,
    signal_process,
    start_text,
    this_runtime,
)
from shells import EPOCH, Children, is_alive, read_line
from waiting import wait_until

# Starting.


def test_a_command_leads_its_own_session_and_group_and_knows_its_agent(children: Children) -> None:
    script = "echo $COMMITCAST_AGENT $COMMITCAST_EPOCH $EXTRA; read line; echo end:$line"
    child = children.start("/bin/sh", "-c", script, EXTRA="more", COMMITCAST_EPOCH="forged")

    assert read_line(child) == f"agent-1 {EPOCH} more\n".encode()
    assert read_line(child) == b"end:\n"  # standard input is /dev/null
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid


def test_arguments_are_not_read_by_a_shell(children: Children) -> None:
    child = children.start("/bin/echo", "$HOME `id` 'x", "y;z")

    assert read_line(child) == b"$HOME `id` 'x y;z\n"


def test_descriptors_of_this_process_are_not_passed_on(children: Children, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)

        child = children.start("/bin/ls", "-l", "/proc/self/fd")

        assert child.stdout is not None
        assert b"secret" not in child.stdout.read()


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


# Exit codes.


def test_a_pidfd_becomes_readable_at_the_exit_and_reaping_gives_the_exit_code(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "exit 7")
    fd = open_pidfd(child.pid)
    assert fd is not None

    wait_until(lambda: has_exited(child.pid), "the child to exit")
    os.close(fd)

    assert reap(child) == 7


def test_an_exit_code_that_somebody_else_took_is_not_called_success(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "exit 7")
    os.waitpid(child.pid, 0)

    assert has_exited(child.pid)
    assert reap(child) is None


def test_a_child_that_cannot_be_killed_is_not_waited_for_for_ever(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = children.shell("echo; exec sleep 60")
    monkeypatch.setattr(process, "KILL_WAIT_S", 0.01)

    assert reap(child) is None
    assert is_alive(child.pid)


def test_without_pidfds_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError("filtered")

    monkeypatch.setattr(os, "pidfd_open", refuse)

    assert open_pidfd(os.getpid()) is None


def test_what_started_a_command_is_named_in_it_and_is_alive(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")

    owners = read_owners(Path(f"/proc/{child.pid}/environ").read_bytes())

    assert owners == (("agent-1", EPOCH, this_runtime()),)
    assert owners[0].runtime_pid == os.getpid()
    assert runtime_is_alive(owners[0].runtime)


def test_a_command_of_a_program_that_is_itself_an_agents_names_both(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMITCAST_AGENT", "outer")
    monkeypatch.setenv("COMMITCAST_EPOCH", "e1")
    monkeypatch.setenv("COMMITCAST_RUNTIME", "1:2:boot:3")
    monkeypatch.setenv("COMMITCAST_OUTER", "outermost=e0=1:1:boot:1")

    child = children.shell("echo; exec sleep 60")

    owners = read_owners(Path(f"/proc/{child.pid}/environ").read_bytes())
    assert owners == (
        ("agent-1", EPOCH, this_runtime()),
        ("outer", "e1", "1:2:boot:3"),
        ("outermost", "e0", "1:1:boot:1"),
    )


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
    monkeypatch.setattr(process, "_BOOT_ID_PATH", str(tmp_path / "missing"))

    assert start_text("77") == ":77"
    assert not names_boot(start_text("77")) and names_boot(named)
    started = process_started(os.getpid())
    assert started is not None and started.startswith(":")
    assert runtime_is_alive(this_runtime())


# Signalling.


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
