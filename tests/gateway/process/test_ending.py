"""The end of a host inside the server."""

import os
import threading
from collections.abc import Iterator

import pytest

from commitcast.actors.testing import FailingStore
from commitcast.gateway.process import ending as module
from commitcast.gateway.process import writer as writer_module
from commitcast.gateway.process.ending import HostEnding
from commitcast.gateway.process.host import Host
from commitcast.gateway.process.server import Server
from commitcast.persistence.errors import NotStoredError, StoreFullError
from commitcast.persistence.recovery import lost_host
from commitcast.persistence.remote.frames import Commit, Frame
from commitcast.persistence.writes import AgentWrites
from stores import FAILED, new_agent
from waiting import TIMEOUT_S, wait_until


class Leaving:
    """A host with an agent at work, beside another one, and a store that can fail."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.store = FailingStore(server.store)
        server.writer._store = self.store
        self.host, self.other = Host(server, os.getpid(), ""), Host(server, os.getpid(), "")
        for host in (self.host, self.other):
            server._hosts[host.session] = host
        self.has_ended = threading.Event()
        answers: list[Frame] = []
        self.host.answer = answers.append  # type: ignore[assignment,method-assign]  # it has no connection
        commit = Commit(1, 0, [AgentWrites("a", [new_agent()])])
        server.writer.loop.call(lambda: self.host.on_commit(commit, 0))
        wait_until(lambda: answers, "its agent")

    def leave(self) -> None:
        self.host.is_gone = True
        HostEnding(self.host, self.server, self.has_ended.set).begin()

    @property
    def error(self) -> str | None:
        record = self.server.store.agent("a")
        assert record is not None
        return record.error_name if record.status is FAILED else None


@pytest.fixture
def leaving(local: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leaving]:
    monkeypatch.setattr(lost_host, "FORK_WAIT_S", 0.0)  # it has started no process
    for name, place in (("ANSWER_S", module), ("PAUSE_S", module), ("RETRY_S", writer_module)):
        monkeypatch.setattr(place, name, 0.01)
    leaving = Leaving(local)
    yield leaving
    local._hosts.clear()
    assert leaving.has_ended.wait(TIMEOUT_S)


def test_what_comes_of_a_host_after_its_end_is_not_committed(local: Server) -> None:
    host, has_ended = Host(local, os.getpid(), ""), threading.Event()
    commit = Commit(1, 0, [AgentWrites("a", [new_agent()])])

    HostEnding(host, local, has_ended.set).begin()
    local.writer.loop.call(lambda: host.on_commit(commit, 0))

    assert has_ended.wait(TIMEOUT_S)
    assert local.writer.stop(TIMEOUT_S)
    assert local.store.agent("a") is None


def test_its_agents_are_ended(leaving: Leaving) -> None:
    leaving.leave()

    assert leaving.has_ended.wait(TIMEOUT_S) and leaving.error == "Interrupted"
    assert leaving.server.owner("a") is None


@pytest.mark.parametrize("error", [StoreFullError("the disk is full"), NotStoredError("a bad sector")], ids=repr)
@pytest.mark.parametrize("had_abandoned", [False, True])
def test_while_there_are_other_hosts_a_store_that_refuses_is_waited_for(
    leaving: Leaving, error: Exception, had_abandoned: bool
) -> None:
    """Else its agents would be at work for as long as the server runs."""
    leaving.host.has_abandoned = had_abandoned
    leaving.store.fail(error, times=None)
    leaving.leave()
    tried = len(leaving.store.commits)
    wait_until(lambda: len(leaving.store.commits) > tried + 3, "some attempts")
    assert not leaving.has_ended.is_set()

    leaving.store.fail(error, times=0)
    assert leaving.has_ended.wait(TIMEOUT_S) and leaving.error == "Interrupted"


def test_the_last_host_is_left_to_the_next_start_if_the_store_refuses(leaving: Leaving) -> None:
    leaving.other.is_gone = True
    leaving.store.fail(StoreFullError("the disk is full"), times=None)
    leaving.leave()

    assert leaving.has_ended.wait(TIMEOUT_S) and leaving.error is None
