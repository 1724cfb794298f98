"""The host's end of a tunnel, with a server that a test plays on a real Unix socket, a loop and a thread of its own."""

import asyncio
import http.client
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from commitcast.gateway.server.http import tunnel, tunnel_stream
from commitcast.gateway.server.http.tunnel import Streams, TunnelOpener, tunnel_app
from commitcast.gateway.server.http.tunnel_frames import (
    MAX_FRAME_BYTES,
    PART_BYTES,
    Accepted,
    Body,
    Closed,
    FromHost,
    Scope,
    Started,
    Text,
)
from commitcast.gateway.server.http.tunnel_stream import FrameStream
from commitcast.persistence.errors import StoreClosedError
from hosting import hosted
from tunnels import playing
from waiting import TIMEOUT_S

STALL_S: Final = 30.0
STREAM: Final = ((b"content-type", b"text/event-stream"),)

Stream = FrameStream[FromHost]
Writer = asyncio.StreamWriter


def get(address: str, path: str = "/") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    connection.close()  # the response keeps the socket until it is read
    return response


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await scenario()

    asyncio.run(bounded())


async def handshake_status(address: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"ws://{address}/v1/ws", proxy=None):
            pass
    return caught.value.response.status_code


async def closed(client: ClientConnection) -> tuple[int, list[Any]]:
    """Return the code of the close, and what came before it."""
    came = []
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            came.append(await client.recv())
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, came


async def accept(stream: Stream) -> None:
    """Accept a WebSocket."""
    scope = await stream.receive()
    assert isinstance(scope, Scope) and scope.is_socket
    await stream.send(Accepted(None, (), STALL_S))


