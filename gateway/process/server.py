"""The server: all hosts of one file, from the first that attaches until the last is gone.

Puts the parts together: the writer, the doors, what is to be cast, and the hosts. Owns the socket of the hosts. Its
loop runs on the main thread and never waits for a host or the disk.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Final, NamedTuple

from commitcast.gateway.process.casting import Casting
from commitcast.gateway.process.doors import Doors
from commitcast.gateway.process.ending import HostEnding
from commitcast.gateway.process.greeting import Greeting
from commitcast.gateway.process.host import Host
from commitcast.gateway.process.listening import HostSocket
from commitcast.gateway.process.logs import LogForwarder
from commitcast.gateway.process.writer import CommittingHost, Writer
from commitcast.persistence.errors import HostError, LinkError
from commitcast.persistence.records import StatusChange
from commitcast.persistence.remote.frames import Log, News, Notify, Settings, Waiting
from commitcast.persistence.remote.loop import Loop, Timer
from commitcast.persistence.store import READERS, Store
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)

SIGNAL_LIMIT_S: Final = 40.0
"""How long the server waits for its hosts after a signal: an ordered stop of a host takes 30 s at most."""
STOP_S: Final = 10.0
"""For the writer to end."""
FIRST_HOST_S: Final = 5.0
"""For the host that has started the server to attach."""
LOOK_S: Final = 0.05
"""Between two looks for what was not cast in time, while there is any; and for what the store waits for, while all
hosts want it to give up."""


class Server:
    """One store and the hosts that share it."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        recovered: int,
        linger_s: float,
        logs: LogForwarder,
        settle: Callable[[], object],
        announce: Callable[[str], object],
    ) -> None:
        """Make it.

        Args:
            store: open, and recovered.
            settings: with which it was opened.
            recovered: how many agents a crash had left behind.
            linger_s: seconds from the end of the last host to that of the server.
            logs: sends what is logged to the hosts.
            settle: puts everything that is committed into the file itself.
            announce: tells hosts where to connect. See `HostSocket`.
        """
        self.pid = os.getpid()
        self.store = store
        self.settings = settings
        self.settle = settle
        self.recovered = recovered
        self.is_ending = False
        """Whether no host is let in any more."""
        self.loop = Loop()
        self.doors = Doors(self)
        self.casting = Casting(self.doors.publish)
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="host-reader")
        self.writer = Writer(
            store, on_stored=self._on_stored, on_waiting=self.on_waiting, on_fatal=lambda _: self._end_after_failure()
        )
        self._linger_s = linger_s
        self._logs = logs
        logs.forward_to(self._log)
        self._hosts: dict[str, Host] = {}
        self._endings: dict[str, HostEnding] = {}
        """By session, of hosts that are gone."""
        self.templates: frozenset[str] = frozenset()
        """Every name that a host has offered since the start."""
        self._watches: dict[str, tuple[Host, ...]] = {}
        self._lingering: Timer | None = None
        self._is_giving_up = False
        self._waits_for: str | None = None
        self._left = _fingerprint(store.name)
        """The file when the last host was gone."""
        self._inode = self._left.inode
        self._socket = HostSocket(self.loop, announce, self._on_connection)
        self._has_failed = False

    @property
    def hosts(self) -> list[Host]:
        """The hosts that are attached. Any thread."""
        return list(self._hosts.values())

    # Its life. On the main thread.

    def listen(self) -> None:
        """Bind the socket for hosts. Raises `OSError`."""
        self._socket.open()

    def run(self) -> None:
        """Serve until the last host is gone, or the time after a signal is over."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.loop.call(self._on_signal))
        self.begin()
        self.loop.run()

    def begin(self) -> None:
        """Begin to write, and to wait for the first host."""
        self.writer.start()
        self._linger(max(FIRST_HOST_S, self._linger_s))

    def close(self) -> None:
        """End what is left: hosts that have not gone, the writer, the readers. The store is the caller's."""
        for host in self.hosts:
            host.end()
        if not self.writer.stop(STOP_S):
            logger.warning("the writer did not end in time")
        self.readers.shutdown(wait=True, cancel_futures=True)

    def stop_listening(self) -> None:
        """Let nobody in any more. Idempotent."""
        self.is_ending = True
        self._socket.close()

    # On the loop.

    def _on_connection(self, connection: socket.socket) -> None:
        try:
            Greeting(connection, self)
        except (LinkError, OSError) as error:
            logger.warning("a connection was refused: %s", error)
            connection.close()

    def attach(self, host: Host) -> None:
        """Take a host in, and watch its process."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._hosts[host.session] = host
        for line in self._logs.take_kept():
            host.send(line)
        try:
            pidfd = os.pidfd_open(host.pid)
        except OSError:  # it is gone already: its connection says so
            return
        host.pidfd = pidfd
        self.loop.watch(pidfd, lambda _: self.host_gone(host))

    def host(self, session: str) -> Host | None:
        """Return an attached host."""
        return self._hosts.get(session)

    def host_gone(self, host: Host) -> None:
        """Take note that a host has detached or is gone, and bring its agents to their end. Idempotent."""
        if host.is_gone:
            return
        host.is_gone = True
        if host.pidfd is not None:
            self.loop.forget(host.pidfd)
            os.close(host.pidfd)
            host.pidfd = None
        for agent in list(host.watches):
            self.watch(host, agent, False)
        host.asking.lose(HostError(f"the runtime in process {host.pid} has just ended: try again", "unavailable", True))
        ending = self._endings[host.session] = HostEnding(
            host, self, lambda: self.loop.call(lambda: self._host_ended(host))
        )
        ending.begin()

    def _host_ended(self, host: Host) -> None:
        del self._endings[host.session]
        del self._hosts[host.session]
        host.end()
        self._linger(0.0 if self.is_ending else self._linger_s)

    def _linger(self, for_s: float) -> None:
        """End after a time unless there is a host."""
        if not self._hosts and self._lingering is None:
            self._left = _fingerprint(self.store.name)
            self._lingering = self.loop.call_later(for_s, self.end_if_alone)

    def may_attach(self) -> bool:
        """Whether a new host may attach now: not before the agents of earlier ones are ended, and to the same file.

        If another program has changed the file since the last host went, this ends, and another server opens it anew.
        """
        if any(ending.is_awaited for ending in self._endings.values()):
            return False
        if any(not host.is_gone for host in self.hosts):
            return True
        now = _fingerprint(self.store.name)
        if now.inode == self._inode and (self._hosts or now == self._left):
            return True
        self.end_if_alone()
        return False

    def dismiss(self) -> None:
        """End as soon as can be if every host has gone: somebody wants the file for itself."""
        if all(host.is_gone for host in self._hosts.values()):
            self.stop_listening()
            self.end_if_alone()

    def end_if_alone(self) -> None:
        """End now unless there is a host."""
        if not self._hosts:
            self.stop_listening()
            self.loop.stop()

    def _on_signal(self) -> None:
        if not self._hosts:
            self.end_if_alone()
        elif not self.is_ending:
            logger.warning("a signal asks the server process to end: it waits for its runtimes to stop")
            self.stop_listening()
            self.loop.call_later(SIGNAL_LIMIT_S, self._end_anyway)

    def _end_anyway(self) -> None:
        """End although there are hosts: for them it is as if they had gone."""
        self.stop_listening()
        for host in self.hosts:
            self.host_gone(host)

    def _end_after_failure(self) -> None:
        self._has_failed = True
        self.loop.call(self.stop_listening)
        self.loop.call(self.loop.stop)

    # What hosts want.

    def notify(self, notice: Notify) -> None:
        """Tell the subscribers of an agent what could not be done."""
        self.doors.notify(notice)

    def abandon(self) -> None:
        """Give up what waits for something outside, for the hosts that want it; for the store, if all do."""
        self.writer.loop.call(self.writer.try_again)
        if not self._is_giving_up:
            self._is_giving_up = True
            self._give_up_if_all_do()

    def _give_up_if_all_do(self) -> None:
        """Have the store give up if it waits, or a commit takes long, and all hosts want that; it is of no use then."""
        hosts = [host for host in self._hosts.values() if not host.is_gone]
        self._is_giving_up = bool(hosts) and all(host.has_abandoned for host in hosts)
        if not self._is_giving_up:
            return
        began = self.writer.busy_since
        is_waiting = self.store.waits_for is not None or (began is not None and perf_counter() - began > LOOK_S)
        if is_waiting:
            self.stop_listening()
            self.store.abandon_waiting()
        else:
            self.loop.call_later(LOOK_S, self._give_up_if_all_do)

    def settle_if_last(self, host: Host) -> None:
        """Leave a whole file behind when the last host detaches: the log of WAL mode is copied into it. Blocks."""
        if all(other is host or other.is_gone for other in self.hosts):
            self.settle()

    def watch(self, host: Host, agent: str, is_on: bool) -> None:
        """Begin or stop telling a host what is committed of an agent."""
        others = tuple(other for other in self._watches.get(agent, ()) if other is not host)
        watching = (*others, host) if is_on else others
        if watching:
            self._watches[agent] = watching
        else:
            self._watches.pop(agent, None)

    def owner(self, agent: str) -> Host | None:
        """Return the host of an agent that is at work. Any thread."""
        owner = self.writer.owners.of(agent)
        return owner if isinstance(owner, Host) else None

    def _log(self, line: Log) -> bool:
        """Have every host write a line of the log; return False if there is none. Any thread."""
        hosts = [host for host in self.hosts if not host.is_gone]
        for host in hosts:
            host.send(line)
        return bool(hosts)

    # On the writer's thread.

    def _on_stored(self, host: CommittingHost, work: Sequence[AgentWrites], outcomes: list[Outcome]) -> None:
        if self.casting.is_on:
            committed = [outcome.committed for outcome in outcomes if outcome.committed is not None]
            if not host.casts:
                self.doors.publish(committed)
            elif self.casting.keep(host, committed):
                self.loop.call(self._cast_late)
        if self._watches:
            for outcome in outcomes:
                if outcome.committed is not None and outcome.committed.agent in self._watches:
                    self._tell_news(outcome)

    def _tell_news(self, outcome: Outcome) -> None:
        committed = outcome.committed
        assert committed is not None
        is_end = any(isinstance(entry, StatusChange) and entry.status.is_terminal for entry in committed.entries)
        for host in self._watches.get(committed.agent, ()):
            host.send(News(committed.agent, is_end))

    def on_waiting(self, for_what: str | None) -> None:
        """Tell every host what a commit is kept waiting for; None when that is over."""
        if for_what != self._waits_for:
            self._waits_for = for_what
            for host in self.hosts:
                host.send(Waiting(for_what))

    def _cast_late(self) -> None:
        """Cast what was not cast in time, again and again while anything is kept. On the loop."""
        next_s = self.casting.cast_late()
        if next_s is not None:
            self.loop.call_later(max(next_s, LOOK_S), self._cast_late)


class _Fingerprint(NamedTuple):
    """What tells whether a file was replaced, or written by another program, itself or its log."""

    inode: int | None
    rest: tuple[int, ...]


def _fingerprint(path: str) -> _Fingerprint:
    inode, rest = None, []
    for name in (f"{path}-wal", path):
        with suppress(OSError):
            status = os.stat(name)
            inode = status.st_ino
            rest += [status.st_ino, status.st_size, status.st_mtime_ns]
    return _Fingerprint(inode, tuple(rest))
