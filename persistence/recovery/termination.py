"""The end of all processes that one agent has started: SIGTERM to all at once, and after a grace SIGKILL to the rest.

Decides what to signal, and when that is over. A whole group is signalled where all of it is the agent's, so that
nothing that is forked meanwhile is missed; else each process by itself. One census serves many agents: `carry_out`
takes it, or the registry of the running commands (`actors.sources.processes.registry`). One thread at a time.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from commitcast.persistence.recovery.census import Census, Identity, Process
from commitcast.persistence.recovery.identity import KILL_WAIT_S, is_still, reap_stray, signal_group, signal_process

logger: Final = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.1
"""Between two steps, doubling: most processes end at once, and a group gives nothing to wait on."""


class Termination:
    """One agent's processes, while they are brought to their end.

    Attributes:
        epoch: of the agent.
        kill_at: when the rest is killed, of `time.monotonic()`.
        is_over: no process is left, or the rest could not be killed.
        left: the numbers of the living processes that were seen; once it is over, of those that could not be killed.
    """

    def __init__(self, epoch: str, kill_at: float, *, child: int | None = None, known: Iterable[Identity] = ()) -> None:
        """Begin; nothing is signalled before `step`.

        Args:
            epoch, kill_at: as the attributes.
            child: its command, if that is a child of this process that was not reaped.
            known: processes that are the agent's although nothing that /proc shows of them says so.
        """
        self.epoch = epoch
        self.kill_at = kill_at
        self.is_over = False
        self._child = child
        self._then: list[Callable[[], object]] = []
        self._known = set(known)
        self._signalled: set[int] = set()  # processes, and groups by their negative number, as kill(2) has them
        self._saw_none = False
        self._child_had_exited = self._child_has_exited()
        self.left = self._with_child(pid for pid, _ in self._known)

    @property
    def seen(self) -> int:
        """How many processes were seen."""
        return len(self._known)

    def step(self, census: Census | None, now: float) -> None:
        """Signal the processes that are due now, and find out whether it is over.

        Args:
            census: begun after the call before; None if none can be taken now.
            now: of `time.monotonic()`.
        """
        none_is_left = self._step_blindly(now) if census is None else self._step(census, now)
        if none_is_left or now >= self.kill_at + KILL_WAIT_S:
            self.end()

    def end(self) -> None:
        """Give up on what is left, and log it."""
        self.is_over = True
        if self.left:
            message = "processes %s did not end after SIGKILL and are left running (epoch of their agent: %s)"
            logger.warning(message, ", ".join(map(str, self.left)), self.epoch)
        for callback in self._then:
            callback()

    def call_when_over(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when it is over; at once if it is."""
        if self.is_over:
            callback()
        else:
            self._then.append(callback)

    def _step(self, census: Census, now: float) -> bool:
        had_exited, self._child_had_exited = self._child_had_exited, self._child_has_exited()
        family = census.family(self.epoch, self._child, self._known)
        self._known.update(process.identity for process in family.values())
        self._reap(family)
        living = {pid: process for pid, process in family.items() if process.is_alive}
        self.left = self._with_child(living)
        if living or not self._child_had_exited:
            self._saw_none = False
            self._signal(census, living, now)
            return False
        # What ended while the census was taken may have left a child behind that was not listed yet: look again.
        is_plain = had_exited and census.is_settled and family.keys() <= {self._child}
        saw_none, self._saw_none = self._saw_none, True
        return is_plain or saw_none

    def _signal(self, census: Census, living: Mapping[int, Process], now: float) -> None:
        if now >= self.kill_at:
            for target, witness in _targets(census, living):
                self._send(target, witness, signal.SIGKILL)
            return
        # SIGTERM only once: to many programs a second one means "at once, without cleaning up". So a process that a
        # group starts to clean up is not signalled either.
        targets = {pid: process for pid, process in living.items() if not self._has_runtime(process, living)}
        for target, witness in _targets(census, targets):
            if target not in self._signalled and self._send(target, witness, signal.SIGTERM):
                self._signalled.add(target)
                self._send(target, witness, signal.SIGCONT)  # a stopped process handles no other signal

    def _send(self, target: int, witness: Process, signum: signal.Signals) -> bool:
        if target > 0:
            return signal_process(target, witness.started, signum)
        if -target != self._child and not is_still(witness.pid, witness.started):
            return False
        signal_group(-target, signum)
        return True

    def _has_runtime(self, process: Process, living: Mapping[int, Process]) -> bool:
        """Whether it is the command of a runtime that runs for this agent, was signalled itself, and will stop it."""
        owner = process.owners[0] if process.owners else None
        return owner is not None and owner.epoch != self.epoch and owner.runtime_pid in living

    def _reap(self, family: Mapping[int, Process]) -> None:
        """Reap what was left to process 1, if this is it: of the agent, and not its command, which others wait for."""
        if os.getpid() == 1:
            for process in family.values():
                if process.parent == 1 and not process.is_alive and process.pid != self._child:
                    reap_stray(process.pid)

    def _child_has_exited(self) -> bool:
        if self._child is None:
            return True
        try:
            return os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # other code in this program reaped it: its number may be another process's by now
            self._child = None
            return True

    def _with_child(self, others: Iterable[int]) -> list[int]:
        child = set() if self._child is None else {self._child}
        return sorted(set(others) - child if self._child_had_exited else {*others, *child})

    def _step_blindly(self, now: float) -> bool:
        """Signal at least the group of the command."""
        self._child_had_exited = self._child_has_exited()
        self.left = self._with_child(self.left)
        if self._child is not None:
            if now >= self.kill_at:
                signal_group(self._child, signal.SIGKILL)
            elif -self._child not in self._signalled:
                self._signalled.add(-self._child)
                signal_group(self._child, signal.SIGTERM)
        return False


def carry_out(terminations: Sequence[Termination], give_up_at: float = math.inf) -> None:
    """Take steps until all are over.

    Args:
        terminations: none of them is over.
        give_up_at: when what is left is given up, of `time.monotonic()`.

    Threads: blocks until `give_up_at` at most, and for at most `KILL_WAIT_S` after the last `kill_at`.
    """
    pause_s = FIRST_PAUSE_S
    while terminations:
        began = time.monotonic()
        census = Census.try_take()
        for termination in terminations:
            termination.step(census, time.monotonic())
        terminations = [termination for termination in terminations if not termination.is_over]
        if time.monotonic() >= give_up_at:
            for termination in terminations:
                termination.end()
            return
        if terminations:  # half of a processor at most
            time.sleep(max(pause_s, min(time.monotonic() - began, LONGEST_PAUSE_S)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _targets(census: Census, processes: Mapping[int, Process]) -> Iterator[tuple[int, Process]]:
    """Yield each group that is made of these processes, as a negative number, else each process; with one of them."""
    groups: dict[int, list[Process]] = {}
    for process in processes.values():
        groups.setdefault(process.group, []).append(process)
    for group, inside in groups.items():
        if group > 1 and all(process.pid in processes for process in census.in_group(group)):
            yield -group, inside[0]
        else:  # 0 is a group that this namespace has no number for
            yield from ((process.pid, process) for process in inside)
