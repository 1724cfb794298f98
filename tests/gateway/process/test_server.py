"""The server among its hosts: what a signal does to those that do not leave."""

import pytest

from commitcast.gateway.process import server
from commitcast.persistence.remote.frames import Log
from listening_server import Listening
from looping import on_loop
from waiting import wait_until


def test_hosts_that_have_not_left_a_while_after_a_signal_are_cut(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [listening.host() for _ in range(2)]

    with monkeypatch.context() as patch:
        patch.setattr(server, "SIGNAL_LIMIT_S", 0.05)
        patch.setattr(listening.server.loop, "stop", lambda: None)  # the fixture stops it
        on_loop(listening.server.loop, listening.server._on_signal)

        for host in hosts:
            assert isinstance(host.requests.receive(), Log)
            with pytest.raises(EOFError):
                host.requests.receive()
        wait_until(lambda: not listening.server.hosts, "them to be brought to their end")
