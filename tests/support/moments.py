"""Servers of each kind, and connections to them in each of their moments."""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.actors.commands import uvicorn_server
from commitcast.gateway.server.sockets.accepted import AcceptedSockets
from commitcast.gateway.tls import server_context
from hostile import CLOSE, TEXT, UPGRADE, masked, server_of
from waiting import TIMEOUT_S

TOKEN: Final = "T"
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
        runtime.launch(id="a").start().get(TIMEOUT_S)
        yield Server(runtime, address, tls)


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


def rst(plug: socket.socket) -> None:
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plug.close()
