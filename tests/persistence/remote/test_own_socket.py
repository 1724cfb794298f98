"""A socket that the host has closed behind our back, and what it has opened under its number since."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote import own_socket
from commitcast.persistence.remote.own_socket import OwnSocket
from commitcast.persistence.remote.system_calls import Receiver

OTHERS = ["nothing", "a file", "a socket"]


@pytest.fixture
def ours() -> Iterator[OwnSocket]:
    one, other = socket.socketpair()
    own = OwnSocket(one)
    with other:
        yield own
    own.close()


@pytest.fixture(params=OTHERS)
def of_host(ours: OwnSocket, request: pytest.FixtureRequest) -> Iterator[Callable[[], bytes]]:
    """What the host has under the number of `ours` now; returns what was written into it."""
    number = ours.descriptor
    os.close(number)
    if request.param == "nothing":
        yield bytes
    elif request.param == "a file":
        file = os.memfd_create("of the host")
        assert file == number
        yield lambda: os.pread(file, 100, 0)
        os.close(file)
    else:
        one, other = socket.socketpair()
        with one, other:
            assert one.fileno() == number
            other.send(b"for the host")
            other.setblocking(False)
            yield lambda: other.recv(100, socket.MSG_PEEK) if _has_input(other) else b""
            assert one.recv(100) == b"for the host"


def _has_input(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_it_sends_and_receives_as_long_as_it_is_ours(ours: OwnSocket) -> None:
    again = ours.duplicate()
    assert again.send(b"x") == 1
    assert ours.receive(Receiver(1)) is None
    again.close()
    assert (again.descriptor, ours.is_ours()) == (-1, True)


def test_nothing_is_written_into_read_from_or_closed_of_what_has_its_number(
    ours: OwnSocket, of_host: Callable[[], bytes]
) -> None:
    for use in (lambda: ours.send(b"x"), lambda: ours.receive(Receiver(100)), ours.duplicate):
        with pytest.raises(LinkError, match="has closed a descriptor that was not its own"):
            use()
    assert not ours.is_ours()
    ours.close()
    ours.close()
    assert of_host() == b""


def test_it_is_dropped_without_its_number(ours: OwnSocket, of_host: Callable[[], bytes]) -> None:
    assert ours.drop() == -1
    assert of_host() == b""


def test_where_the_kernel_gives_no_cookie_what_is_no_socket_is_told_from_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_socket, "_SO_COOKIE", 9_999)
    one, other = socket.socketpair()
    ours = OwnSocket(one)
    with other:
        assert ours.send(b"x") == 1
        os.close(ours.descriptor)
        assert not ours.is_ours()
        ours.close()
