"""One process: told from every other that has or had its number, and signalled only if it is the one that is meant.

A process is never signalled on its number alone, because numbers are reused: its start time must match, or the caller
knows that the number was not given away, as that of a child that was not reaped. Starts nothing. Linux: reads /proc.
Any thread.
"""

import os
import signal
from contextlib import suppress
from typing import Final

from commitcast.persistence.recovery.census import read_process

KILL_WAIT_S: Final = 10.0
"""After SIGKILL only a process in a hanging system call (a dead NFS mount) is left: give up on it."""

_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"
_NAMESPACE_PATH: Final = "/proc/self/ns/pid"


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
    """Return a descriptor that becomes readable when the process exits; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a container's filter of system calls
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
