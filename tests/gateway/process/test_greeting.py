"""Who is let in: a first frame in time, the same protocol and settings, and one connection of each kind for a host."""

import socket
from typing import Any

import pytest

from commitcast.gateway.process import greeting
from commitcast.persistence.errors import SettingsConflictError, StoreOpenError
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import (
    COMMITS,
    PROTOCOL,
    REQUESTS,
    Answer,
    Ask,
    Cast,
    Frame,
    Hello,
    Refused,
    Settings,
    Welcome,
    pack,
)
from commitcast.persistence.sqlite.journal import DELETE, WAL
from listening_server import RECOVERED, Listening
from speaking import Speaker
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def knock(listening: Listening) -> Any:
    """Connects, sends what a test wants, and returns what came back: a frame, or None for an end."""
    open_ones: list[socket.socket] = []

    def knock(*frames: Frame | bytes) -> Frame | None:
        connection = socket.socket(socket.AF_UNIX)
        open_ones.append(connection)
        connection.settimeout(TIMEOUT_S)
        connection.connect(listening.address)
        connection.sendall(b"".join(frame if isinstance(frame, bytes) else pack(frame) for frame in frames))
        try:
            return Speaker(connection).receive()
        except (EOFError, ConnectionResetError):
            return None

    yield knock
    for connection in open_ones:
        connection.close()


def refusal(answer: Frame | None) -> StoreOpenError:
    assert isinstance(answer, Refused) and answer.failure is not None
    error = error_of(answer.failure)
    assert isinstance(error, StoreOpenError)
    return error


def hello(**facts: Any) -> Hello:
    return Hello(**{"protocol": PROTOCOL, "role": REQUESTS, "settings": Settings(DELETE), **facts})


def test_a_host_is_welcomed_and_the_first_is_told_what_was_recovered(listening: Listening, knock: Any) -> None:
    first, second = knock(hello()), knock(hello())

    assert isinstance(first, Welcome) and isinstance(second, Welcome)
    assert (first.recovered, second.recovered) == (RECOVERED, 0)
    assert first.pid == listening.server.pid and first.session != second.session
    assert not first.is_casting and first.waits_for is None


def test_both_connections_are_welcomed_to_the_same_session(listening: Listening) -> None:
    host = listening.host()

    assert listening.here(host).commits is not None
    host.requests.send(Ask(1, "position", [None, None]))
    assert isinstance(host.requests.receive(), Answer)


@pytest.mark.parametrize("first", [Cast([1]), Answer(1), b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0"], ids=str)
def test_anything_but_a_hello_is_cut(knock: Any, first: Frame | bytes) -> None:
    assert knock(first) is None


def test_another_version_of_the_protocol_is_refused_with_what_to_do(listening: Listening, knock: Any) -> None:
    error = refusal(knock(hello(protocol=PROTOCOL + 1)))

    assert f"speaks version {PROTOCOL} of the protocol, not {PROTOCOL + 1}: end the programs" in str(error)
    assert str(listening.server.pid) in str(error)


def test_other_settings_are_refused_and_named(listening: Listening, knock: Any) -> None:
    listening.host()
    error = refusal(knock(hello(settings=Settings(WAL))))

    assert isinstance(error, SettingsConflictError) and "journal_mode is 'delete' there and 'wal' here" in str(error)


@pytest.mark.parametrize("role", [COMMITS, "tunnel", "other"])
@pytest.mark.parametrize("session", ["", "0" * 32])
def test_a_session_that_is_not_known_is_refused(knock: Any, role: str, session: str) -> None:
    assert "knows no such session" in str(refusal(knock(hello(role=role, session=session))))


def test_a_second_connection_for_commits_is_refused_and_the_first_goes_on(listening: Listening, knock: Any) -> None:
    host = listening.host()
    commits = listening.here(host).commits

    error = refusal(knock(hello(role=COMMITS, session=host.welcome.session)))

    assert "has its connection for commits already" in str(error)
    assert listening.here(host).commits is commits


def test_a_host_that_has_detached_gets_no_further_connection(listening: Listening, knock: Any) -> None:
    first = knock(hello())
    assert isinstance(first, Welcome)
    there = listening.server.host(first.session)
    assert there is not None
    there.is_gone = True  # its end is under way
    try:
        assert "knows no such session" in str(refusal(knock(hello(role=COMMITS, session=first.session))))
    finally:
        there.is_gone = False


def test_who_says_nothing_is_cut_in_time(listening: Listening, knock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "HELLO_S", 0.02)

    assert knock() is None
    assert knock(pack(hello())[:-1]) is None


def test_what_follows_the_hello_too_early_is_not_taken_for_another_one(listening: Listening, knock: Any) -> None:
    answer = knock(hello(), hello())

    assert isinstance(answer, Welcome)
    assert len(listening.server.hosts) == 1


def test_a_server_that_ends_lets_nobody_in(listening: Listening, knock: Any) -> None:
    listening.server.is_ending = True
    answer = knock(hello())
    listening.server.is_ending = False

    assert answer == Refused(None)
    wait_until(lambda: not listening.server.hosts, "nobody to be there")
