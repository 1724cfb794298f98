"""A server of a file on threads of the test's own process, and hosts that speak to it by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commitcast.gateway.process.host import Host
from commitcast.gateway.process.logs import LogForwarder
from commitcast.gateway.process.server import Server
from commitcast.persistence.recovery import lost_host
from commitcast.persistence.remote.frames import Settings
from commitcast.persistence.sqlite.journal import DELETE
from looping import on_loop, running
from speaking import SpeakingHost
from stores import opened
from waiting import wait_until

RECOVERED = 2
"""What the server tells its first host."""


class Listening:
    """A server that listens."""

    def __init__(self, server: Server, notes: list[str]) -> None:
        self.server = server
        self._notes = notes
        self._hosts: list[SpeakingHost] = []

    @property
    def address(self) -> str:
        """Of its socket."""
        return self._notes[0]

    def host(self) -> SpeakingHost:
        """Another host, which leaves at the end of the test."""
        self._hosts.append(SpeakingHost(self.address))
        return self._hosts[-1]

    def here(self, host: SpeakingHost) -> Host:
        """The same host as the server has it."""
        found = self.server.host(host.welcome.session)
        assert found is not None
        return found

    def close(self) -> None:
        """Let all hosts leave, and wait until they are brought to their end."""
        for host in self._hosts:
            host.close()
        wait_until(lambda: not self.server.hosts, "the hosts to be brought to their end")


@contextmanager
def local_server(path: Path, forwarder: LogForwarder, notes: list[str] | None = None) -> Iterator[Server]:
    """A server whose writer runs, and that has no socket yet."""
    notes = [] if notes is None else notes
    with opened(path) as store:
        server = Server(store, Settings(DELETE), RECOVERED, 3_600.0, forwarder, store.settle, notes.append)
        server.begin()
        yield server
        server.close()
        server.loop.close()
        server.writer.loop.close()


@contextmanager
def listening_server(path: Path, forwarder: LogForwarder) -> Iterator[Listening]:
    """A server that listens, and whose loops run."""
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch, local_server(path, forwarder, notes) as server:
        patch.setattr(lost_host, "FORK_WAIT_S", 0.0)  # no host of these tests starts a process
        server.listen()
        listening = Listening(server, notes)
        with running(server.loop):
            yield listening
            listening.close()
            on_loop(server.loop, server.stop_listening)
