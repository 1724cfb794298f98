"""As process 1 of a container: what is nobody's is reaped, and no exit code is taken from anybody who waits for it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from commitcast.persistence.recovery.census import Census, Process
from waiting import TIMEOUT_S

SCRIPT = """
    import os, subprocess, sys, time
    sys.path[:0] = {path!r}
    from commitcast.actors import AgentRuntime
    from commitcast.actors.sources.processes import registry
    from commitcast.actors.sources.command import CommandSource
    from commitcast.persistence.recovery.census import Census

    registry.STRAYS_PAUSE_S = 0.02
    assert os.getpid() == 1

    def zombies():
        return [one.pid for one in Census.take().processes.values() if not one.is_alive]

    def wait_until(predicate):
        deadline = time.monotonic() + {timeout_s}
        while not (is_so := predicate()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return is_so

    hosts = [subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=alone) for alone in (True, False)]
    wait_until(lambda: len(zombies()) == 2)
    with AgentRuntime({db!r}) as runtime:
        script = "for n in 1 2 3; do (sleep 0.01 &) ; done; (setsid sleep 60 >/dev/null 2>&1 &); echo; read x <$0"
        agent = runtime.launch(CommandSource(["bash", "-c", script, {gate!r}], type="text", grace_s=0.2))
        wait_until(lambda: agent.messages())
        print("the host's two while it runs", wait_until(lambda: len(zombies()) == 2))
        open({gate!r}, "w").write("go on\\n")
        record = agent.wait({timeout_s})
        print(record.status, record.result["exit_code"])
    print("and at the end", wait_until(lambda: len(zombies()) == 2), [host.wait() for host in hosts])
"""

UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--mount-proc"]


def test_zombies_that_nobody_waits_for_are_reaped_and_all_exit_codes_are_kept(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = textwrap.dedent(SCRIPT).format(
        path=sys.path, db=str(tmp_path / "a.db"), gate=str(gate), timeout_s=TIMEOUT_S
    )

    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", script], capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=False
    )

    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said == [
        "the host's two while it runs True",
        "completed 0",
        "and at the end True [7, 7]",
    ]


def zombie(session: int, *, pid: int = 7, parent: int | None = None, is_alive: bool = False) -> Process:
    return Process(pid, os.getpid() if parent is None else parent, session, session, "1", is_alive)


@pytest.mark.parametrize(
    ("process", "is_stray"),
    [
        (zombie(6), True),
        (zombie(6, is_alive=True), False),
        (zombie(6, parent=6), False),
        (zombie(6, pid=8), False),
        (zombie(7), False),
        (zombie(os.getsid(0)), False),
    ],
    ids=["left to us", "alive", "another's child", "a command", "leads its session", "of our own session"],
)
def test_only_what_certainly_nobody_here_started_is_a_stray(process: Process, is_stray: bool) -> None:
    assert Census([process]).strays({8}) == ([process] if is_stray else [])