class TestWithoutAServer:
    async def _refuses(self) -> Streams:
        raise ConnectionRefusedError

    async def _has_stopped(self) -> Streams:
        raise StoreClosedError

    async def _is_slow(self) -> Streams:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never returns

    @pytest.mark.parametrize("how", ["refuses", "has_stopped", "is_slow"])
    def test_every_request_is_unavailable(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        monkeypatch.setattr(tunnel, "OPEN_TIMEOUT_S", 0.05)
        with hosted(tunnel_app(getattr(self, f"_{how}")), lifespan="on") as address:
            response = get(address)
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert b'"unavailable"' in response.read()
            assert asyncio.run(handshake_status(address)) == 503

    def test_one_that_is_lost_before_it_answers_is_unavailable(self) -> None:
        async def lost(stream: Stream, _: Writer) -> None:
            assert isinstance(await stream.receive(), Scope)

        with playing(lost) as open_connection, hosted(tunnel_app(open_connection)) as address:
            assert get(address).status == 503
            assert asyncio.run(handshake_status(address)) == 503

    @pytest.mark.parametrize("last", [b"", b"\x00\x00\x00\x09half"], ids=["between frames", "within a frame"])
    def test_one_that_is_lost_closes_its_websockets_so_that_clients_come_back(self, last: bytes) -> None:
        async def lost(stream: Stream, writer: Writer) -> None:
            await accept(stream)
            await stream.send(Text(b"hello", more=False))
            writer.write(last)
            await writer.drain()

        async def scenario() -> None:
            async with connect(f"ws://{address}/", proxy=None) as client:
                assert await closed(client) == (1012, ["hello"])

        with playing(lost) as open_connection, hosted(tunnel_app(open_connection)) as address:
            play(scenario)

    def test_one_that_is_lost_ends_its_event_streams_and_cuts_other_responses(self) -> None:
        async def lost(stream: Stream, _: Writer) -> None:
            scope = await stream.receive()
            assert isinstance(scope, Scope)
            headers = STREAM if scope.path == "/events" else ((b"content-length", b"100"),)
            await stream.send(Started(200, headers, STALL_S))
            await stream.send(Body(b"event: one\n\n", more=True))

        with playing(lost) as open_connection, hosted(tunnel_app(open_connection)) as address:
            assert get(address, "/events").read() == b"event: one\n\n"
            with pytest.raises(http.client.IncompleteRead):
                get(address, "/other").read()

    @pytest.mark.parametrize(
        "frame",
        [(MAX_FRAME_BYTES + 1).to_bytes(4), b"\x00\x00\x00\x01\xc1", b"HTTP/1.1 400 Bad Request\r\n"],
        ids=["too large", "garbage", "another protocol"],
    )
    def test_what_is_no_frame_is_not_read_on(self, caplog: pytest.LogCaptureFixture, frame: bytes) -> None:
        async def strange(stream: Stream, writer: Writer) -> None:
            await stream.receive()
            writer.write(frame)
            assert await stream.receive() is None, "the host ends the connection"

        with playing(strange) as open_connection, hosted(tunnel_app(open_connection)) as address:
            assert get(address).status == 503
        assert "not a frame of this version" in caplog.text

    def test_a_text_without_end_is_not_collected(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("commitcast.gateway.server.http.tunnel_frames.MAX_TEXT_BYTES", 3 * PART_BYTES)

        async def endless(stream: Stream, _: Writer) -> None:
            await accept(stream)
            with pytest.raises(OSError):
                while True:
                    await stream.send(Text(bytes(PART_BYTES), more=True))

        async def scenario() -> None:
            async with connect(f"ws://{address}/", proxy=None) as client:
                assert await closed(client) == (1012, [])

        with playing(endless) as open_connection, hosted(tunnel_app(open_connection)) as address:
            play(scenario)
        assert "too many parts" in caplog.text


class TestForwarding:
    def test_the_scope_is_the_clients(self) -> None:
        seen: list[Scope] = []

        async def answer(stream: Stream, _: Writer) -> None:
            scope = await stream.receive()
            assert isinstance(scope, Scope)
            seen.append(scope)
            await stream.send(Started(200, ((b"content-length", b"0"),), STALL_S))
            await stream.send(Body(b"", more=False))
            await stream.end()

        with playing(answer) as open_connection, hosted(tunnel_app(open_connection), root_path="/p") as address:
            connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
            headers = {"Host": "h.example", "Origin": "https://o", "X-Forwarded-For": "203.0.113.7"}
            connection.request("GET", "/a%2Fb/%C3%BC?x=1", headers=headers)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")
            connection.close()
        (scope,) = seen
        assert (scope.kind, scope.method, scope.http_version, scope.scheme) == ("http", "GET", "1.1", "http")
        assert (scope.path, scope.root_path, scope.query) == ("/p/a/b/ü", "/p", b"x=1")
        assert scope.client is not None and scope.client[0] == "203.0.113.7", "as uvicorn reads the header"
        assert {(b"host", b"h.example"), (b"origin", b"https://o")} <= set(scope.headers)

    def test_a_text_in_parts_is_one_frame_to_the_client(self) -> None:
        text = "ü" * PART_BYTES + "."

        async def answer(stream: Stream, _: Writer) -> None:
            await accept(stream)
            data = text.encode()
            for start in range(0, len(data), 999):  # odd, so that characters are cut
                await stream.send(Text(data[start : start + 999], more=start + 999 < len(data)))
            await stream.send(Text(b"", more=False))
            await stream.send(Closed(4000, "over"))
            await stream.end()

        async def scenario() -> None:
            async with connect(f"ws://{address}/", proxy=None) as client:
                assert await closed(client) == (4000, [text, ""])

        with playing(answer) as open_connection, hosted(tunnel_app(open_connection)) as address:
            play(scenario)

    def test_headers_that_are_too_large_are_refused(self) -> None:
        async def nothing(stream: Stream, _: Writer) -> None:
            assert await stream.receive() is None

        async def scenario() -> None:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            async def receive() -> Any:
                return {"type": "http.request"}

            headers = [(b"x", bytes(MAX_FRAME_BYTES))]
            await app({"type": "http", "method": "GET", "path": "/", "headers": headers}, receive, send)
            assert sent[0]["status"] == 413

        with playing(nothing) as open_connection:
            app = tunnel_app(open_connection)
            play(scenario)

    def test_an_opener_is_told_from_a_gateway_by_its_method(self) -> None:
        class Opener:
            async def open_tunnel(self) -> Streams:
                raise ConnectionRefusedError

        assert isinstance(Opener(), TunnelOpener)
        assert not isinstance(object(), TunnelOpener)


class TestTheEndOfAClient:
    def test_what_it_has_sent_arrives_before_its_end_also_if_it_has_read_nothing(self) -> None:
        heard: list[Any] = []
        has_left = threading.Event()

        async def slow(stream: Stream, writer: Writer) -> None:
            await accept(stream)
            for _number in range(10):
                await stream.send(Text(b"read by nobody", more=False))
            await asyncio.to_thread(has_left.wait, TIMEOUT_S)
            while (message := await stream.receive()) is not None:
                heard.append(message)

        async def scenario(app: ASGIApp) -> None:
            def say() -> Iterator[Any]:
                for number in range(100):
                    yield {"type": "websocket.receive", "text": f"{number} " + "x" * 1_000}
                asyncio.get_running_loop().call_later(0.1, has_left.set)
                yield {"type": "websocket.disconnect", "code": 1001}

            await Client(say(), takes=1).serve(app)

        with playing(slow) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))
        assert [int(message.data.split()[0]) for message in heard] == list(range(100))

    def test_one_that_goes_on_sending_when_the_server_is_lost_is_closed(self) -> None:
        async def lost(stream: Stream, _: Writer) -> None:
            await accept(stream)
            await stream.receive()

        async def scenario(app: ASGIApp) -> None:
            client = Client({"type": "websocket.receive", "text": "?" * 10_000} for _ in range(100_000))
            await client.serve(app)
            assert (client.got[-1]["type"], client.got[-1]["code"]) == ("websocket.close", 1012)

        with playing(lost) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    def test_one_that_reads_nothing_is_not_waited_for_when_the_server_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tunnel, "END_TIMEOUT_S", 0.05)

        async def scenario(app: ASGIApp) -> None:
            client = Client(takes=1)
            await client.serve(app)
            assert [message["type"] for message in client.got] == ["websocket.accept"]

        with playing(lambda stream, _: accept(stream)) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    def test_one_that_goes_on_sending_gets_what_the_server_sent_before_it_ended(self) -> None:
        async def end(stream: Stream, _: Writer) -> None:
            await accept(stream)
            assert await stream.receive() is not None
            for _number in range(100):
                await stream.send(Text(bytes(1_000), more=False))
            await stream.send(Closed(4000, "over"))
            await stream.end()

        async def scenario(app: ASGIApp) -> None:
            client = Client({"type": "websocket.receive", "text": "?" * 1_000} for _ in range(100_000))
            await client.serve(app)
            assert [message["type"] for message in client.got] == [
                "websocket.accept",
                *["websocket.send"] * 100,
                "websocket.close",
            ]
            assert client.got[-1]["code"] == 4000

        with playing(end) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    def test_a_client_that_is_lost_ends_its_connection(self, kind: str) -> None:
        ended = threading.Event()

        async def answer(stream: Stream, _: Writer) -> None:
            scope = await stream.receive()
            assert isinstance(scope, Scope) and scope.kind == kind
            await stream.send(Accepted(None, (), STALL_S) if scope.is_socket else Started(200, STREAM, STALL_S))
            await stream.send(Text(b"x", more=False) if scope.is_socket else Body(b"x", more=True))
            assert await stream.receive() is None
            ended.set()

        async def scenario() -> None:
            if kind == "websocket":
                async with connect(f"ws://{address}/", proxy=None) as client:
                    await client.recv()
                    client.transport.abort()
            else:
                reader, writer = await asyncio.open_connection(*address.split(":"))
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"x\r\n")
                writer.transport.abort()
            await asyncio.to_thread(ended.wait, TIMEOUT_S)
            assert ended.is_set()

        with playing(answer) as open_connection, hosted(tunnel_app(open_connection)) as address:
            play(scenario)

    def test_a_host_that_cancels_a_request_ends_its_connection(self) -> None:
        ended = threading.Event()

        async def answer(stream: Stream, _: Writer) -> None:
            await accept(stream)
            assert await stream.receive() is None
            ended.set()

        async def scenario(app: ASGIApp) -> None:
            client = Client(takes=1)
            serving = asyncio.create_task(client.serve(app))
            await client.is_full.wait()
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            await asyncio.to_thread(ended.wait, TIMEOUT_S)
            assert ended.is_set()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with playing(answer) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))


