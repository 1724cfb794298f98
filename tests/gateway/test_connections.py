"""Each moment of a connection, each way to go, each kind of server: one place is taken and given back, a stop ends."""

import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.actors.commands import uvicorn_server
from commitcast.gateway import asgi_peer, connection
from commitcast.gateway import server as gateway_server
from commitcast.gateway.accepted import AcceptedSockets
from commitcast.gateway.limits import Limits
from commitcast.gateway.tls import server_context
from hostile import CLOSE, TEXT, UPGRADE, masked, nobody_is_left, server_of
from waiting import SLOWNESS, TIMEOUT_S, wait_until

TOKEN: Final = "T"
SHORT_S: Final = 0.5 * SLOWNESS


def limits(seconds: float) -> Limits:
    return Limits(handshake_timeout_s=seconds, answer_timeout_s=seconds, hello_timeout_s=seconds)


PATIENT: Final[dict[str, Any]] = {"limits": limits(600), "heartbeat_s": 600.0}
IMPATIENT: Final[dict[str, Any]] = {"limits": limits(2 * SHORT_S), "heartbeat_s": 2 * SHORT_S}
KINDS: Final = ("plain", "tls", "asgi", "asgi with tls")


class Server(NamedTuple):
    """A real one, and how to get at it."""

    runtime: AgentRuntime
    address: str
    tls: bool

    @property
    def sockets(self) -> AcceptedSockets:
        return server_of(self.runtime).sockets


@contextmanager
def serving(folder: Path, kind: str, **options: Any) -> Iterator[Server]:
    """A runtime with an agent at work, behind a server of a kind."""
    options = {"token": TOKEN, **options}
    tls = kind.endswith("tls")
    certificate, key = write_certificate(folder) if tls else (None, None)
    with ExitStack() as stack:
        if kind.startswith("asgi"):
            runtime = stack.enter_context(AgentRuntime(folder / "a.db", listen="asgi", **options))
            address = stack.enter_context(
                uvicorn_server.serving(runtime, ("127.0.0.1", 0), certificate, key),
            )
        else:
            context = None if certificate is None else server_context(certificate, key)
            runtime = stack.enter_context(AgentRuntime(folder / "a.db", listen="127.0.0.1:0", tls=context, **options))
            address = str(runtime.address)
        runtime.launch(id="a").start()
        yield Server(runtime, address, tls)


@pytest.fixture(scope="module", autouse=True)
def nobody_is_waited_for_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (connection, gateway_server, asgi_peer):
            patch.setattr(module, "CLOSE_TIMEOUT_S", SHORT_S)
        yield


# The moments of a connection.


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


def encrypted(address: str, tls: bool) -> socket.socket:
    plug = connected(address)
    return ssl._create_unverified_context().wrap_socket(plug, server_hostname="localhost") if tls else plug


