"""One child process: started in a session of its own, marked as its agent's, identified, signalled, reaped.

A process is never signalled on its number alone, because numbers are reused: while a child is not reaped the kernel
does not give its number away, and of any other process the start time must match. Linux: reads /proc. Any thread.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from commitcast.actors.sources.processes.census import (
    AGENT_VARIABLE,
    EPOCH_VARIABLE,
    OUTER_VARIABLE,
    RUNTIME_VARIABLE,
    outer_agents,
    read_process,
)
from commitcast.actors.sources.processes.file_limit import give_limit, given_limit

KILL_WAIT_S: Final = 10.0
"""After SIGKILL only a process in a hanging system call (a dead NFS mount) is left: give up on it."""

_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"
_NAMESPACE_PATH: Final = "/proc/self/ns/pid"


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


def this_runtime() -> str:
    """Return a name of this process for others: the namespace of its number, its number, its start; "" if unknown."""
    started = process_started(os.getpid())
    return f"{_namespace()}:{os.getpid()}:{started}" if started is not None else ""


def runtime_is_alive(runtime: str) -> bool:
    """Tell whether the process that `this_runtime` named is there; True also if that cannot be judged from here.

    False if none was named: a runtime always names itself.
    """
    if not runtime:
        return False
    namespace, _, process = runtime.partition(":")
    pid, _, started = process.partition(":")
    if namespace != _namespace() or not pid.isdecimal():
        return True
    now = process_started(int(pid))
    return now is not None and is_same_start(now, started)


def _namespace() -> str:
    try:
        return os.readlink(_NAMESPACE_PATH).strip("pid:[]")
    except OSError:
        return ""


def process_started(pid: int) -> str | None:
    """Return a text that no other process ever has, also not a later one with the same number.

    It names the boot and the start time; only the latter where the boot has no name (some sandboxes), which is weaker:
    see `names_boot`. None if there is no such process, or only its zombie, or /proc cannot be read now.
    """
    try:
        process = read_process(pid)
    except OSError:  # no descriptor is free: a process recorded without this text is found by its epoch
        return None
    return start_text(process.started) if process is not None and process.is_alive else None


def start_text(ticks: str) -> str:
    """Return the text for a process of this boot that started at that clock tick."""
    try:
        with open(_BOOT_ID_PATH, encoding="ascii") as file:
            return f"{file.read().strip()}:{ticks}"
    except (OSError, ValueError):
        return f":{ticks}"


def names_boot(started: str) -> bool:
    """Tell whether a text of `process_started` names the boot."""
    return not started.startswith(":")


def is_same_start(first: str, second: str) -> bool:
    """Tell whether two texts of `process_started`, for the same number, may mean the same process."""
    if names_boot(first) and names_boot(second):
        return first == second
    return first.rpartition(":")[2] == second.rpartition(":")[2]


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a child exits; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a container's filter of system calls
        return None


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


def is_still(pid: int, started: str) -> bool:
    """Tell whether a number still belongs to the process that started at that clock tick."""
    try:
        process = read_process(pid)
    except OSError:
        return False
    return process is not None and process.started == started


def signal_process(pid: int, started: str, signum: signal.Signals) -> bool:
    """Signal one process if it still is the one that started at that clock tick; return whether it was."""
    fd = open_pidfd(pid)
    try:
        if not is_still(pid, started):  # with the descriptor at hand: from here on the number cannot become another's
            return False
        if fd is None:
            os.kill(pid, signum)
        else:
            signal.pidfd_send_signal(fd, signum)
    except OSError:  # it has just gone, or is another user's
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True


def signal_group(group: int, signum: signal.Signals) -> None:
    """Signal every process of a group. The caller knows that its number still means that group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signum)


def reap_stray(pid: int) -> None:
    """Reap a zombie that was left to this process when its parent ended, and that no code here waits for."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
