"""Agents whose host is gone: all their processes are killed, at once, and nothing else is."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from commitcast.persistence.records import AgentRecord
from commitcast.persistence.recovery.census import Census, Owner, Process
from commitcast.persistence.recovery.identity import process_started, start_text
from commitcast.persistence.recovery.lost_host import _command_of, kill_processes_of
from shells import EPOCH, STUBBORN, Child, Children, is_alive, read_line
from stores import AT, RUNNING
from waiting import SLOWNESS, wait_until


def agent(child: Child | None = None, epoch: str = EPOCH, started: str | None = None) -> AgentRecord:
    """The record of an agent at work: its command was recorded, or not yet."""
    if child is None:
        return record(None, None, epoch)
    return record(child.pid, started or process_started(child.pid), epoch)


def record(pid: int | None, started: str | None, epoch: str = EPOCH) -> AgentRecord:
    """The record of an agent at work, with what it says of the command."""
    return AgentRecord(
        id="agent-1",
        epoch=epoch,
        position=1,
        type="agent",
        status=RUNNING,
        head=0,
        prompt="",
        created_at=AT,
        pid=pid,
        pid_started=started,
    )


def wait_for_a_bare_sleep(group: int) -> None:
    """Return once a process of a group has become `sleep` without an environment."""

    def is_there() -> bool:
        bare = [process.pid for process in Census.take().in_group(group) if process.is_blank]
        return any(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep") for pid in bare)

    wait_until(is_there, "a process to clear its environment")


def unmarked(children: Children, script: str) -> Child:
    """Start a command that has cleared its environment, and return once it has printed a line."""
    child = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, env={})
    children.append(child)
    read_line(child)
    return child


# What belongs to an agent.


def test_a_command_is_killed_with_its_group_though_the_process_that_started_it_lives(children: Children) -> None:
    child = children.shell(f"({STUBBORN}) & echo; {STUBBORN}")
    read_line(child)

    assert kill_processes_of([agent(child)]) >= 2

    assert child.wait() == -signal.SIGKILL
    assert Census.take().family(EPOCH, None) == {}


def test_what_has_left_the_session_is_killed_though_its_command_was_not_recorded(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!")
    escaped = int(read_line(child))
    wait_until(lambda: os.getsid(escaped) == escaped, "it to leave the session")
    child.wait()

    assert kill_processes_of([agent()]) == 1

    assert not is_alive(escaped)


def test_what_has_cleared_its_environment_is_killed_with_the_group_that_it_stays_in(children: Children) -> None:
    child = children.shell("env -i sleep 60 >/dev/null 2>&1 & echo; wait")
    wait_for_a_bare_sleep(child.pid)

    assert kill_processes_of([agent()]) == 2

    assert child.wait() == -signal.SIGKILL
    assert Census.take().in_group(child.pid) == []


def test_a_command_that_has_cleared_its_environment_is_known_by_its_record(children: Children) -> None:
    child = unmarked(children, "sleep 60 & echo; wait")

    assert kill_processes_of([agent(child)]) == 2

    assert child.wait() == -signal.SIGKILL


def test_the_group_of_a_command_that_has_ended_and_was_not_reaped_is_known_by_its_record(children: Children) -> None:
    child = unmarked(children, "sleep 60 >/dev/null & echo; wait")
    ended = agent(child)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    kill_processes_of([ended])

    assert Census.take().in_group(child.pid) == []


def test_the_group_of_a_command_that_has_gone_is_its_own_as_long_as_one_in_it_has_the_epoch(children: Children) -> None:
    child = children.shell("sleep 60 >/dev/null & env -i sleep 60 >/dev/null & echo; wait")
    ended = agent(child)
    wait_for_a_bare_sleep(child.pid)
    child.kill()
    child.wait()

    assert kill_processes_of([ended]) == 2

    assert Census.take().in_group(child.pid) == []


HOST = """
import sys
sys.path[:0] = {path!r}
from shells import Children
children = Children()
child = children.shell("setsid sleep 60 >/dev/null 2>&1 & echo; exec sleep 60", epoch={epoch!r})
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_host_leaves_is_killed_while_the_host_is_a_zombie(children: Children) -> None:
    script = HOST.format(path=sys.path, epoch=EPOCH)
    host = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    children.append(host)
    command = int(read_line(host))
    wait_until(lambda: len({one.session for one in Census.take().marked[EPOCH]}) == 2, "one to leave the session")
    host.kill()
    os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)

    assert kill_processes_of([agent()]) == 2

    assert not is_alive(command)
    assert Census.take().family(EPOCH, None) == {}
    host.wait()


