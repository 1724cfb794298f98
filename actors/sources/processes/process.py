"""One child process: started in a session of its own, marked as its agent's, watched, reaped.

Does not signal it: while a child is not reaped the kernel does not give its number away, and of any other process the
start time must match (see `persistence.recovery.identity`). Any thread.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from commitcast.actors.sources.processes.file_limit import give_limit, given_limit
from commitcast.persistence.recovery.census import (
    AGENT_VARIABLE,
    EPOCH_VARIABLE,
    OUTER_VARIABLE,
    RUNTIME_VARIABLE,
    outer_agents,
)
from commitcast.persistence.recovery.identity import KILL_WAIT_S, this_runtime


class Program(NamedTuple):
    """A program as it is started for an agent."""

    argv: Sequence[str]
    """The program and its arguments; no shell reads them."""
    agent: str
    epoch: str
    """Of that agent."""
    cwd: str | None = None
    """The directory in which it starts; None for this process's own."""
    env: Mapping[str, str] = {}
    """Added to this process's environment."""


def start_process(program: Program, *, stdin: bool = False) -> subprocess.Popen[bytes]:
    """Start a program as the leader of a new session and process group, with unbuffered pipes.

    Args:
        program: what to start.
        stdin: whether standard input is a pipe; otherwise it is /dev/null.

    Raises:
        OSError: it cannot be started.
        ValueError: an argument holds a NUL character.
    """
    outer = outer_agents(os.environ)
    environment = {
        **os.environ,
        **program.env,
        AGENT_VARIABLE: program.agent,
        EPOCH_VARIABLE: program.epoch,
        RUNTIME_VARIABLE: this_runtime(),
        **({OUTER_VARIABLE: outer} if outer else {}),
    }
    with given_limit() as has_it:
        process = subprocess.Popen(
            program.argv,
            bufsize=0,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=True,
            start_new_session=True,
            cwd=program.cwd,
            env=environment,
        )
    if not has_it:
        give_limit(process.pid)
    return process


def has_exited(pid: int) -> bool:
    """Tell whether a child has exited, without reaping it: that would give its number away."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # other code in this program reaped it
        return True


def reap(process: "subprocess.Popen[bytes]") -> int | None:
    """Reap a child that has exited and return its exit code, negative for a signal.

    Returns None if the exit code is lost because something else in this program waits for all children, or
    ignores SIGCHLD (`Popen` would call that 0), or if the child cannot be killed.
    """
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        process.wait()
        return None
    try:
        return process.wait(KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return None
