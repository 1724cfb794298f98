"""The processes that an earlier runtime has left behind and that have no runtime any more: found and stopped.

Stops only what is certainly an orphan of this store: a process that has the epoch of one of its agents in its
environment, or the recorded command itself by its number and start time; and never one whose runtime lives, which may
be at work on the file that this one is a copy of. Used while the store is locked and no agent of it is at work.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from commitcast.actors.sources.processes.census import Census, Owner, Process
from commitcast.actors.sources.processes.process import names_boot, runtime_is_alive, start_text, this_runtime
from commitcast.actors.sources.processes.registry import FIRST_PAUSE_S, LONGEST_PAUSE_S, is_at_work
from commitcast.actors.sources.processes.termination import Termination


class AtWork(NamedTuple):
    """What the store says of an agent that was at work."""

    agent: str
    epoch: str
    pid: int | None
    """Of its command, if that was recorded."""
    started: str | None
    """What `process.process_started` returned for it then."""


class Orphan(NamedTuple):
    """One process that is certainly an agent's, though the runtime that this agent was at work in is gone."""

    agent: str
    epoch: str
    process: Process


def stop_orphans(at_work: Sequence[AtWork], epoch_of: Callable[[str], str | None], grace_s: float) -> dict[str, int]:
    """Stop all orphans: SIGTERM to everything, one grace for all, SIGKILL to what is left.

    Args:
        at_work: the agents that had not ended.
        epoch_of: returns the epoch of any agent of the store; None if there is no such agent.
        grace_s: seconds between the two signals.

    Returns:
        How many processes there were, by agent; of most there are none.

    Raises:
        OSError: the processes cannot be listed.

    Threads: blocks for at most `grace_s` and `process.KILL_WAIT_S`.
    """
    kill_at = time.monotonic() + grace_s
    orphans: dict[tuple[str, str], list[Process]] = {}
    for agent, epoch, process in find_orphans(Census.take(), at_work, epoch_of):
        orphans.setdefault((agent, epoch), []).append(process)
    terminations = {
        agent: Termination(epoch, kill_at, known=[process.identity for process in processes])
        for (agent, epoch), processes in orphans.items()
    }
    _carry_out(list(terminations.values()))
    return {agent: termination.seen for agent, termination in terminations.items()}


def find_orphans(census: Census, at_work: Sequence[AtWork], epoch_of: Callable[[str], str | None]) -> Iterator[Orphan]:
    """Yield what is certainly an orphan, and not what only descends from one. See `stop_orphans`."""
    marked = list(_marked(census, {agent.epoch: agent.agent for agent in at_work}, epoch_of))
    yield from marked
    certain = {(orphan.epoch, leader) for orphan in marked for leader in (orphan.process.group, orphan.process.session)}
    for agent, epoch, pid, started in at_work:
        if pid is None or pid <= 1:  # a damaged record must not mean everything
            continue
        if (epoch, pid) in certain or _is_command(census.processes.get(pid), started):
            yield from (Orphan(agent, epoch, process) for process in census.led_by(pid) if process.is_alive)


def _marked(census: Census, at_work: Mapping[str, str], epoch_of: Callable[[str], str | None]) -> Iterator[Orphan]:
    for process in census.processes.values():
        for owner in process.owners:
            agent = at_work.get(owner.epoch) or (owner.agent if epoch_of(owner.agent) == owner.epoch else None)
            if agent is not None and _has_lost_its_runtime(owner):
                yield Orphan(agent, owner.epoch, process)


def _is_command(process: Process | None, started: str | None) -> bool:
    """Tell whether a process is the command that was recorded. If its environment names owners, they decide."""
    if process is None or process.owners or started is None:
        return False
    now = start_text(process.started)
    return now == started and names_boot(now)  # without the boot, a number and a time may come again


def _has_lost_its_runtime(owner: Owner) -> bool:
    if owner.runtime == this_runtime():  # an earlier runtime of this very process
        return not is_at_work(owner.epoch)
    return not runtime_is_alive(owner.runtime)


def _carry_out(terminations: list[Termination]) -> None:
    pause_s = FIRST_PAUSE_S
    while terminations:
        census = Census.try_take()
        for termination in terminations:
            termination.step(census, time.monotonic())
        terminations = [termination for termination in terminations if not termination.is_over]
        if terminations:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
