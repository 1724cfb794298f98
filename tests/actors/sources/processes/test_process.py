"""One child process: started with its marks and nothing of this process, watched, and reaped with its exit code."""

import os
from pathlib import Path

import pytest

from commitcast.actors.sources.processes import process
from commitcast.actors.sources.processes.process import has_exited, reap
from commitcast.persistence.recovery.census import read_owners
from commitcast.persistence.recovery.identity import open_pidfd, runtime_is_alive, this_runtime
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