class Client:
    """The client of an ASGI server's WebSocket. Make it on a loop."""

    def __init__(self, said: Iterable[Any] = (), *, takes: int | None = None) -> None:
        """Make a client that says all that, and takes a number of messages; None for all."""
        self.got: list[Any] = []
        self.heard = 0
        """Messages of it that the app has received."""
        self.is_full = asyncio.Event()
        self._is_answered = asyncio.Event()
        self._said = iter(said)
        self._takes = takes

    async def serve(self, app: ASGIApp) -> None:
        """Serve the client by an app, as an ASGI server does."""
        scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": []}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        self.heard += 1
        if self.heard == 1:
            return {"type": "websocket.connect"}
        await self._is_answered.wait()  # before that it has no WebSocket
        for message in self._said:
            return message
        return await asyncio.get_running_loop().create_future()

    async def _send(self, message: Any) -> None:
        """Take a message. It does not yield, as an ASGI server need not."""
        if self.is_full.is_set():
            await asyncio.get_running_loop().create_future()
        self.got.append(message)
        self._is_answered.set()
        if len(self.got) == self._takes:
            self.is_full.set()


class TestBounds:
    """Of what is held for one that does not read."""

    HELD: Final = 1024 * 1024
    """More than all buffers between the two ends."""

    @staticmethod
    async def endless(stream: Stream, stall_timeout_s: float, sent: list[int]) -> None:
        """Send until the connection is lost."""
        assert isinstance(await stream.receive(), Scope)
        await stream.send(Accepted(None, (), stall_timeout_s))
        with pytest.raises(OSError):
            while True:
                await stream.send(Text(bytes(1_000), more=False))
                sent.append(1_000)

    def test_a_client_that_reads_nothing_holds_little(self) -> None:
        sent: list[int] = []

        async def scenario(app: ASGIApp) -> None:
            serving = asyncio.create_task(Client(takes=1).serve(app))
            await asyncio.wait({serving}, timeout=0.3)  # a hundred times as long as the buffers need to be full
            assert 0 < sum(sent) < self.HELD
            serving.cancel()
            await asyncio.wait({serving})

        with playing(lambda stream, _: self.endless(stream, STALL_S, sent)) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    def test_a_client_that_reads_nothing_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (tunnel, tunnel_stream):
            monkeypatch.setattr(module, "END_TIMEOUT_S", 0.05)

        async def scenario(app: ASGIApp) -> None:
            await Client(takes=1).serve(app)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with playing(lambda stream, _: self.endless(stream, 0.05, [])) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    def test_a_client_that_is_not_heard_sends_no_more_than_the_buffers_take(self) -> None:
        is_over = threading.Event()

        async def deaf(stream: Stream, _: Writer) -> None:
            await accept(stream)
            await asyncio.to_thread(is_over.wait, TIMEOUT_S)

        async def scenario(app: ASGIApp) -> None:
            frames = ({"type": "websocket.receive", "text": "x" * 10_000} for _ in range(1_000_000))
            client = Client(frames, takes=1)
            serving = asyncio.create_task(client.serve(app))
            await asyncio.wait({serving}, timeout=0.3)
            assert 1 < client.heard < self.HELD // 10_000
            serving.cancel()
            await asyncio.wait({serving})
            is_over.set()

        with playing(deaf) as open_connection:
            play(lambda: scenario(tunnel_app(open_connection)))

    def test_the_kernel_holds_little_of_what_is_not_read(self) -> None:
        async def scenario() -> None:
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            stream = FrameStream(reader, writer, bytes)
            sent = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        await stream.send(Text(bytes(10_000), more=False))
                        sent += 10_000
            assert sent < 3 * tunnel_stream.SOCKET_BYTES
            stream.close()
            theirs.close()

        play(scenario)


