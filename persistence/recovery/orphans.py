"""The processes that an earlier runtime has left behind and that have no runtime any more: found and stopped.

Stops only what is certainly an orphan of this store: a process that has the epoch of one of its agents in its
environment, or the recorded command itself by its number and start time; and never one whose runtime lives, which may
be at work on the file that this one is a copy of. Used while the store is locked and no agent of it is at work.
Blocks; any thread.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from commitcast.persistence.recovery.census import Census, Owner, Process
from commitcast.persistence.recovery.identity import names_boot, runtime_is_alive, start_text, this_runtime
from commitcast.persistence.recovery.termination import FIRST_PAUSE_S, LONGEST_PAUSE_S, Termination, carry_out

IsAtWork = Callable[[str], bool]
"""Tells of an epoch whether this process itself runs a command of that agent now."""


class AtWork(NamedTuple):
    """What the store says of an agent that was at work."""

    agent: str
    epoch: str
    pid: int | None
    """Of its command, if that was recorded."""
    started: str | None
    """What `identity.process_started` returned for it then."""


class Orphan(NamedTuple):
    """One process that is certainly an agent's, though the runtime that this agent was at work in is gone."""

    agent: str
    epoch: str
    process: Process


def runs_no_commands(_epoch: str) -> bool:
    """Say of every agent that this process runs no command of it: the `IsAtWork` of a process without sources."""
    return False


def stop_orphans(
    at_work: Sequence[AtWork],
    epoch_of: Callable[[str], str | None],
    grace_s: float,
    is_at_work: IsAtWork = runs_no_commands,
) -> dict[str, int]:
    """Stop all orphans: SIGTERM to everything, one grace for all, SIGKILL to what is left.

    Args:
        at_work: the agents that had not ended.
        epoch_of: returns the epoch of any agent of the store; None if there is no such agent.
        grace_s: seconds between the two signals.
        is_at_work: of this process: what it runs itself is left alone.

    Returns:
        How many processes there were, by agent; of most there are none.

    Raises:
        OSError: the processes cannot be listed.

    Threads: blocks for at most `grace_s` and `identity.KILL_WAIT_S`.
    """
    kill_at = time.monotonic() + grace_s
    orphans: dict[tuple[str, str], list[Process]] = {}
    for agent, epoch, process in find_orphans(Census.take(), at_work, epoch_of, is_at_work):
        orphans.setdefault((agent, epoch), []).append(process)
    terminations = {
        agent: Termination(epoch, kill_at, known=[process.identity for process in processes])
        for (agent, epoch), processes in orphans.items()
    }
    carry_out(list(terminations.values()))
    return {agent: termination.seen for agent, termination in terminations.items()}


def await_end(epochs: Sequence[str], limit_s: float) -> int:
    """Wait until no process of these agents is left; return how many there are when the time is over.

    They are no orphans: their runtime lives. It has lost the server of its file, and kills them itself; or it is at
    work on a file that this one is a copy of.

    Raises:
        OSError: the processes cannot be listed.

    Threads: blocks for at most `limit_s`.
    """
    give_up_at = time.monotonic() + limit_s
    pause_s = FIRST_PAUSE_S
    while True:
        marked = Census.take().marked
        left = sum(process.is_alive for epoch in epochs for process in marked.get(epoch, ()))
        if not left or time.monotonic() >= give_up_at:
            return left
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def find_orphans(
    census: Census,
    at_work: Sequence[AtWork],
    epoch_of: Callable[[str], str | None],
    is_at_work: IsAtWork = runs_no_commands,
) -> Iterator[Orphan]:
    """Yield what is certainly an orphan, and not what only descends from one. See `stop_orphans`."""
    named = _marked(census, {agent.epoch: agent.agent for agent in at_work}, epoch_of)
    marked = [orphan for orphan, owner in named if _has_lost_its_runtime(owner, is_at_work)]
    yield from marked
    certain = {(orphan.epoch, leader) for orphan in marked for leader in (orphan.process.group, orphan.process.session)}
    for agent, epoch, pid, started in at_work:
        if pid is None or pid <= 1:  # a damaged record must not mean everything
            continue
        if (epoch, pid) in certain or _is_command(census.processes.get(pid), started):
            yield from (Orphan(agent, epoch, process) for process in census.led_by(pid) if process.is_alive)


def _marked(
    census: Census, at_work: Mapping[str, str], epoch_of: Callable[[str], str | None]
) -> Iterator[tuple[Orphan, Owner]]:
    """Yield each process whose environment names an agent of the store, with what it says of that agent."""
    for process in census.processes.values():
        for owner in process.owners:
            agent = at_work.get(owner.epoch) or (owner.agent if epoch_of(owner.agent) == owner.epoch else None)
            if agent is not None:
                yield Orphan(agent, owner.epoch, process), owner


def _is_command(process: Process | None, started: str | None) -> bool:
    """Tell whether a process is the command that was recorded. If its environment names owners, they decide."""
    if process is None or process.owners or started is None:
        return False
    now = start_text(process.started)
    return now == started and names_boot(now)  # without the boot, a number and a time may come again


def _has_lost_its_runtime(owner: Owner, is_at_work: IsAtWork) -> bool:
    if owner.runtime == this_runtime():  # an earlier runtime of this very process
        return not is_at_work(owner.epoch)
    return not runtime_is_alive(owner.runtime)
