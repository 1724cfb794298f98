"""The commands of one runtime: those at work, and those that are being stopped with all that they have started.

One thread, which lives while anything is being stopped, reads /proc once for all of them and signals their processes,
so that five hundred are stopped in the time of one and no busy thread of a source can keep a process alive. After
`stop` nothing is started any more.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Final

from commitcast.actors.errors import SourceCancelledError
from commitcast.actors.sources.processes.process import Program, reap, start_process
from commitcast.persistence.recovery.census import Census
from commitcast.persistence.recovery.identity import reap_stray
from commitcast.persistence.recovery.termination import FIRST_PAUSE_S, LONGEST_PAUSE_S, Termination

STRAYS_PAUSE_S: Final = 5.0
"""How often process 1 looks for zombies while commands run: each costs a little memory of the kernel, and a number."""

_at_work: Final[dict[int, str]] = {}
"""By number, the epoch of each command that this process has started and not reaped; until then the kernel gives the
number to no other. Of the process and not of a runtime, because children are."""


class Processes:
    """The commands of one runtime."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[int, str] = {}
        self._terminations: dict[int, Termination] = {}
        self._is_looking = False
        self._kill_by: float | None = None

    def __len__(self) -> int:
        """Return how many commands were started and not reaped."""
        return len(self._running)

    def start(self, program: Program, *, stdin: bool = False) -> subprocess.Popen[bytes]:
        """Start a command. See `process.start_process`.

        Raises:
            SourceCancelledError: the runtime stops.
        """
        if self._kill_by is not None:
            raise SourceCancelledError(program.agent)
        process = start_process(program, stdin=stdin)
        with self._changed:
            self._running[process.pid] = _at_work[process.pid] = program.epoch
            if self._kill_by is not None:  # `stop` was called meanwhile, and could not know of this process
                self._terminate(process.pid, self._kill_by)
            is_to_be_looked_at = bool(self._terminations) or os.getpid() == 1
        if is_to_be_looked_at:
            self._look()
        return process

    def terminate(self, pid: int, grace_s: float, then: Callable[[], object]) -> Termination:
        """Begin to stop a command and all that its agent has started: SIGTERM, and SIGKILL after the grace.

        Args:
            pid: of the command, which was not reaped.
            grace_s: seconds between the two.
            then: called once no process is left, or it is given up; on any thread.
        """
        with self._changed:
            termination = self._terminate(pid, time.monotonic() + grace_s)
            termination.call_when_over(then)
        self._look()
        return termination

    def reap(self, process: "subprocess.Popen[bytes]") -> int | None:
        """Reap a command that has exited; see `process.reap`. It is not signalled any more from here on."""
        with self._changed:
            self._terminations.pop(process.pid, None)
        exit_code = reap(process)
        with self._changed:
            self._running.pop(process.pid, None)
            _at_work.pop(process.pid, None)
            self._terminations.pop(process.pid, None)  # `stop` may have begun another
            self._changed.notify_all()
        return exit_code

    def stop(self, kill_by: float) -> None:
        """Stop everything, now, and kill what is left at `kill_by`, of `time.monotonic()`. Does not wait for it.

        Idempotent; a later call may only bring the end nearer.
        """
        with self._changed:
            self._kill_by = kill_by if self._kill_by is None else min(self._kill_by, kill_by)
            for pid in self._running:
                self._terminate(pid, self._kill_by)
        self._look()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being stopped; return whether that came true in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unfinished(), max(0.0, timeout_s))

    def _unfinished(self) -> list[Termination]:
        return [termination for termination in self._terminations.values() if not termination.is_over]

    def _terminate(self, pid: int, kill_at: float) -> Termination:
        termination = self._terminations.get(pid)
        if termination is None:
            termination = self._terminations[pid] = Termination(self._running[pid], kill_at, child=pid)
        termination.kill_at = min(termination.kill_at, kill_at, kill_at if self._kill_by is None else self._kill_by)
        return termination

    def _look(self) -> None:
        """Have a thread look until all is over."""
        with self._changed:
            self._changed.notify_all()
            if self._is_looking:
                return
            self._is_looking = True
        try:
            arguments = (os.getpid() == 1,)
            threading.Thread(target=self._look_until_over, args=arguments, name="processes", daemon=True).start()
        except RuntimeError:  # no thread can be started: then on this thread, which is about to wait for it anyway
            self._look_until_over(reaps=False)

    def _look_until_over(self, reaps: bool) -> None:
        """Look until nothing is being stopped; as process 1, which reaps what it never started, while any runs."""
        try:
            pause_s, before = FIRST_PAUSE_S, -1
            while (left := self._look_once(reaps)) is not None:
                pause_s = FIRST_PAUSE_S if left != before else min(2 * pause_s, LONGEST_PAUSE_S)
                before = left
                if left or reaps:
                    with self._changed:
                        self._changed.wait(pause_s if left else STRAYS_PAUSE_S)
        except BaseException:  # without this thread a wait for the end would never return
            with self._changed:
                self._is_looking = False
                for termination in self._unfinished():
                    termination.end()
                self._changed.notify_all()
            raise

    def _look_once(self, reaps: bool) -> int | None:
        """Take a census and a step of each termination; return how many are not over, None to end the thread."""
        with self._changed:
            before = self._unfinished()
            if not before and not (reaps and self._running):
                self._is_looking = False
                return None
        began = time.monotonic()
        census = Census.try_take()
        if census is not None and reaps:
            for stray in census.strays(_at_work):
                reap_stray(stray.pid)
        with self._changed:
            now = time.monotonic()
            for termination in set(before) & set(self._unfinished()):  # what was reaped meanwhile is not signalled
                termination.step(census, now)
            left = len(self._unfinished())
            self._changed.notify_all()
        if left:  # half of a processor at most: the writer needs one too
            time.sleep(min(time.monotonic() - began, LONGEST_PAUSE_S))
        return left


def is_at_work(epoch: str) -> bool:
    """Tell whether this process has a command of that agent that was not reaped."""
    return epoch in _at_work.values()


def kill_at_once() -> None:
    """Kill every command of this process and all that they have started, because it is about to exit.

    May be called in a signal handler: takes no lock and waits for nothing.
    """
    terminations = [Termination(epoch, kill_at=0, child=pid) for pid, epoch in list(_at_work.items())]
    for _ in range(2 if terminations else 0):  # the second time what was forked while the first was looked for
        census = Census.try_take()
        for termination in terminations:
            termination.step(census, now=0)


os.register_at_fork(after_in_child=_at_work.clear)
