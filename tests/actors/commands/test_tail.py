"""`commitcast tail` when nobody reads what it prints, and when the agent ends badly."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import COMMAND, Running, run, running
from waiting import TIMEOUT_S

pytestmark = pytest.mark.sampled(3, of_file=True)

SPEAKER = "for n in range(2000):\n    print(n, 'x' * 200, flush=True)\nimport signal; signal.pause()"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A run that has said much, and goes on without a word."""
    arguments = ("--db", str(tmp_path / "x.db"), "--id", "a1", "--listen", "127.0.0.1:0")
    with running("run", *arguments, "--", sys.executable, "-c", SPEAKER) as command:
        yield command


def tail(server: Running, *options: str, agent: str = "a1") -> subprocess.Popen[bytes]:
    command = [*COMMAND, "tail", agent, "--url", server.url, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def left(command: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Leave it, and return how it ended and what it complained of."""
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    try:
        return command.wait(TIMEOUT_S), command.stderr.read()
    finally:
        command.kill()
        command.stderr.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("options", [(), ("--json",), ("--all",)])
@pytest.mark.parametrize("agent", ["a1", "*"])
def test_it_is_silent_when_its_reader_leaves(server: Running, options: tuple[str, ...], agent: str) -> None:
    following = tail(server, *options, agent=agent)
    assert following.stdout is not None
    following.stdout.readline()

    assert left(following) == (141, b"")


def test_head_gets_its_lines_and_standard_error_stays_empty(server: Running) -> None:
    """No traceback of a generator that is closed while it runs."""
    script = '"$@" | head -2'
    command = ["sh", "-c", script, "sh", *COMMAND, "tail", "a1", "--url", server.url]

    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, text=True)

    assert [line.split()[:3] for line in done.stdout.splitlines()] == [["1", "assistant", "0"], ["2", "assistant", "1"]]
    assert done.stderr == ""


def test_it_notices_that_its_reader_left_also_when_nothing_is_said(server: Running) -> None:
    following = tail(server, "--after", "tail")

    assert left(following) == (141, b"")


def test_a_signal_is_silent_too_and_says_where_to_continue(server: Running) -> None:
    following = tail(server)
    assert following.stdout is not None
    assert following.stderr is not None
    os.read(following.stdout.fileno(), 1)
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=TIMEOUT_S)

    assert following.returncode == 130
    assert b"to continue: --after" in errors
    assert b"Traceback" not in errors


def test_it_says_why_the_agent_failed(tmp_path: Path) -> None:
    db = str(tmp_path / "x.db")
    run("run", "--db", db, "--id", "bad", "--", "sh", "-c", "echo the reason >&2; exit 3")
    with running("serve", "--db", db, "--listen", "127.0.0.1:0") as server:
        done = run("tail", "bad", "--url", server.url)

    assert done.returncode == 1
    assert "bad failed after 0 messages: " in done.stderr
