"""Connections leave descriptors to the database, on each kind of server, and what cannot be accepted is told seldom."""

import errno
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from certificates import write_certificate
from commands import COMMAND, running
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.sockets import descriptors, listening
from hostile import UPGRADE
from moments import KINDS, connected, encrypted, half_of_tls, nothing, request, rst, serving
from waiting import SLOWNESS, TIMEOUT_S, wait_until

LIMIT: Final = 128
CROWD: Final = 150

SERVER: Final = """
import logging, os, resource, sys
from pathlib import Path
from moments import serving

logging.basicConfig(level=logging.WARNING, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[3])))
with serving(Path(sys.argv[1]), sys.argv[2], token=None, server="in_process") as server:
    agent = server.runtime.agent("a")
    print(server.address, flush=True)
    for line in sys.stdin:
        match line.strip():
            case "emit":
                print(agent.emit("more").get(10).sequence, flush=True)
            case "fill":
                held = []
                try:
                    while True:
                        held.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    print("full", flush=True)
            case "free":
                for each in held:
                    os.close(each)
                print("free", flush=True)
"""

STARTER: Final = """
import os, resource, sys
from commitcast.actors.sources.processes import file_limit
from commitcast.actors.sources.processes.process import Program, start_process

hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
file_limit.raise_soft_limit()
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(sys.argv[1]))]
with file_limit.given_limit() as has_it:
    print(has_it)
process = start_process(Program(["sh", "-c", "read go; ulimit -Sn"], "a", "e"), stdin=True)
print(process.communicate(b"go")[0].decode().strip())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard)
"""