SPAWN = f"""
import os, sys
read, write = os.pipe()
pid = os.fork()
if not pid:
    os.setsid()
    gate = open(sys.argv[1])
    gate.read(1)
    os.execve("/bin/sleep", ["sleep", "60"], {{"COMMITCAST_AGENT": "a", "COMMITCAST_EPOCH": "{EPOCH}"}})
print(pid, flush=True)
"""
"""A host that ends between the fork and the exec of a command."""


def test_a_command_that_was_forked_and_executes_only_after_the_first_look_is_killed(
    children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, take = tmp_path / "gate", Census.take
    os.mkfifo(path)
    gate = os.open(path, os.O_RDWR)
    host = subprocess.Popen([sys.executable, "-c", SPAWN, str(path)], stdout=subprocess.PIPE)
    children.append(host)
    command = int(read_line(host))
    host.wait()

    def take_and_let_it_execute() -> Census:
        census = take()
        os.write(gate, b"x")
        return census

    monkeypatch.setattr(Census, "take", take_and_let_it_execute)
    try:
        killed = kill_processes_of([agent()])

        assert killed == 1 and not is_alive(command)
    finally:
        os.close(gate)
        with suppress(ProcessLookupError):
            os.kill(command, signal.SIGKILL)


# What does not.


def test_what_is_another_agents_is_left_alone(children: Children) -> None:
    other = children.shell("echo; exec sleep 60", epoch=f"{EPOCH}-2")
    foreign = unmarked(children, "echo; exec sleep 60")

    assert kill_processes_of([agent()]) == 0

    assert is_alive(other.pid) and is_alive(foreign.pid)


@pytest.mark.parametrize("started", ["another-boot:1", ":1"])
def test_a_number_that_another_process_has_now_is_left_alone(children: Children, started: str) -> None:
    child = unmarked(children, "echo; exec sleep 60")

    assert kill_processes_of([agent(child, started=started)]) == 0

    assert is_alive(child.pid)


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_a_damaged_record_never_means_everything(pid: int) -> None:
    of_the_agent = (Owner("agent-1", EPOCH, ""),)
    init = Process(1, 0, 1, 1, "1", is_alive=True)
    everything = [
        Process(200 + leader, 1, leader, leader, "2", is_alive=True, owners=of_the_agent) for leader in (-1, 0, 1)
    ]

    assert _command_of(record(pid, start_text("1")), Census([init, *everything])) == []


# How long it takes.


def test_a_hundred_agents_are_killed_together_in_well_under_a_second(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [children.start("/bin/sleep", "60", epoch=f"{EPOCH}-{number}") for number in range(100)]
    agents = [agent(child, epoch=f"{EPOCH}-{number}") for number, child in enumerate(started)]
    readings: list[int] = []
    take = Census.take

    def count() -> Census:
        readings.append(1)
        return take()

    monkeypatch.setattr(Census, "take", count)
    began = time.monotonic()

    assert kill_processes_of(agents) == 100

    assert time.monotonic() - began < SLOWNESS
    assert len(readings) < 20
    assert {child.wait() for child in started} == {-signal.SIGKILL}


def test_what_cannot_be_killed_is_given_up_at_the_limit_and_logged(
    children: Children, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child = children.shell("echo; exec sleep 60")

    def refuse(_group: int, _number: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        began = time.monotonic()

        assert kill_processes_of([agent(child)], limit_s=0.05) == 1

    assert time.monotonic() - began < 5 * SLOWNESS
    (logged,) = caplog.records
    assert re.match(rf"processes {child.pid} did not end after SIGKILL and are left running", logged.getMessage())


def test_while_no_descriptor_is_free_it_is_tried_again(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    child = children.shell("echo; exec sleep 60")
    errors = [OSError(errno.EMFILE, "Too many open files")]
    take = Census.take

    def take_later() -> Census:
        if errors:
            raise errors.pop()
        return take()

    monkeypatch.setattr(Census, "take", take_later)

    assert kill_processes_of([agent(child)]) == 1
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("number", "limit_s"), [(errno.EMFILE, 0.05), (errno.ENOENT, 60.0)])
def test_where_processes_cannot_be_listed_it_says_so(
    monkeypatch: pytest.MonkeyPatch, number: int, limit_s: float
) -> None:
    def refuse() -> Census:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Census, "take", refuse)
    began = time.monotonic()

    with pytest.raises(OSError, match=os.strerror(number)):
        kill_processes_of([agent()], limit_s)

    assert time.monotonic() - began < 5 * SLOWNESS
