"""Children that a test starts as an agent's commands, without a runtime around them."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from commitcast.actors.sources.processes.process import Program, start_process
from commitcast.persistence.recovery.identity import process_started
from waiting import wait_until

EPOCH = f"epoch-of-this-test-{os.getpid()}"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 60; done"

Child = subprocess.Popen[bytes]


class Children(list[Child]):
    """What a test has started."""

    def start(self, *argv: str, epoch: str = EPOCH, agent: str = "agent-1", **env: str) -> Child:
        """Start a program."""
        child = start_process(Program(argv, agent, epoch, env=env))
        self.append(child)
        return child

    def shell(self, script: str, epoch: str = EPOCH, **env: str) -> Child:
        """Start a shell script and return once it has printed a line and become what it then runs (`exec`)."""
        child = self.start("/bin/sh", "-c", script, epoch=epoch, **env)
        wait_for_script(child, script)
        return child

    def end(self) -> None:
        """Kill and reap what is left."""
        for child in self:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            for stream in filter(None, (child.stdin, child.stdout, child.stderr)):
                stream.close()


def read_line(child: Child) -> bytes:
    """Return the next line that a child prints."""
    assert child.stdout is not None
    return child.stdout.readline()


def wait_for_script(child: Child, script: str) -> None:
    """Return once a script has printed a line and become what it then runs (`exec`)."""
    read_line(child)
    if last := script.rpartition("; exec ")[2] if "; exec " in script else "":
        wait_until(lambda: _runs(child.pid, last.split()[0].encode()), f"{last} runs")


def _runs(pid: int, program: bytes) -> bool:
    """Whether a process has become that program, with its environment: in the midst of execve it shows none."""
    process = Path(f"/proc/{pid}")
    return (process / "cmdline").read_bytes().startswith(program) and bool((process / "environ").read_bytes())


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return process_started(pid) is not None
