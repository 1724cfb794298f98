"""Peers that keep to no rule: sockets that send any byte, read when they please, and see what really came."""

import asyncio
import json
import os
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from commitcast.actors import AgentHandle, AgentRuntime
from commitcast.gateway.server.access.auth import Capability, Grant, Permission
from commitcast.gateway.server.errors import TokenError
from commitcast.gateway.server.server import GatewayServer
from subscribers import Fields
from waiting import TIMEOUT_S, wait_until

Scenario = Callable[[AgentRuntime], Awaitable[None]]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
READ, SEND, LAUNCH, TERMINATE, ADMIN = Permission
UPGRADE: Final = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def play(tmp_path: Path, scenario: Scenario, **options: Any) -> None:
    """Run a scenario against a runtime of its own, and see that it leaves nothing behind in the gateway."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", **options) as runtime:
                await scenario(runtime)
                await asyncio.to_thread(nobody_is_left, server_of(runtime))

    asyncio.run(bounded())


def server_of(runtime: AgentRuntime) -> GatewayServer:
    """Return the gateway's server, to look inside."""
    assert isinstance(runtime.gateway, GatewayServer)
    return runtime.gateway


def counted(runtime: AgentRuntime) -> dict[str, int]:
    """Return how many connections the server counts, by their peers."""
    return server_of(runtime).core._from


def nobody_is_left(server: GatewayServer) -> None:
    """Wait until the server has forgotten every connection and all that belonged to one."""

    def left() -> list[Any]:
        core = server.core
        hub = core.hub
        return [what for what in (core._sessions, hub._by_agent, hub._rings.size, server.core._from) if what]

    wait_until(lambda: not left(), "sessions, subscriptions and counts to be gone", show=left)


async def spoken(runtime: AgentRuntime, id: str, count: int, *, text: str = "", end: bool = True) -> None:
    """Launch an agent that says so much, and wait until that is stored."""
    agent = await runtime.alaunch(id=id)
    agent.start()
    await say(agent, *(text or f"{id} {number}" for number in range(count)))
    if end:
        await agent.complete()


async def say(agent: AgentHandle, *texts: str) -> None:
    """Let an agent say all that, and wait until it is stored."""
    await [agent.emit(text) for text in texts][-1]


class Passes:
    """A verifier whose tokens are given out by the test, and may expire."""

    def __init__(self, **grants: Grant) -> None:
        self.grants = grants

    def verify(self, token: str) -> Grant:
        """Return what a token grants."""
        if token not in self.grants:
            raise TokenError("this token is not accepted")
        return self.grants[token]


def allowed(subject: str, *rights: tuple[str, Sequence[Permission]], expires_at: float | None = None) -> Grant:
    """Return a grant of operations on agents."""
    return Grant(subject, tuple(Capability(agent, frozenset(each)) for agent, each in rights), expires_at)


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Frame(NamedTuple):
    """A WebSocket frame as it came."""

    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        """What kind it is of."""
        return self.first & 0x0F

    @property
    def is_compressed(self) -> bool:
        """Whether RSV1 is set."""
        return bool(self.first & RSV1)

    @property
    def json(self) -> Fields:
        """What it says, decompressed with an empty window if need be."""
        text = (
            zlib.decompressobj(-15).decompress(self.payload + b"\0\0\xff\xff") if self.is_compressed else self.payload
        )
        fields: Fields = json.loads(text)
        return fields


def masked(opcode: int, payload: bytes | str = b"", *, first: int = FIN, mask: bool = True) -> bytes:
    """Return a client's frame (RFC 6455 section 5.2)."""
    data = payload.encode() if isinstance(payload, str) else payload
    size, bit = len(data), 0x80 if mask else 0
    if size < 126:
        length = bytes((size | bit,))
    elif size < 65_536:
        length = bytes((126 | bit,)) + size.to_bytes(2)
    else:
        length = bytes((127 | bit,)) + size.to_bytes(8)
    key = os.urandom(4) if mask and size < 65_536 else b"\0\0\0\0" if mask else b""
    if any(key):
        data = bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
    return bytes((first | opcode,)) + length + key + data


def request(runtime: AgentRuntime, path: str, headers: Sequence[tuple[str, str]] = (), method: str = "GET") -> bytes:
    """Return an HTTP request, with the right Host unless another is given."""
    named = headers if any(name == "Host" for name, _ in headers) else (("Host", str(runtime.address)), *headers)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


