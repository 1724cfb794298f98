"""What is piped into `commitcast run` reaches the program, and nothing waits for what says nothing."""

import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commands import COMMAND, Done, Running, running
from commitcast.actors.commands.piped_input import copy, piped_input
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(5, of_file=True)

PROMPT_AND_INPUT = ["sh", "-c", 'printf "%s|" "$1"; cat', "sh", "{prompt}"]


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "x.db")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that nobody has said anything in yet."""
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def run(db: str, *arguments: str, **options: Any) -> Done:
    done = subprocess.run(
        [*COMMAND, "run", "--db", db, "--id", "a1", *arguments],
        capture_output=True,
        timeout=TIMEOUT_S * 6,
        check=False,
        **options,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def has_lines(command: Running, count: int) -> bool:
    return len(command.output) >= count


def test_what_is_piped_in_reaches_the_program(db: str) -> None:
    done = run(db, "--", "cat", input=b"one\ntwo")

    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["one", "two"]


def test_more_than_pipes_hold_arrives_whole(db: str) -> None:
    sent = os.urandom(3_000_001)

    assert str(len(sent)) in run(db, "--", "wc", "-c", input=sent).stdout


def test_it_stands_beside_a_prompt_among_the_arguments_and_behind_one_that_is_piped(db: str, tmp_path: Path) -> None:
    beside = run(db, "--prompt", "Review", "--", *PROMPT_AND_INPUT, input=b"the diff")
    behind = run(str(tmp_path / "y.db"), "--prompt", "Review", "--", "tr", "\\n", "+", input=b"the diff")

    assert "Review|the diff" in beside.stdout
    assert "Review+the diff" in behind.stdout


def test_a_file_and_a_socket_are_passed_on_too(db: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("from a file")
    with open(tmp_path / "input", "rb") as file:
        assert "from a file" in run(db, "--", "cat", stdin=file).stdout
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"from a socket")
        ours.shutdown(socket.SHUT_WR)
        assert "from a socket" in run(str(tmp_path / "y.db"), "--", "cat", stdin=theirs).stdout


def test_it_is_kept_back_on_demand_and_if_there_is_none(db: str, tmp_path: Path) -> None:
    kept = run(db, "--no-stdin", "--", "cat", input=b"the diff")
    closed = run(str(tmp_path / "y.db"), "--", "cat", preexec_fn=lambda: os.close(0))

    assert (kept.returncode, kept.stdout) == (0, "")
    assert (closed.returncode, closed.stdout) == (0, "")


def test_a_loop_over_the_lines_of_a_file_goes_through_all_when_it_is_kept_back(db: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("one\ntwo\nthree\n")
    command = f'{shlex.join([*COMMAND, "run", "--db", db])} --no-stdin -- printf %s "$name"'

    done = subprocess.run(
        ["sh", "-c", f"while read name; do {command}; done < {shlex.quote(str(tmp_path / 'names'))}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S * 6,
        check=True,
    )

    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["one", "two", "three"]


def test_a_program_that_does_not_read_is_not_disturbed(db: str) -> None:
    done = run(db, "--", "echo", "hello", input=bytes(1_000_000))

    assert (done.returncode, done.stdout.split()[-1]) == (0, "hello")


def test_input_is_passed_on_as_it_comes(db: str, pipe: tuple[int, int]) -> None:
    with running("run", "--db", db, "--", "cat", stdin=pipe[0]) as command:
        for count, line in enumerate((b"one\n", b"two\n"), 1):
            os.write(pipe[1], line)
            # Each is stored and printed before the next is sent.
            wait_until(partial(has_lines, command, count), "the line", show=lambda: command.errors)

    assert [line.split()[-1] for line in command.output] == ["one", "two"]


def test_a_program_that_has_ended_is_not_kept_by_a_pipe_that_is_open(db: str, pipe: tuple[int, int]) -> None:
    assert run(db, "--", "true", stdin=pipe[0]).returncode == 0
    assert run(db.replace("x.db", "y.db"), "--stdin", "--prompt", "x", "--", "true", stdin=pipe[0]).returncode == 0


def test_a_signal_ends_a_program_that_waits_for_input(db: str, pipe: tuple[int, int]) -> None:
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    with running("run", "--db", db, "--", sys.executable, "-c", script, stdin=pipe[0]) as command:
        wait_until(lambda: any("up" in line for line in command.output), "its line", show=lambda: command.errors)
        command.process.terminate()

        assert command.wait() == 143


def test_a_pipe_that_says_nothing_is_taken_to_be_empty_if_there_is_a_prompt(
    pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    reading, into = os.pipe()
    late = threading.Thread(target=copy, args=(pipe[0], into, 0.05))
    late.start()

    assert os.read(reading, 1) == b""
    os.close(reading)
    os.write(pipe[1], b"late")
    late.join(TIMEOUT_S)
    said = capfd.readouterr().err
    assert "standard input was silent for 0.05 s" in said
    assert "too late" in said


def test_what_begins_in_time_may_take_its_time(pipe: tuple[int, int]) -> None:
    reading, into = os.pipe()
    os.write(pipe[1], b"one ")
    copying = threading.Thread(target=copy, args=(pipe[0], into, 0.05), daemon=True)
    copying.start()
    assert os.read(reading, 100) == b"one "
    copying.join(0.1)

    os.write(pipe[1], b"two")

    assert os.read(reading, 100) == b"two"
    os.close(reading)
    os.write(pipe[1], b"x")  # it notices that nobody reads
    copying.join(TIMEOUT_S)
    assert not copying.is_alive()


def test_a_device_is_not_read_unless_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, encoding="utf-8") as device:
        monkeypatch.setattr(sys, "stdin", device)

        with piped_input(None, has_prompt=False) as given:
            assert given is None
        with piped_input(True, has_prompt=False) as given:
            assert given is not None
            assert os.read(given, 1) == b""
