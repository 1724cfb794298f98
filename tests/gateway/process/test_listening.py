"""The socket of the server process: where it is made, and that it is always there."""

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commitcast.gateway.process import listening
from commitcast.gateway.process.listening import HostSocket
from commitcast.persistence.remote.loop import Loop
from commitcast.persistence.sqlite.lock import ENDING
from no_descriptors import every_descriptor_used
from waiting import wait_until


@contextmanager
def opened(loop: Loop, notes: list[str], accepted: list[socket.socket]) -> Iterator[HostSocket]:
    """A socket that is open for as long as the block, on a loop that runs."""
    hosts = HostSocket(loop, notes.append, accepted.append)
    hosts.open()
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield hosts
    finally:
        loop.call(hosts.close)
        loop.stop()
        thread.join()
        loop.close()
        for connection in accepted:
            connection.close()


@contextmanager
def connected(address: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as host:
        host.connect(address)
        yield


def test_it_lies_in_a_folder_that_no_other_user_may_enter_and_is_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    notes: list[str] = []
    accepted: list[socket.socket] = []

    with opened(Loop(), notes, accepted), connected(notes[0]):
        wait_until(lambda: accepted, "the connection")
        folder = Path(notes[0]).parent
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    assert notes[1:] == [ENDING]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing", "no folder", "too long"])
def test_where_it_cannot_be_it_lies_in_the_next_place(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no folder").touch()
    (tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / {"too long": "x" * 100}.get(place, place)))
    notes: list[str] = []

    with opened(Loop(), notes, []), connected(notes[0]):
        assert Path(notes[0]).parent.parent == Path(tempfile.gettempdir())

    assert list((tmp_path / ("x" * 100)).iterdir()) == []


def test_if_it_is_removed_another_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(listening, "CHECK_S", 0.01)
    notes: list[str] = []
    accepted: list[socket.socket] = []

    with opened(Loop(), notes, accepted):
        os.unlink(notes[0])
        wait_until(lambda: len(notes) > 1, "another one")
        with connected(notes[1]):
            wait_until(lambda: accepted, "the connection")


def test_hosts_that_cannot_be_accepted_for_want_of_descriptors_are_accepted_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "PAUSE_S", 0.05)
    notes: list[str] = []
    accepted: list[socket.socket] = []

    with opened(Loop(), notes, accepted), socket.socket(socket.AF_UNIX) as host:
        with every_descriptor_used():
            host.connect(notes[0])
            wait_until(lambda: "accepted" in caplog.text, "the attempt")
            assert not accepted
        wait_until(lambda: accepted, "the connection")

    assert len(caplog.records) < 20
