"""The selector loop over a child's pipes, where a whole source would hide what it does."""

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commitcast.actors.sources.processes.pipes import ChildPipes, Wake
from commitcast.actors.sources.processes.process import Program
from forking import forked


@pytest.fixture
def pipes() -> Iterator[ChildPipes]:
    pipes = ChildPipes()
    yield pipes
    pipes.close(0)


def refuse(*_: object) -> int:
    raise BlockingIOError


def start(pipes: ChildPipes, *argv: str, stdin: bytes = b"") -> list[bytes]:
    """Start a child and return the list that its output goes to."""
    heard: list[bytes] = []
    pipes.start(Program(argv, "agent-1", "epoch"), stdin)
    pipes.read_into(heard.append)
    return heard


def test_draining_reads_what_is_there_and_does_not_wait_for_more(pipes: ChildPipes, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    heard = start(pipes, "/bin/sh", "-c", 'seq 5000; echo > "$0"; sleep 60', str(gate))
    gate.read_text()

    pipes.drain()

    assert b"".join(heard) == b"".join(b"%d\n" % number for number in range(1, 5001))
    assert not pipes.exited


def test_draining_a_program_that_never_stops_ends(pipes: ChildPipes) -> None:
    heard = 0

    def wait_for_more(_: bytes) -> None:
        nonlocal heard
        heard += 1
        select.select([pipes._output[0]], [], [])  # so that there always is something to be read

    start(pipes, "/usr/bin/yes")
    pipes.read_into(wait_for_more)
    pipes.step()

    pipes.drain()

    assert 1 < heard < 100


def test_a_pipe_that_is_not_as_ready_as_it_was_said_does_no_harm(
    pipes: ChildPipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = start(pipes, "/bin/cat", stdin=b"hello")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        assert pipes.step()
    pipes.step()
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", refuse)
        assert pipes.step()

    while pipes.wait():
        pass

    assert heard == [b"hello"]


def test_a_selector_is_woken_by_other_threads_as_often_as_they_like(pipes: ChildPipes) -> None:
    start(pipes, "/bin/sleep", "60")

    def wake_often() -> None:
        for _ in range(20_000):
            pipes.wake.set()

    threads = [threading.Thread(target=wake_often, name=f"Waker-{number}") for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pipes.step()
    while pipes.step(0):
        pass
    pipes.wake.set()
    assert pipes.step()


def test_a_wake_that_is_closed_can_still_be_set() -> None:
    wake = Wake()

    wake.close()

    wake.set()


def test_closing_what_was_never_started_closes_everything() -> None:
    descriptors = os.listdir("/proc/self/fd")

    ChildPipes().close(0)

    assert os.listdir("/proc/self/fd") == descriptors


def test_a_forked_child_keeps_no_input_open_that_has_been_given_whole(pipes: ChildPipes) -> None:
    given = b"x" * 300_000  # more than a pipe holds, so it is still open when the process is forked
    heard = start(pipes, "/usr/bin/wc", "-c", stdin=given)

    with forked() as child:
        child.answer()
        while pipes.wait():
            pass

    assert b"".join(heard).split() == [b"300000"]