class Wire:
    """One TCP connection to a server, byte by byte."""

    def __init__(self, runtime: AgentRuntime, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.runtime = runtime
        self.reader = reader
        self.writer = writer
        self.offered = ""
        """What the server agreed to of the extensions."""

    async def send(self, data: bytes) -> None:
        """Send bytes; that the server is gone already is no error."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            pass

    async def say(self, type: str, **fields: Any) -> None:
        """Send a frame of the protocol."""
        await self.send(masked(TEXT, json.dumps({"type": type, **fields})))

    async def answer(self) -> Answer:
        """Read what is answered over HTTP, to the end."""
        async with asyncio.timeout(TIMEOUT_S):
            head, _, body = (await self.reader.read(-1)).partition(b"\r\n\r\n")
        return _answer(head, body)

    async def open(self, *headers: tuple[str, str], path: str = "/v1/ws") -> "Wire":
        """Become a WebSocket."""
        await self.send(request(self.runtime, path, (*UPGRADE, *headers)))
        async with asyncio.timeout(TIMEOUT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        answer = _answer(head.removesuffix(b"\r\n\r\n"), b"")
        assert answer.status == 101, answer
        self.offered = answer.headers.get("sec-websocket-extensions", "")
        assert (await self.read()).json["type"] == "welcome"
        return self

    async def read(self) -> Frame:
        """Return the next frame, whatever it is."""
        async with asyncio.timeout(TIMEOUT_S):
            first, length = await self.reader.readexactly(2)
            assert not length & 0x80, "a server masks nothing"
            if length >= 126:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8))
            return Frame(first, await self.reader.readexactly(length))

    async def until(self, type: str, **wanted: Any) -> Fields:
        """Return the first frame of the protocol of a type that has these fields; pings are answered on the way."""
        while True:
            frame = await self.read()
            if frame.opcode == PING:
                await self.send(masked(PONG, frame.payload))
            elif frame.opcode == TEXT and (fields := frame.json)["type"] == type and wanted.items() <= fields.items():
                return fields
            else:
                assert frame.opcode != CLOSE, frame

    async def ask(self, type: str, **fields: Any) -> Fields:
        """Send a frame and return the reply to it."""
        fields.setdefault("id", "asked")
        await self.say(type, **fields)
        while True:
            frame = await self.read()
            if frame.opcode == TEXT and frame.json.get("id") == fields["id"]:
                return frame.json

    async def farewell(self) -> tuple[Fields, int]:
        """Read to the close frame; return the frame of the protocol before it, and the code of the close."""
        last: Fields = {}
        while (frame := await self.read()).opcode != CLOSE:
            if frame.opcode == TEXT:
                last = frame.json
        await self.send(masked(CLOSE, frame.payload[:2]))
        return last, int.from_bytes(frame.payload[:2])

    async def is_dropped(self) -> bytes:
        """Read until the server has closed; return what came."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self.reader.read(-1)
        except ConnectionError:
            return b""

    def stop_reading(self) -> None:
        """Take nothing more from the socket."""
        transport: Any = self.writer.transport
        transport.pause_reading()

    def read_on(self) -> None:
        """Take again what comes."""
        transport: Any = self.writer.transport
        transport.resume_reading()

    def cut(self) -> None:
        """Be gone without a word."""
        self.writer.transport.abort()


def _answer(head: bytes, body: bytes) -> Answer:
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split(" ")[1]), headers, body)


@asynccontextmanager
async def wire(runtime: AgentRuntime, *, receive_buffer: int | None = None, **options: Any) -> AsyncIterator[Wire]:
    """A TCP connection; with a small receive buffer, what is not read soon stays with the server."""
    host, _, port = str(runtime.address).rpartition(":")
    plug = socket.socket()
    if receive_buffer is not None:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        options["limit"] = receive_buffer
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=plug, **options)
    try:
        yield Wire(runtime, reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def opened(runtime: AgentRuntime, *headers: tuple[str, str], **options: Any) -> AsyncIterator[Wire]:
    """A WebSocket that has been welcomed."""
    async with wire(runtime, **options) as connection:
        yield await connection.open(*headers)


async def get(
    runtime: AgentRuntime, path: str, *headers: tuple[str, str], token: str | None = None, method: str = "GET"
) -> Answer:
    """Ask for something over HTTP."""
    if token is not None:
        headers = (*headers, ("Authorization", f"Bearer {token}"))
    async with wire(runtime) as connection:
        await connection.send(request(runtime, path, headers, method))
        return await connection.answer()


async def asleep(runtime: AgentRuntime, connection: Wire) -> Any:
    """Return the server's half of a connection that reads nothing, once its socket takes no more."""
    core = server_of(runtime).core
    port = connection.writer.get_extra_info("sockname")[1]

    def paused() -> Any:
        for peer in list(core._sessions):
            if peer.transport.get_extra_info("peername")[1] == port and peer.subscriber.is_paused:  # type: ignore[attr-defined]
                return peer
        return None

    return await asyncio.to_thread(wait_until, paused, "the connection to be paused")


async def upgraded(runtime: AgentRuntime, *headers: tuple[str, str], path: str = "/v1/ws") -> Answer:
    """Return what a handshake is answered with that should be refused."""
    async with wire(runtime) as enemy:
        await enemy.send(request(runtime, path, (*UPGRADE, *headers)))
        return await enemy.answer()
