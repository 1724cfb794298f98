"""One reading of /proc for all agents that ask at the same time, and the agent that each process belongs to.

A process belongs to an agent if it has the agent's epoch in its environment, is in the group or session of the agent's
command, descends from one that belongs, or was seen to belong before. So what leaves its session (setsid, Node's
`detached`, a daemon's double fork) is found as well as what clears its environment; only what does both, and whose
parent had ended before the first census, is not. Reads, and signals nothing. Linux. Any thread.
"""

import errno
import os
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple, Self

AGENT_VARIABLE: Final = "COMMITCAST_AGENT"
EPOCH_VARIABLE: Final = "COMMITCAST_EPOCH"
OUTER_VARIABLE: Final = "COMMITCAST_OUTER"
"""The agents, `id=epoch=runtime`, for which the runtime itself was started: their programs use commitcast too."""
RUNTIME_VARIABLE: Final = "COMMITCAST_RUNTIME"
"""The process that a command was started by: while it lives, the command is not an orphan."""

_READ_BYTES: Final = 64 * 1024
_EPOCH_MARK: Final = f"{EPOCH_VARIABLE}=".encode()
_KERNEL_THREAD: Final = 0x0020_0000
"""PF_KTHREAD in the flags of /proc/PID/stat."""
_FORKED: Final = 0x40
"""PF_FORKNOEXEC there."""
_GONE_OR_HIDDEN: Final = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)

Identity = tuple[int, str]
"""Number and start time: no two processes of one boot have both in common."""


class Owner(NamedTuple):
    """An agent, as the environment of a process names it."""

    agent: str
    epoch: str
    runtime: str
    """The process that started the agent's command, as `identity.this_runtime` names it; "" if it is not named."""

    @property
    def runtime_pid(self) -> int | None:
        """The number of that process."""
        pid = self.runtime.split(":")[1:2]
        return int(pid[0]) if pid and pid[0].isdecimal() else None


class Process(NamedTuple):
    """One process, as /proc/PID shows it."""

    pid: int
    parent: int
    group: int
    session: int
    started: str
    """In clock ticks since the boot."""
    is_alive: bool
    """It is not a zombie."""
    owners: tuple[Owner, ...] = ()
    """The agents that it was started for, by its environment; the innermost first."""
    is_blank: bool = False
    """It shows no environment: it has none, or is between two programs (execve) and will show one in a moment."""
    is_fork: bool = False
    """It has executed no program since it was forked: the environment that it shows is its parent's."""

    @property
    def identity(self) -> Identity:
        """What distinguishes it from every other process, also from a later one with its number."""
        return self.pid, self.started