class Child:
    """A runtime in a process with few descriptors, which does what it is told on a line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = self._read()

    def ask(self, what: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def child(folder: Path, kind: str, limit: int = LIMIT) -> Iterator[Child]:
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": "tests/support"}
    script = [sys.executable, "-c", SERVER, str(folder), kind, str(limit)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        yield Child(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0, log.read_text()


def first_line(plug: socket.socket) -> bytes:
    """Return the first line of an answer; empty if the connection was dropped."""
    try:
        return plug.recv(4_096).partition(b"\r\n")[0]
    except ConnectionError:
        return b""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_crowd_that_comes_at_once_some_are_served_and_commits_go_on(tmp_path: Path, kind: str) -> None:
    with child(tmp_path, kind) as server, ExitStack() as stack:
        tls = kind.endswith("tls")
        plugs = [connected(server.address) for _ in range(CROWD)]
        answers = [_shake_hands(stack, server.address, plug, tls) for plug in plugs]

        assert answers.count(b"HTTP/1.1 101 Switching Protocols") >= LIMIT // 8
        assert answers.count(b"") >= CROWD - LIMIT
        assert server.ask("emit") == "1"
        wait_until(lambda: _is_ready(server.address, tls), "one of the places that are not for WebSockets")
    log = (tmp_path / "log").read_text()
    assert "open files are in use or reserved" in log and "Traceback" not in log


def _shake_hands(stack: ExitStack, address: str, plug: socket.socket, tls: bool) -> bytes:
    """Ask for a WebSocket, stay if there is one, else go; return the first line of the answer."""
    try:
        if tls:
            plug = ssl._create_unverified_context().wrap_socket(plug, server_hostname="localhost")
        plug.sendall(request(address, "/v1/ws", *UPGRADE))
        answer = first_line(plug)
    except OSError:
        answer = b""
    if b" 101 " in answer:
        stack.enter_context(plug)
    else:
        plug.close()
    return answer


def _is_ready(address: str, tls: bool) -> bool:
    try:
        with encrypted(address, tls) as plug:
            plug.sendall(request(address, "/readyz"))
            return first_line(plug) == b"HTTP/1.1 200 OK"
    except OSError:
        return False


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["plain", "asgi"])
def test_what_cannot_be_accepted_waits_and_is_told_once_a_second(tmp_path: Path, kind: str) -> None:
    with child(tmp_path, kind) as server:
        wait_until(lambda: _is_ready(server.address, False), "it to have opened what it opens at its start")
        assert server.ask("emit") == "1"
        assert server.ask("fill") == "full"
        began = time.monotonic()
        with connected(server.address) as plug:
            plug.sendall(request(server.address, "/healthz"))
            wait_until(lambda: "cannot accept connections" in (tmp_path / "log").read_text(), "it to be told")
            assert server.ask("emit") == "2"
            assert server.ask("free") == "free"
            assert first_line(plug) == b"HTTP/1.1 200 OK"
        took_s = time.monotonic() - began
    log = (tmp_path / "log").read_text()
    assert 1 <= log.count("cannot accept connections now (Too many open files)") <= 1 + took_s
    assert "Traceback" not in log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", [nothing, half_of_tls], ids=lambda moment: moment.__name__)
def test_an_address_is_counted_from_accept_on(
    tmp_path: Path, kind: str, moment: Callable[[str, bool], socket.socket]
) -> None:
    limits = Limits(connections_per_peer=2, handshake_timeout_s=600.0)
    with serving(tmp_path, kind, limits=limits) as server, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(server.address))
        wait_until(lambda: len(server.sockets) == 4, "all to be counted", show=lambda: len(server.sockets))

        with moment(server.address, server.tls) as refused:
            assert first_line(refused) == b""
        assert len(server.sockets) == 4


class TestNumbers:
    @pytest.mark.parametrize(
        ("limit", "room", "websockets"),
        [(2, 1, 1), (64, 32, 28), (128, 64, 56), (256, 192, 168), (1_024, 768, 672), (20_000, 15_000, 13_125)],
    )
    def test_a_reserve_and_a_spare_are_left(self, limit: int, room: int, websockets: int) -> None:
        assert (descriptors.room(limit), descriptors.room_for_websockets(limit)) == (room, websockets)

    def test_the_number_of_a_connection_is_what_counts(self) -> None:
        last = descriptors.room_for_websockets(descriptors.soft_limit()) - 1

        assert descriptors.is_for_websockets(last) and not descriptors.is_for_websockets(last + 1)
        assert descriptors.is_for_websockets(None), "what would be opened next"


class TestCommands:
    @pytest.mark.sampled(1 / 2)
    def test_they_raise_the_soft_limit(self, tmp_path: Path) -> None:
        hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536)
        lowered = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))}
        with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", **lowered) as server:
            assert server.url
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)

    def test_they_say_if_that_bounds_the_connections(self, tmp_path: Path) -> None:
        lowered = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))}
        with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", **lowered) as server:
            assert server.url
            assert "open files are limited to 256, so fewer than 168 subscribers can connect at once" in "".join(
                server.errors
            )

    @pytest.mark.sampled(1 / 2)
    def test_the_programs_of_agents_get_the_one_that_was_given(self, tmp_path: Path) -> None:
        hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536)
        program = "ulimit -Sn; ulimit -Hn; (ulimit -Sn)"
        command = [*COMMAND, "run", "--db", str(tmp_path / "a.db"), "--json", "--", "sh", "-c", program]

        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)),
        )

        said = [json.loads(line).get("content") for line in done.stdout.splitlines()]
        assert said == ["256", str(hard), "256", None], done

    @pytest.mark.parametrize(("others", "at_once"), [(0, True), (200, False)])
    def test_also_while_more_files_are_open_than_that_leaves_room_for(self, others: int, at_once: bool) -> None:
        done = subprocess.run(
            [sys.executable, "-c", STARTER, str(others)], capture_output=True, text=True, timeout=TIMEOUT_S
        )

        assert done.stdout.split() == [str(at_once), "256", "True"], done


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_sigterm_ends_a_server_in_its_time_whatever_is_held(tmp_path: Path, kind: str) -> None:
    """With the limits of time that a server has by itself."""
    options = ["--asgi"] if kind.startswith("asgi") else []
    if tls := kind.endswith("tls"):
        certificate, key = write_certificate(tmp_path)
        options += ["--certificate", str(certificate), "--key", str(key)]
    with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", *options) as server:
        address = wait_until(lambda: _announced("".join(server.errors)), "the address", show=lambda: server.errors)
        rst(_handshaken(address, tls))
        with nothing(address, tls), half_of_tls(address, tls), _handshaken(address, tls), connected(address) as slow:
            slow.sendall(b"GET / HT")
            server.process.terminate()
            assert server.process.wait(15 * SLOWNESS) == 0
    assert "Traceback" not in "".join(server.errors)


def _announced(errors: str) -> str:
    return errors.partition("://")[2].partition("/")[0]


def _handshaken(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/ws", *UPGRADE))
    assert first_line(plug) == b"HTTP/1.1 101 Switching Protocols"
    return plug


class TestBinding:
    @staticmethod
    def resolved(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        def getaddrinfo(_: Any, port: int, **options: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def test_all_addresses_of_a_name_get_one_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resolved(monkeypatch, "127.0.0.1", "127.0.0.2")

        bound = listening.bind("name", 0)

        (first, port), second = (each.getsockname() for each in bound)
        assert (first, second) == ("127.0.0.1", ("127.0.0.2", port))
        for each in bound:
            each.close()

    def test_one_that_this_machine_does_not_have_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resolved(monkeypatch, "192.0.2.1", "127.0.0.1")

        (bound,) = listening.bind("name", 0)

        assert bound.getsockname()[0] == "127.0.0.1"
        bound.close()

    def test_if_it_has_none_of_them_that_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resolved(monkeypatch, "192.0.2.1")

        with pytest.raises(OSError) as caught:
            listening.bind("name", 0)

        assert caught.value.errno == errno.EADDRNOTAVAIL

    def test_one_that_is_taken_leaves_none_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.2", 0)) as taken:
            port = taken.getsockname()[1]
            self.resolved(monkeypatch, "127.0.0.1", "127.0.0.2")

            with pytest.raises(OSError) as caught:
                listening.bind("name", port)

            assert caught.value.errno == errno.EADDRINUSE
            with socket.create_server(("127.0.0.1", port)):
                pass
