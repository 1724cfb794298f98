"""Hosts that are programs of their own, and the server processes that they start. See `host_program.py`."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from commands import is_alive
from commitcast.actors import AgentRuntime
from commitcast.persistence.recovery.census import EPOCH_VARIABLE
from commitcast.persistence.remote.store import RemoteStore
from host_program import LINGER
from waiting import TIMEOUT_S, wait_until

PROGRAM: Final = str(Path(__file__).parent / "host_program.py")


class HostError(Exception):
    """What a host has answered a line with."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Host:
    """One program. `ask` sends it a line of code and returns the value of its last expression."""

    def __init__(
        self,
        path: Path | str,
        *,
        python: Sequence[str] = (sys.executable,),
        started_by: Sequence[str] = (),
        program: Sequence[str] = (PROGRAM,),
        linger_s: float = 0.0,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Start it.

        Args:
            path: of the database; the host has it as `path`.
            python: the interpreter and its options.
            started_by: a program that executes its arguments.
            program: in place of the ordinary one.
            linger_s: how long a server that it starts stays after its last host.
            env: further variables.
            options: for `subprocess.Popen`.
        """
        self.process = subprocess.Popen(
            [*started_by, *python, *program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, LINGER: str(linger_s), **(env or {})},
            **options,
        )
        self.errors: list[str] = []
        """The lines of its standard error."""
        self._answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_answers),
            threading.Thread(target=self._read_errors),
        ]
        for reader in self._readers:
            reader.start()

    def _read_answers(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(iter(self.process.stderr.readline, ""))

    def tell(self, code: str) -> None:
        """Send a line and do not wait; `answer` waits for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"code": code}) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout_s: float = 2 * TIMEOUT_S) -> Any:
        """Wait for the next answer. Raises `HostError`."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except Empty:
            raise AssertionError(f"the host says nothing within {timeout_s} s: {''.join(self.errors)}") from None
        if "error" in answer:
            raise HostError(answer["error"], answer["text"])
        return answer["value"]

    def ask(self, code: str, timeout_s: float = 2 * TIMEOUT_S) -> Any:
        """Send a line and wait for its answer. Raises `HostError`."""
        self.tell(code)
        return self.answer(timeout_s)

    def refusal(self, code: str) -> str:
        """Return the class of the error that a line raises; "" if it raises none."""
        try:
            self.ask(code)
        except HostError as error:
            return error.kind
        return ""

    def start(self, options: str = "") -> int:
        """Start a runtime on the file, as `runtime`; return the process of its server."""
        pid: int = self.ask(f"runtime = AgentRuntime(path, {options}).start(); runtime.store.server_pid")
        return pid

    @property
    def pid(self) -> int:
        """Its process; that of the program that has started it, if there is one."""
        return self.process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a word, as a crash does, and reap it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Let it end in order; return its exit code."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.process.wait(3 * TIMEOUT_S)

    def close(self) -> None:
        """Kill it, if it has not ended."""
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        for reader in self._readers:
            reader.join(TIMEOUT_S)


class Hosts:
    """The hosts of one test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: list[Host] = []

    def __call__(self, path: Path | str | None = None, **options: Any) -> Host:
        """Start a host on the test's file."""
        host = Host(self._path if path is None else path, **options)
        self._all.append(host)
        return host

    def close(self) -> None:
        """Kill all, and wait for the servers that they have left."""
        for host in self._all:
            host.close()
        try:
            wait_until(lambda: not servers_below(self._path.parent), "the servers to end", show=servers)
        except AssertionError:
            for pid in servers_below(self._path.parent):
                os.kill(pid, signal.SIGKILL)
            raise


@contextmanager
def hosts_on(path: Path) -> Iterator[Hosts]:
    """Hosts on a file, of which nothing is left after the block."""
    hosts = Hosts(path)
    try:
        yield hosts
    finally:
        hosts.close()


def acknowledged(path: Path) -> dict[str, dict[int, str]]:
    """Return what a host's `load` has written down, by agent and sequence."""
    found: dict[str, dict[int, str]] = {}
    for line in path.read_text().splitlines():
        agent, sequence, content = line.split(" ", 2)
        found.setdefault(agent, {})[int(sequence)] = content
    return found


def server_of(runtime: AgentRuntime) -> int:
    """Return the server process of a runtime in this process."""
    store = runtime.store
    assert isinstance(store, RemoteStore)
    return store.server_pid


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def servers() -> list[int]:
    """Return the server processes of this machine, of any file."""
    return [pid for pid in _pids() if b"commitcast.gateway.process.main" in _command_line(pid) and is_alive(pid)]


def servers_below(folder: Path) -> list[int]:
    """Return the server processes that have a file below a folder open."""
    return [pid for pid in servers() if any(name.startswith(f"{folder}/") for name in _open_files(pid))]


def _open_files(pid: int) -> list[str]:
    found = []
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    except OSError:
        return []
    return found


def processes_of(epoch: str) -> list[int]:
    """Return what lives of the programs of an agent."""
    mark = f"{EPOCH_VARIABLE}={epoch}".encode()
    return [pid for pid in _pids() if mark in _environment(pid) and is_alive(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