class Census:
    """All processes at about one moment."""

    def __init__(self, processes: Iterable[Process], *, is_settled: bool = True) -> None:
        """Index the processes; see `take`."""
        self.is_settled = is_settled
        """Nothing ended while it was taken, which may have left a child behind that was not listed yet, and no program
        was between two environments."""
        self.processes: dict[int, Process] = {process.pid: process for process in processes}
        self.marked: defaultdict[str, list[Process]] = defaultdict(list)
        """By each epoch in their environment."""
        self._children: defaultdict[int, list[Process]] = defaultdict(list)
        self._led: defaultdict[int, list[Process]] = defaultdict(list)
        for process in self.processes.values():
            self._children[process.parent].append(process)
            for leader in {process.group, process.session}:
                self._led[leader].append(process)
            for owner in process.owners:
                self.marked[owner.epoch].append(process)
        self._ours = self._own_line()

    @classmethod
    def take(cls) -> Self:
        """Read /proc once.

        Raises:
            OSError: it cannot be read now, for want of descriptors or memory. What is there is not known then.
        """
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        processes = [process for pid in pids if (process := read_process(pid, with_owners=True)) is not None]
        is_settled = len(processes) == len(pids) and not any(process.is_blank for process in processes)
        return cls(processes, is_settled=is_settled)

    @classmethod
    def try_take(cls) -> Self | None:
        """Read /proc once; return None if it cannot be read now."""
        try:
            return cls.take()
        except OSError:
            return None

    def _own_line(self) -> frozenset[int]:
        """Return this process and those that it descends from: with any mark, they are not stopped."""
        line = set()
        pid = os.getpid()
        while pid not in line and pid in self.processes:
            line.add(pid)
            pid = self.processes[pid].parent
        return frozenset(line | {1, os.getpid()})

    def led_by(self, leader: int) -> list[Process]:
        """Return what is in the group or the session of that number."""
        return self._led.get(leader, [])

    def strays(self, commands: Container[int]) -> list[Process]:
        """Return the zombies that were left to this process when their parents ended, and that no code waits for.

        They are known by their session, which is neither this process's, as of what it forks, nor their own, as of what
        it starts in a new one. Of those that lead a session themselves it cannot be told.

        Args:
            commands: numbers of children that this process waits for.
        """
        us, session = os.getpid(), os.getsid(0)
        return [
            process
            for process in self._children.get(us, ())
            if not process.is_alive and process.session not in (session, process.pid) and process.pid not in commands
        ]

    def in_group(self, group: int) -> list[Process]:
        """Return what lives in a group."""
        return [process for process in self.led_by(group) if process.group == group and process.is_alive]

    def family(self, epoch: str, leader: int | None, known: Iterable[Identity] = ()) -> dict[int, Process]:
        """Return all that belongs to an agent, zombies too, by number. Never this process or one that it descends from.

        Args:
            epoch: of the agent.
            leader: of the group and session of its command; None if that number may be another's by now.
            known: what was seen to belong to it before.
        """
        family: dict[int, Process] = {}
        waiting = [*self.marked.get(epoch, ()), *(() if leader is None else self.led_by(leader))]
        waiting += [
            process for pid, started in known if (process := self.processes.get(pid)) and process.started == started
        ]
        while waiting:
            process = waiting.pop()
            if process.pid in family or process.pid in self._ours:
                continue
            family[process.pid] = process
            waiting += self._children.get(process.pid, ())
            if process.pid in (process.group, process.session):
                waiting += self.led_by(process.pid)
        return family


def read_process(pid: int, *, with_owners: bool = False) -> Process | None:
    """Return what /proc shows of a process, with or without its owners; None if it is gone.

    Raises:
        OSError: it cannot be read now; that does not mean that it is gone.
    """
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # proc(5): "pid (comm) state ppid pgrp session …". A comm may hold spaces and parentheses: cut at the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    zombie = fields[0] in (b"Z", b"X")
    threads = int(fields[17])  # a leader thread that ended before its other threads is shown as a zombie too
    is_alive = not zombie or threads > 1
    flags = int(fields[6])
    is_program = not flags & _KERNEL_THREAD
    environment = _read(f"/proc/{pid}/environ") if with_owners and is_alive and is_program else None
    owners = read_owners(environment) if environment else ()
    parent, group, session = (int(field) for field in fields[1:4])
    is_blank, is_fork = environment == b"", is_program and bool(flags & _FORKED)
    return Process(pid, parent, group, session, fields[19].decode(), is_alive, owners, is_blank, is_fork)


def read_owners(environment: bytes) -> tuple[Owner, ...]:
    """Return the agents that an environment names. Pure."""
    if _EPOCH_MARK not in environment:
        return ()
    return _owners(dict(entry.partition("=")[::2] for entry in environment.decode(errors="replace").split("\0")))


def outer_agents(environment: Mapping[str, str]) -> str:
    """Return the value of `OUTER_VARIABLE` for a command that a program with this environment starts. Pure."""
    return " ".join("=".join(owner) for owner in _owners(environment))


def _owners(environment: Mapping[str, str]) -> tuple[Owner, ...]:
    own = [environment.get(name, "") for name in (AGENT_VARIABLE, EPOCH_VARIABLE, RUNTIME_VARIABLE)]
    outer = [entry.split("=") for entry in environment.get(OUTER_VARIABLE, "").split()]
    return tuple(Owner(*facts) for facts in (own, *outer) if len(facts) == len(own) and facts[1])


def _read(path: str) -> bytes | None:
    """Return a file of /proc; None if the process is gone, or another user's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = chunk = os.read(file, _READ_BYTES)
            while len(chunk) == _READ_BYTES:
                text += (chunk := os.read(file, _READ_BYTES))
            return text
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _GONE_OR_HIDDEN:
            return None
        raise
