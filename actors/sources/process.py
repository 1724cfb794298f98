"""Child processes: started in a group of their own, stopped with all they started, found after a crash.

Everything that a command starts belongs to it: the whole process group and session is signalled, never one
process. A process is never signalled on its number alone, because numbers are reused: while the leader of a
group is not reaped, or a member of it is alive, the kernel does not give its number away, and after a crash
the start time or the epoch in the environment must match. Linux: reads /proc. Any thread; what waits says for
how long.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

AGENT_VARIABLE: Final = "COMMITCAST_AGENT"
EPOCH_VARIABLE: Final = "COMMITCAST_EPOCH"
"""In the environment of every command, and so of all that it starts."""

KILL_WAIT_S: Final = 10.0
"""After SIGKILL only a process in a hanging system call (a dead NFS mount) is left: give up on it."""

FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.1
"""Between two looks at a group, doubling: most end at once, and a group gives nothing to wait on."""

_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"


class _Stat(NamedTuple):
    """What /proc/PID/stat says about a process."""

    pid: int
    alive: bool
    group: int
    session: int
    started: str
    """In clock ticks since the boot."""


def start_process(
    argv: Sequence[str],
    *,
    agent: str,
    epoch: str,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a new session and process group, with unbuffered pipes.

    Args:
        argv: the program and its arguments; no shell reads them.
        agent: the id of the agent that it works for.
        epoch: of that agent.
        cwd: the folder in which it starts; None for this process's own.
        env: added to this process's environment.
        stdin: whether standard input is a pipe; otherwise it is /dev/null.

    Raises:
        OSError: it cannot be started.
        ValueError: an argument holds a NUL character.
    """
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        close_fds=True,
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, **(env or {}), AGENT_VARIABLE: agent, EPOCH_VARIABLE: epoch},
    )


def process_started(pid: int) -> str | None:
    """Return a text that no other process ever has, also not a later one with the same number.

    It names the boot and the start time. None if there is no such process, or only its zombie.
    """
    stat = _read_stat(pid)
    if stat is None or not stat.alive:
        return None
    with open(_BOOT_ID_PATH, encoding="ascii") as file:
        return f"{file.read().strip()}:{stat.started}"


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a child exits; None where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a container's filter of system calls
        return None


def has_exited(pid: int) -> bool:
    """Tell whether a child has exited, without reaping it: that would give its number away."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else in this program reaped it
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


def stop_group(pgid: int, grace_s: float, pause: Callable[[float], object] = time.sleep) -> bool:
    """Stop every process of a group, and of its leader's session: SIGTERM first, SIGKILL when the time is up.

    Args:
        pgid: the number of the group. Its leader, if it is a child of ours, must not have been reaped.
        grace_s: seconds between the two signals.
        pause: waits for about so many seconds; may return early.

    Returns:
        Whether nobody is left. Never raises for a group that is gone.

    Threads: blocks for at most `grace_s` and `KILL_WAIT_S`.
    """
    return _end_group(pgid, signal.SIGTERM, grace_s, pause) or _end_group(pgid, signal.SIGKILL, KILL_WAIT_S, pause)


def kill_orphan(pid: int, pid_started: str | None, epoch: str, grace_s: float) -> bool:
    """Stop what is left of a command whose runtime has crashed; return whether there was anything.

    Kills only what is certainly that command: its leader with the same start time, or, when the leader is
    gone, a group in which a process has the agent's epoch in its environment.

    Args:
        pid: of the leader, as it was recorded.
        pid_started: what `process_started` said then; None if that was not recorded.
        epoch: of the agent.
        grace_s: as for `stop_group`.

    Threads: blocks as long as `stop_group`.
    """
    if pid <= 1 or pid in (os.getpgrp(), os.getsid(0)):  # a damaged record must not kill this very process
        return False
    now = process_started(pid)
    if now is not None and pid_started is not None:
        is_ours = now == pid_started
    else:
        is_ours = any(_has_epoch(member.pid, epoch) for member in _members(pid))
    if is_ours:
        stop_group(pid, grace_s)
    return is_ours


def _end_group(pgid: int, signum: signal.Signals, limit_s: float, pause: Callable[[float], object]) -> bool:
    """Send a signal and wait until nobody is left; return whether that came true in time."""
    deadline = time.monotonic() + limit_s
    pause_s = FIRST_PAUSE_S
    told: set[int] = set()
    while groups := {member.group for member in _members(pgid)}:
        # SIGTERM only once: to many programs a second one means "at once, and do not tidy up".
        for group in groups if signum == signal.SIGKILL else groups - told:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signum)
        told |= groups
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        pause(min(pause_s, left_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return True


def _members(pgid: int) -> Iterator[_Stat]:
    """Yield the living processes of a group and of the session of that number (a shell's background jobs)."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _read_stat(int(name))
            if stat is not None and stat.alive and pgid in (stat.group, stat.session):
                yield stat


def _read_stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:  # it is gone; also while the file is being read
        return None
    # proc(5): "pid (comm) state ppid pgrp session …". A comm may hold spaces and parentheses: cut at the last
    # one.
    fields = text[text.rindex(b")") + 2 :].split()
    zombie = fields[0] in (b"Z", b"X")
    threads = int(fields[17])  # a leader thread that ended before its other threads is shown as a zombie too
    return _Stat(pid, not zombie or threads > 1, int(fields[2]), int(fields[3]), fields[19].decode())


def _has_epoch(pid: int, epoch: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{EPOCH_VARIABLE}={epoch}".encode() in file.read().split(b"\0")
    except OSError:  # it is gone, or another user's
        return False