def request(address: str, path: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode()


def read_until(plug: socket.socket, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += (data := plug.recv(65_536))
        assert data, seen


AUTHORIZED: Final = ("Authorization", f"Bearer {TOKEN}")


def nothing(address: str, tls: bool) -> socket.socket:
    return connected(address)


def half_of_tls(address: str, tls: bool) -> socket.socket:
    plug = connected(address)
    plug.sendall(b"\x16\x03\x01\x02\x00\x01")
    return plug


def only_tls(address: str, tls: bool) -> socket.socket:
    return encrypted(address, tls)


def half_a_request(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/agents")[:-2])
    return plug


def whole_request(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/agents", AUTHORIZED))
    return plug


def half_a_request_behind_one(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/healthz") + request(address, "/healthz")[:-2])
    return plug


def garbage(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(b"\x00\xff this is no HTTP \r\n\r\n")
    return plug


def handshake(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/ws", *UPGRADE, AUTHORIZED))
    return plug


def handshake_with_garbage(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/ws", *UPGRADE, AUTHORIZED) + b"\xff\xff\xff")
    return plug


def before_hello(address: str, tls: bool) -> socket.socket:
    plug = encrypted(address, tls)
    plug.sendall(request(address, "/v1/ws", *UPGRADE))
    read_until(plug, b'"welcome"')
    return plug


def subscribed(address: str, tls: bool) -> socket.socket:
    plug = handshake(address, tls)
    read_until(plug, b'"welcome"')
    plug.sendall(masked(TEXT, '{"type":"subscribe","agent":"a"}'))
    read_until(plug, b'"subscribed"')
    return plug


def half_a_frame(address: str, tls: bool) -> socket.socket:
    plug = subscribed(address, tls)
    plug.sendall(masked(TEXT, '{"type":"ping"}')[:-3])
    return plug


def closing(address: str, tls: bool) -> socket.socket:
    plug = subscribed(address, tls)
    plug.sendall(masked(CLOSE, b"\x03\xe8"))
    return plug


Moment = Callable[[str, bool], socket.socket]
MOMENTS: Final[tuple[Moment, ...]] = (
    nothing,
    half_of_tls,
    only_tls,
    half_a_request,
    whole_request,
    half_a_request_behind_one,
    garbage,
    handshake,
    handshake_with_garbage,
    before_hello,
    subscribed,
    half_a_frame,
    closing,
)


STAYING: Final = (nothing, only_tls, half_a_request, before_hello, subscribed, half_a_frame)
"""Those that the server does not end by itself at once."""
FOUND_OUT_BY_UVICORN: Final = (handshake, handshake_with_garbage, subscribed, half_a_frame)
"""Who is silent then is for the ASGI server's own pings to find out, after forty seconds."""

# The ways to go.


def fin(plug: socket.socket) -> None:
    plug.close()


def rst(plug: socket.socket) -> None:
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plug.close()


def half_close(plug: socket.socket) -> None:
    try:
        plug.shutdown(socket.SHUT_WR)
    except OSError:  # the server was first
        pass


def quiet(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether nothing was logged that strangers must not be able to have logged."""
    return not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("go", [fin, rst, half_close], ids=lambda way: way.__name__)
def test_who_goes_gives_the_place_back_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, go: Callable[[socket.socket], None]
) -> None:
    with serving(tmp_path, kind, **PATIENT) as server:
        counts, sockets = server.sockets._counts.by_origin, server.sockets
        for moment in MOMENTS:
            with moment(server.address, server.tls) as plug:
                if moment in STAYING:
                    wait_until(
                        lambda: counts == {"127.0.0.1": 1}, f"{moment.__name__} to be counted", show=lambda: counts
                    )
                go(plug)
                wait_until(
                    lambda: not sockets and not counts,
                    f"{moment.__name__} to be gone",
                    show=lambda: (list(sockets), counts),
                )
            nobody_is_left(server_of(server.runtime))
    assert quiet(caplog)


@contextmanager
def held(server: Server, moments: Sequence[Moment]) -> Iterator[None]:
    """A connection in each moment, which then neither reads nor says anything, and stays."""
    with ExitStack() as stack:
        for moment in moments:
            stack.enter_context(moment(server.address, server.tls))
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_silent_is_cut_off_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    moments = [moment for moment in MOMENTS if not (kind.startswith("asgi") and moment in FOUND_OUT_BY_UVICORN)]
    with serving(tmp_path, kind, **IMPATIENT) as server, held(server, moments):
        counts, sockets = server.sockets._counts.by_origin, server.sockets
        wait_until(lambda: not sockets and not counts, "all to be gone", show=lambda: (list(sockets), counts))

        nobody_is_left(server_of(server.runtime))
    assert quiet(caplog)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_ends_in_its_time_whatever_is_held(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    with ExitStack() as stack:
        with serving(tmp_path, kind, **PATIENT) as server:
            for moment in MOMENTS:
                rst(moment(server.address, server.tls))
            stack.enter_context(held(server, MOMENTS))
            began = time.monotonic()
        took_s = time.monotonic() - began

        assert took_s < 6 * SLOWNESS
        assert not server.sockets
    assert quiet(caplog)