def test_the_host_goes_on_while_a_tunnel_has_much_to_forward() -> None:
    """An ASGI `send` need not yield."""

    async def flood(stream: Stream, _: Writer) -> None:
        await accept(stream)
        for number in range(2_000):
            await stream.send(Text(b"%d" % number, more=False))
        await stream.send(Closed(4000, ""))
        await stream.end()

    class Counting(Client):
        turns = 0

        async def count(self) -> None:
            while True:
                self.turns += 1
                await asyncio.sleep(0)

        async def _send(self, message: Any) -> None:
            self.got.append(self.turns)

    async def scenario(app: ASGIApp) -> None:
        client = Counting()
        counting = asyncio.create_task(client.count())
        await client.serve(app)
        counting.cancel()
        assert len(client.got) == len(set(client.got)) == 2_002, "another task runs between any two"

    with playing(flood) as open_connection:
        play(lambda: scenario(tunnel_app(open_connection)))


def test_logs_show_no_token(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    async def strange(stream: Stream, writer: Writer) -> None:
        await stream.receive()
        writer.write(b"\x00\x00\x00\x08\xa7S3cr3t!")
        await stream.receive()

    with (
        caplog.at_level(logging.DEBUG),
        playing(strange) as open_connection,
        hosted(tunnel_app(open_connection)) as address,
    ):
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        connection.request("GET", "/", headers={"Authorization": "Bearer S3cr3t!"})
        assert connection.getresponse().status == 503
        connection.close()
    assert "S3cr3t" not in caplog.text
