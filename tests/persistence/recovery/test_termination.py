"""The end of all that one agent has started, on real processes: what is told to end, and when it is over."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from commitcast.persistence.recovery import termination
from commitcast.persistence.recovery.census import Census
from commitcast.persistence.recovery.termination import Termination
from shells import EPOCH, STUBBORN, Child, Children, is_alive, read_line
from waiting import TIMEOUT_S, wait_until

DETACHED = "setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!; wait"
"""A tool in a session of its own; a shell in the background does not lead its group, so the number stays."""

DAEMON = """
import os, sys
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    print(os.getpid(), flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2): os.dup2(null, number)
    import time; time.sleep(60)
os.wait()
"""
"""Forks twice, as daemons do, and lets go of everything but its environment."""


def end(child: Child | None, grace_s: float, then: Callable[[], object] = lambda: None, epoch: str = EPOCH) -> bool:
    """Bring an agent's processes to their end, and return whether nobody is left."""
    ending = Termination(epoch, time.monotonic() + grace_s, child=None if child is None else child.pid)

    def step() -> bool:
        ending.step(Census.take(), time.monotonic())
        then()
        return ending.is_over

    wait_until(step, "its end")
    return not ending.left


def test_the_leader_and_its_background_children_are_ended(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "sleep 60 & echo $!; wait")
    background = int(read_line(child))

    assert end(child, TIMEOUT_S)

    assert child.wait() == -signal.SIGTERM
    assert not is_alive(background)


def test_a_group_that_ignores_sigterm_is_killed_after_the_grace(children: Children) -> None:
    child = children.shell(f"({STUBBORN}) & {STUBBORN}")
    read_line(child)  # both are ready

    assert end(child, 0.05)

    assert child.wait() == -signal.SIGKILL


def test_a_background_job_in_a_group_of_its_own_is_ended_too(children: Children) -> None:
    child = children.start("/bin/bash", "-c", "set -m; sleep 60 & echo $!; wait")
    job = int(read_line(child))
    assert os.getpgid(job) != child.pid

    assert end(child, TIMEOUT_S)

    assert not is_alive(job)


@pytest.mark.parametrize(
    "argv",
    [("/bin/sh", "-c", DETACHED), (sys.executable, "-c", DAEMON)],
    ids=["in a session of its own", "a daemon"],
)
@pytest.mark.parametrize("leads", [True, False], ids=["its command lives", "its command has ended"])
def test_what_has_left_the_session_is_found_by_the_epoch(
    children: Children, argv: tuple[str, ...], leads: bool
) -> None:
    child = children.start(*argv)
    escaped = int(read_line(child))
    wait_until(lambda: os.getsid(escaped) != child.pid, "it to leave the session")
    if not leads:
        child.kill()
        child.wait()

    assert end(child if leads else None, TIMEOUT_S)

    wait_until(lambda: not is_alive(escaped), "it to be gone")


def test_what_has_cleared_its_environment_is_found_by_its_parent(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "env -i setsid sleep 60 >/dev/null 2>&1 & echo $!; wait")
    escaped = int(read_line(child))
    wait_until(lambda: os.getsid(escaped) == escaped, "it to leave the session")

    assert end(child, TIMEOUT_S)

    assert not is_alive(escaped)


def test_what_belonged_once_belongs_when_its_parent_has_ended_and_nothing_about_it_says_so(children: Children) -> None:
    script = "trap '' TERM; env -i setsid sh -c \"trap '' TERM; sleep 60\" >/dev/null 2>&1 & echo $!; exec sleep 60"
    child = children.start("/bin/sh", "-c", script)
    escaped = int(read_line(child))
    wait_until(lambda: os.getsid(escaped) == escaped, "it to leave the session")

    assert end(child, 0.3)

    assert not is_alive(escaped)


def test_what_ends_by_itself_is_not_hurried(children: Children) -> None:
    tidy = "trap 'sleep 0.2; echo tidied; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    child = children.shell(tidy)

    assert end(child, TIMEOUT_S)

    assert read_line(child) == b"tidied\n"
    assert child.wait() == 7


def test_sigterm_is_sent_once(children: Children) -> None:
    script = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('term', flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    child = children.start(sys.executable, "-c", script)
    read_line(child)
    heard: list[bytes] = []

    def hear() -> None:
        if not heard:
            heard.append(read_line(child))

    assert end(child, 0.5, then=hear)

    assert child.stdout is not None
    assert heard + child.stdout.readlines() == [b"term\n"]


def test_one_that_was_stopped_hears_sigterm_too(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")
    os.kill(child.pid, signal.SIGSTOP)

    assert end(child, TIMEOUT_S)

    assert child.wait() == -signal.SIGTERM


def test_what_is_not_the_agents_is_left_alone(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")
    other = children.shell("echo; exec sleep 60", epoch=f"{EPOCH}-2")
    unmarked = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    children.append(unmarked)

    assert end(child, 0)

    assert is_alive(other.pid) and is_alive(unmarked.pid)


def test_this_process_and_what_it_descends_from_are_never_the_agents(children: Children) -> None:
    script = (
        "import time\n"
        "from commitcast.persistence.recovery.census import Census\n"
        "from commitcast.persistence.recovery.termination import Termination\n"
        f"ending = Termination('{EPOCH}', 0)\n"
        "while not ending.is_over: ending.step(Census.take(), time.monotonic())\n"
        "print('here', ending.seen, flush=True)\n"
    )
    child = children.start("/bin/sh", "-c", f'{sys.executable} -c "{script}"; echo there')

    assert (read_line(child), read_line(child)) == (b"here 0\n", b"there\n")


def test_what_is_gone_is_over_at_once(children: Children) -> None:
    child = children.start("/bin/true")
    child.wait()

    assert end(child, TIMEOUT_S)
    assert end(None, TIMEOUT_S)


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_what_cannot_be_killed_is_given_up_in_the_end_and_logged_once(
    children: Children, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[OSError]
) -> None:
    child = children.shell(STUBBORN)

    def refuse(_group: int, _number: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(termination, "KILL_WAIT_S", 0.01)
        patch.setattr(os, "killpg", refuse)

        assert not end(child, 0)

    (record,) = caplog.records
    assert re.match(
        rf"processes (\d+, )*{child.pid}\b.* did not end after SIGKILL and are left running", record.getMessage()
    )
    assert EPOCH in record.getMessage()


def test_without_a_census_at_least_the_group_of_the_command_is_stopped(children: Children) -> None:
    child = children.shell(f"({STUBBORN}) & {STUBBORN}")
    ending = Termination(EPOCH, time.monotonic() + 0.05, child=child.pid)

    def is_killed() -> bool:
        ending.step(None, time.monotonic())
        return child.poll() is not None

    wait_until(is_killed, "the command to be killed")

    assert child.returncode == -signal.SIGKILL
