"""Running the real `commitcast` command in a process of its own."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from waiting import TIMEOUT_S, wait_until

COMMAND = [sys.executable, "-m", "commitcast.actors.cli"]


class Running:
    """A command at work; its standard error is collected as it comes."""

    def __init__(
        self,
        arguments: list[str],
        *,
        program: Sequence[str] = COMMAND,
        started_by: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.process = subprocess.Popen(
            [*started_by, *program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        self.errors: list[str] = []
        self.output: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors)),
            threading.Thread(target=self._read, args=(self.process.stdout, self.output)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)

    @property
    def url(self) -> str:
        """The address that it announced."""
        found = wait_until(
            lambda: re.search(r"ws://[^ \n]+", "".join(self.errors)), "the address", show=lambda: self.errors
        )
        url: str = found.group()
        return url

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        try:
            code = self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()  # a test may fail on one that does not end, and must not hang on it
            self._close()
        return code

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator[Running]:
    """A command that is gone when the block is left; `started_by` is a program that executes its arguments."""
    command = Running(list(arguments), **options)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.terminate()  # not killed: its own child must not be left behind
        command.wait()


class Done(NamedTuple):
    """What a command that has ended said."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, program: Sequence[str] = COMMAND) -> Done:
    """Run a command to its end, in a process of its own."""
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S * 6, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
