"""The processes of agents whose host is gone: all of them are killed, at once and without a grace.

The caller knows that nothing else ends them: their host has crashed, is a zombie, or was cut off. So, unlike
`orphans`, this does not ask whether the process that started them lives. Reads /proc, signals. Linux.
"""

import errno
import os
import time
from collections.abc import Container, Sequence
from typing import Final

from commitcast.persistence.records import AgentRecord
from commitcast.persistence.recovery.census import Census, Identity, Process, read_process
from commitcast.persistence.recovery.identity import KILL_WAIT_S, is_same_start, start_text
from commitcast.persistence.recovery.termination import FIRST_PAUSE_S, LONGEST_PAUSE_S, Termination, carry_out

FORK_AGE_S: Final = 1.0
FORK_WAIT_S: Final = 0.25
"""A host that is killed between fork and exec leaves a child that is marked only once it has executed its command. A
process that was forked in the last `FORK_AGE_S` is given this long; most need a millisecond. Other programs' forks
cannot be told from it, and a worker that never executes anything costs the whole time, once."""

_FOR_WANT_OF_SOMETHING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def kill_processes_of(agents: Sequence[AgentRecord], limit_s: float = KILL_WAIT_S) -> int:
    """Kill all processes of these agents, and return once none is left.

    They are known by the agent's epoch in their environment, by the recorded number and start time of its command, and
    as the group, session and descendants of those. So what has cleared its environment is found while the command, or
    anything with the epoch in its group, is there. Never this process or one that it descends from.

    Args:
        agents: none of them is at work any more, and their host starts no command for them. They were recorded since
            the boot: without its name (see `identity.names_boot`) a start time means this one.
        limit_s: seconds after which it returns nevertheless, and logs what is left: after SIGKILL, only a process in a
            hanging system call.

    Returns:
        How many processes there were.

    Raises:
        OSError: the processes could not be listed within the limit; none was killed.

    Threads: any; blocks. For a hundred agents it takes as long as for one: a few readings of /proc.
    """
    began = time.monotonic()
    census = _first_census(began + limit_s)
    terminations = {agent.epoch: Termination(agent.epoch, began, known=_command_of(agent, census)) for agent in agents}
    for termination in terminations.values():
        termination.step(census, time.monotonic())
    late = _marked_late(census, terminations, time.monotonic() + min(FORK_WAIT_S, limit_s))
    again = [Termination(epoch, began) for epoch in late if terminations[epoch].is_over]
    all_of_them = [*terminations.values(), *again]
    carry_out([termination for termination in all_of_them if not termination.is_over], began + limit_s)
    return sum(termination.seen for termination in all_of_them)


def _first_census(give_up_at: float) -> Census:
    while True:
        try:
            return Census.take()
        except OSError as error:
            if error.errno not in _FOR_WANT_OF_SOMETHING or time.monotonic() >= give_up_at:
                raise
        time.sleep(LONGEST_PAUSE_S)


def _command_of(agent: AgentRecord, census: Census) -> list[Identity]:
    """Return the recorded command and all in its group and session, if that number still is its own."""
    pid, started = agent.pid, agent.pid_started
    if pid is None or pid <= 1:  # a damaged record must not mean everything
        return []
    command = census.processes.get(pid)
    is_it = command is not None and started is not None and is_same_start(start_text(command.started), started)
    if not is_it and not any(pid in (one.group, one.session) for one in census.marked.get(agent.epoch, ())):
        return []
    return [process.identity for process in census.led_by(pid)]


def _marked_late(census: Census, epochs: Container[str], give_up_at: float) -> set[str]:
    """Return the epochs among these of the processes that the census met between fork and the environment of exec."""
    late: set[str] = set()
    since_s = time.clock_gettime(time.CLOCK_BOOTTIME) - FORK_AGE_S
    recent = [process for process in census.processes.values() if int(process.started) / _TICKS_PER_S >= since_s]
    waiting = [process for process in recent if _shows_another_environment(process)]
    pause_s = FIRST_PAUSE_S
    while True:
        waiting = [now for process in waiting if (now := _again(process)) is not None]
        late.update(owner.epoch for process in waiting for owner in process.owners if owner.epoch in epochs)
        waiting = [process for process in waiting if _shows_another_environment(process)]
        if not waiting or time.monotonic() >= give_up_at:
            return late
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _shows_another_environment(process: Process) -> bool:
    """Tell whether the environment of a process is not that of the program that it may be about to execute."""
    return process.is_alive and (process.is_fork or process.is_blank)


def _again(process: Process) -> Process | None:
    """Return what a process has become; None if it is gone."""
    try:
        found = read_process(process.pid, with_owners=True)
    except OSError:  # no descriptor is free now
        return process
    return found if found is not None and found.started == process.started else None
