"""A command whose output nobody reads ends like any other: by a signal, in order, and within its time."""

import json
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence.errors import StoreOpenError
from stores import commit, new_agent, opened
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(3, of_file=True)

HURRIED: Final = (
    "from commitcast.actors.commands import stopping; stopping.READ_S = 0.1; from commitcast.actors.cli import main; "
    "main()"
)
FILLING: Final = "seq 1 100000; exec sleep 600"
WARNING: Final = (
    "import logging, threading; thread = threading.Thread(target=lambda: [logging.warning('x' * 99) for _ in "
    "range(2000)]); thread.start(); "
)
"""More than a pipe holds, said on a thread of its own, which an exit in order waits for."""


def pipe() -> tuple[int, int]:
    return os.pipe()


def filled_pipe() -> tuple[int, int]:
    """A pipe that takes nothing any more."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    try:
        while os.write(theirs, bytes(4_096)):
            pass
    except BlockingIOError:
        os.set_blocking(theirs, True)
    return ours, theirs


def stopped_terminal() -> tuple[int, int]:
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # as Ctrl-S does
    return master, slave


def sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@contextmanager
def unread(
    *arguments: str, stream: str = "stdout", output: Callable[[], tuple[int, int]] = pipe, program: str = HURRIED
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that writes one stream to where nobody reads."""
    ours, theirs = output()
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=subprocess.DEVNULL, **streams)
    os.close(theirs)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def is_stuck(process: subprocess.Popen[bytes]) -> bool:
    """Whether one of its threads waits in a write. Its number is 1 on x86-64, and 64 on others."""
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        call = (task / "syscall").read_text().split()
        if call[0] in ("1", "64") and call[1] in ("0x1", "0x2"):
            return True
    return False


def catches(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether it has a handler of its own for a signal by now."""
    facts = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(facts.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def end(process: subprocess.Popen[bytes], number: signal.Signals, *, is_caught: bool = True) -> int:
    wait_until(lambda: not is_caught or catches(process, number), "it to listen to signals")
    wait_until(lambda: is_stuck(process), "it to wait for a reader")
    process.send_signal(number)
    return process.wait(TIMEOUT_S)


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


@pytest.fixture
def full(tmp_path: Path) -> str:
    """A database that has more to print than a pipe holds."""
    path = tmp_path / "full.db"
    with opened(path) as store:
        commit(store, "a1", new_agent(*("x" * 1_000 for _ in range(200))))
    return str(path)


def status(db: str) -> str | None:
    with opened(db) as store:  # which nobody has any more
        found = store.agent("a1")
    return None if found is None else found.status


def is_launched(db: str) -> bool:
    try:
        with opened(db, read_only=True) as store:
            return store.agent("a1") is not None
    except StoreOpenError:  # it is not made yet
        return False


class TestRun:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
    def test_any_signal_ends_it_in_order_though_nobody_reads_its_messages(
        self, db: str, number: signal.Signals
    ) -> None:
        with unread("run", "--db", db, "--id", "a1", "--", "sh", "-c", FILLING) as process:
            assert end(process, number) == 128 + number

        assert status(db) == "terminated"

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("output", [stopped_terminal, sockets])
    def test_whatever_the_output_is(self, db: str, output: Callable[[], tuple[int, int]]) -> None:
        with unread("run", "--db", db, "--id", "a1", "--", "sh", "-c", FILLING, output=output) as process:
            assert end(process, signal.SIGTERM) == 143

        assert status(db) == "terminated"

    def test_what_another_thread_logs_does_not_keep_it_either(self, db: str) -> None:
        arguments = ("run", "--db", db, "--id", "a1", "--", "sh", "-c", "exec sleep 600")
        with unread(*arguments, stream="stderr", program=WARNING + HURRIED) as process:
            wait_until(lambda: is_launched(db), "the agent")
            assert end(process, signal.SIGTERM) == 143

        assert status(db) == "terminated"

    def test_what_is_read_in_time_is_printed_to_the_end(self, db: str) -> None:
        script = "trap 'seq 1 5000; exit' TERM; echo up; while :; do sleep 0.05; done"
        arguments = ("run", "--db", db, "--id", "a1", "--json", "--", "sh", "-c", script)
        command = [sys.executable, "-c", HURRIED, *arguments]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            *messages, ending = process.stdout.readlines()

        assert json.loads(first)["content"] == "up"
        assert json.loads(ending)["status"] == "terminated"
        assert json.loads(ending)["head"] == len(messages) + 1


class TestOthers:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_tail(self, db: str, number: signal.Signals) -> None:
        with AgentRuntime(db, listen="127.0.0.1:0") as runtime:
            agent = runtime.launch(id="a1")
            for _ in range(200):
                agent.emit("x" * 1_000)
            assert runtime.address is not None
            with unread("tail", "a1", "--url", runtime.address) as process:
                assert end(process, number) == 128 + number

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("asgi", [(), ("--asgi",)])
    def test_serve(self, db: str, asgi: tuple[str, ...]) -> None:
        arguments = ("serve", "--db", db, "--listen", "127.0.0.1:0", *asgi)
        with unread(*arguments, stream="stderr", program=WARNING + HURRIED) as process:
            assert end(process, signal.SIGTERM) == 0

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_demo(self, stream: str) -> None:
        program = (WARNING if stream == "stderr" else "") + HURRIED
        with unread("demo", stream=stream, output=filled_pipe, program=program) as process:
            assert end(process, signal.SIGTERM) == 143

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("command", ["messages", "agents", "verify"])
    def test_those_that_only_read(self, full: str, command: str, number: signal.Signals) -> None:
        output = filled_pipe if command != "messages" else pipe
        arguments = (command, "a1") if command == "messages" else (command,)
        with unread(*arguments, "--db", full, output=output) as process:
            assert end(process, number, is_caught=False) in (130, -signal.SIGTERM)
