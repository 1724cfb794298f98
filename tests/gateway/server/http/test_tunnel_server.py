"""The gateway's end of a tunnel, with a host that a test plays: on a real Unix socket, and on another loop."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway import GatewayServer, Limits
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.server.http import asgi_peer, tunnel_stream
from commitcast.gateway.server.http.asgi import AsgiRequest
from commitcast.gateway.server.http.tunnel_frames import (
    MAX_FRAME_BYTES,
    Accepted,
    Body,
    Closed,
    FromServer,
    Received,
    Started,
    Text,
)
from commitcast.gateway.server.http.tunnel_server import serve_tunnel
from commitcast.gateway.server.sockets import descriptors
from commitcast.gateway.server.sockets.websocket import WRITE_LIMIT_BYTES
from commitcast.persistence.store import PAGE_BYTES
from hostile import nobody_is_left, server_of
from tunnels import Host, Tunnels, connected
from waiting import TIMEOUT_S, wait_until

TOKEN: Final = "s3cret-s3cret"
DENIALS: Final[dict[str, Any]] = {"websocket.http.response": {}}
"""An ASGI server that can refuse a WebSocket with a response."""

Scenario = Callable[[AgentRuntime, Host], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_error_is_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A host that fails, or is lost at any moment, is not a defect of the gateway."""
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    expected = ["a request of a host's app failed"] if "that_fails_alone" in request.node.name else []
    assert errors == expected


def play(tmp_path: Path, scenario: Scenario, **options: Any) -> None:
    """Run a scenario with one connection to a gateway, of which nothing is left at the end."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            async with AgentRuntime(tmp_path / "a.db", listen="asgi", **options) as runtime:
                async with connected(server_of(runtime)) as host:
                    await scenario(runtime, host)
                await asyncio.to_thread(nothing_is_left, server_of(runtime))

    asyncio.run(bounded())


def nothing_is_left(gateway: GatewayServer) -> None:
    nobody_is_left(gateway)
    wait_until(lambda: gateway.core.tunnels == 0, "all tunnels to end")


def frame_of(message: FromServer | None) -> Any:
    """Return the frame of the protocol in a whole text."""
    assert isinstance(message, Text) and not message.more
    return json.loads(message.part)


def texts_of(messages: list[FromServer]) -> list[Any]:
    """Return the frames of the protocol in all texts."""
    data = b"".join(message.part + b"" if message.more else message.part + b"\n" for message in _texts(messages))
    return [json.loads(line) for line in data.splitlines()]


def _texts(messages: list[FromServer]) -> list[Text]:
    return [message for message in messages if isinstance(message, Text)]


async def opened(host: Host, *headers: tuple[str, str]) -> Any:
    """Open a WebSocket; return the welcome."""
    await host.ask("websocket", PATH, *headers, subprotocols=[frames.SUBPROTOCOL])
    accepted = await host.receive()
    assert isinstance(accepted, Accepted) and accepted.subprotocol == frames.SUBPROTOCOL
    return frame_of(await host.receive())


async def status_of(host: Host, kind: str, path: str, *headers: tuple[str, str], **fields: Any) -> int:
    await host.ask(kind, path, *headers, **fields)
    started = await host.receive()
    assert isinstance(started, Started)
    return started.status


async def gone(runtime: AgentRuntime) -> None:
    """Wait until the gateway has forgotten the connection."""
    await asyncio.to_thread(nothing_is_left, server_of(runtime))


class TestARequest:
    def test_is_judged_by_what_the_host_forwards_of_it(self, tmp_path: Path) -> None:
        far = {"client": ("203.0.113.7", 1)}
        cases: list[tuple[int, tuple[tuple[str, str], ...], dict[str, Any]]] = [
            (200, (), {}),
            (403, (), far),
            (403, (("Origin", "https://evil.example"),), {}),
            (403, (("X-Forwarded-For", "203.0.113.7"),), {}),
            (403, (), {"http_version": "1.0"}),
            (405, (), {"method": "POST"}),
            (400, (), {"query_string": b"token=x"}),
        ]

        async def scenario(runtime: AgentRuntime, _: Host) -> None:
            for status, headers, fields in cases:
                async with connected(server_of(runtime)) as host:
                    assert await status_of(host, "http", "/v1/agents", *headers, **fields) == status
                if "method" not in fields:
                    async with connected(server_of(runtime)) as host:
                        await host.ask("websocket", PATH, *headers, extensions=DENIALS, **fields)
                        answer = await host.receive()
                        assert isinstance(answer, Accepted) if status == 200 else answer.status == status  # type: ignore[union-attr]

        play(tmp_path, scenario)

    def test_in_place_of_a_websocket_is_denied_as_the_hosts_server_can(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            await host.ask("websocket", "/nowhere", extensions=DENIALS)
            started, body = await host.rest()
            assert isinstance(started, Started) and started.status == 404
            assert isinstance(body, Body) and not body.more and b"not_found" in body.part
            async with connected(server_of(runtime)) as other:
                await other.ask("websocket", "/nowhere")
                assert await other.rest() == [Closed(1008, "")]

        play(tmp_path, scenario)

    def test_of_head_is_answered_without_a_body(self, tmp_path: Path) -> None:
        async def scenario(_: AgentRuntime, host: Host) -> None:
            await host.ask("http", "/healthz", method="HEAD")
            started, body = await host.rest()
            assert isinstance(started, Started) and (b"content-length", b"15") in started.headers
            assert body == Body(b"", more=False)

        play(tmp_path, scenario)

    def test_tells_the_host_how_long_a_client_may_read_nothing(self, tmp_path: Path) -> None:
        async def scenario(_: AgentRuntime, host: Host) -> None:
            await host.ask("http", "/healthz")
            started = await host.receive()
            assert isinstance(started, Started) and started.stall_timeout_s == 12.5

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=12.5))

    def test_for_a_websocket_is_counted_by_the_descriptor_of_its_own_connection(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int | None] = []

        def look(number: int | None) -> bool:
            asked.append(number)
            return True

        monkeypatch.setattr(descriptors, "is_for_websockets", look)

        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            await opened(host)
            (number,) = asked
            assert number is not None and number > 2

        play(tmp_path, scenario)

    def test_that_fails_alone_is_logged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(_: AsgiRequest) -> None:
            raise ValueError("a defect")

        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            with monkeypatch.context() as broken:
                broken.setattr(AsgiRequest, "run", fail)
                await host.ask("http", "/healthz")
                assert await host.rest() == []
            async with connected(server_of(runtime)) as other:
                assert await status_of(other, "http", "/healthz") == 200

        play(tmp_path, scenario)

    def test_is_served_over_a_listening_socket_too(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            gateway = server_of(runtime)
            assert gateway.core.loop is not None

            async def listen() -> asyncio.Server:
                return await asyncio.start_unix_server(partial(serve_tunnel, gateway), tmp_path / "s")

            async def ask() -> bytes:
                host = Host(*await asyncio.open_unix_connection(tmp_path / "s"))
                await host.ask("http", "/healthz")
                _, body = await host.rest()
                host.stream.close()
                assert isinstance(body, Body)
                return body.part

            listening = asyncio.run_coroutine_threadsafe(listen(), gateway.core.loop).result(TIMEOUT_S)
            assert asyncio.run(ask()) == b'{"status":"ok"}'
            nothing_is_left(gateway)
            gateway.core.loop.call_soon_threadsafe(listening.close)


class TestAHostThatFails:
    def test_and_says_nothing_is_closed(self, tmp_path: Path) -> None:
        async def scenario(_: AgentRuntime, host: Host) -> None:
            assert await host.rest() == []

        play(tmp_path, scenario, limits=Limits(handshake_timeout_s=0.05))

    @pytest.mark.parametrize(
        "data",
        [(MAX_FRAME_BYTES + 1).to_bytes(4), b"\x00\x00\x00\x01\xc1", b"GET / HTTP/1.1\r\n"],
        ids=["too large", "garbage", "another protocol"],
    )
    @pytest.mark.parametrize("when", ["at first", "in a WebSocket"])
    def test_and_sends_what_is_no_frame_is_closed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, when: str
    ) -> None:
        async def scenario(_: AgentRuntime, host: Host) -> None:
            if when == "in a WebSocket":
                await opened(host)
            host.writer.write(data)
            await host.rest()

        play(tmp_path, scenario)
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "the connection of a host's app was closed" in record.getMessage() and not record.exc_info

    def test_and_sends_a_clients_frame_first_is_closed(self, tmp_path: Path) -> None:
        async def scenario(_: AgentRuntime, host: Host) -> None:
            await host.say("{}")
            assert await host.rest() == []

        play(tmp_path, scenario)

    @pytest.mark.parametrize("rest", [b"", b"\x00\x00\x00\x09half"], ids=["between frames", "within a frame"])
    def test_and_is_lost_ends_its_session(self, tmp_path: Path, rest: bytes) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            await runtime.alaunch(id="a")
            await opened(host)
            await host.say('{"type":"subscribe","agent":"a"}')
            assert frame_of(await host.receive())["type"] == "subscribed"
            host.writer.write(rest)
            await host.writer.drain()
            host.stream.close()
            await gone(runtime)

        play(tmp_path, scenario)

    def test_and_is_lost_during_an_answer_ends_it(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            agent = await runtime.alaunch(id="a")
            await agent.aemit("x" * 4_000_000)
            await host.ask("http", "/v1/agents/a/messages")
            await host.receive()
            host.stream.close()
            await gone(runtime)

        play(tmp_path, scenario)


class TestAHostThatDoesNotRead:
    """Its process may be stopped."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asgi_peer, "CLOSE_TIMEOUT_S", 0.1)
        monkeypatch.setattr(tunnel_stream, "END_TIMEOUT_S", 0.1)

    def test_is_closed_holds_little_and_delays_nobody(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            gateway = server_of(runtime)
            agent = await runtime.alaunch(id="a")
            await asyncio.gather(*(agent.aemit("x" * 100_000) for _ in range(100)))
            await opened(host)
            async with connected(gateway) as quick:
                await opened(quick)
                await quick.say('{"type":"subscribe","agent":"a","after":"tail"}')
                await quick.receive()
                pause(host)
                await host.say('{"type":"subscribe","agent":"a"}')
                await asyncio.to_thread(
                    wait_until, lambda: unsent(gateway) > WRITE_LIMIT_BYTES, "the socket to be full"
                )
                assert unsent(gateway) < WRITE_LIMIT_BYTES + 2 * PAGE_BYTES
                await agent.aemit("in time")
                while (frame := frame_of(await quick.receive()))["type"] != "messages":
                    pass
                assert frame["items"][0]["content"] == "in time"
            await gone(runtime)
            assert gateway.core.traffic.closes[4002] == 1

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=0.5))

    def test_is_closed_in_the_middle_of_a_response(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            agent = await runtime.alaunch(id="a")
            await agent.aemit("x" * 4_000_000)
            pause(host)
            await host.ask("http", "/v1/agents/a/messages")
            await asyncio.to_thread(wait_until, lambda: server_of(runtime).core.tunnels == 1, "the request")
            await gone(runtime)

        play(tmp_path, scenario, limits=Limits(answer_timeout_s=0.3))

    def test_is_closed_if_it_does_not_end_after_the_answer(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            await host.ask("http", "/healthz")
            assert len(await host.rest()) == 2
            await gone(runtime)

        play(tmp_path, scenario)


def pause(host: Host) -> None:
    """Read nothing more."""
    transport: Any = host.writer.transport
    transport.pause_reading()


def unsent(gateway: GatewayServer) -> int:
    return max((peer.unsent_bytes for peer in list(gateway.core._sessions)), default=0)


class TestTheEnd:
    def test_requests_of_a_client_that_has_left_are_performed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            agent = await runtime.alaunch(id="a")
            await opened(host, ("Authorization", f"Bearer {TOKEN}"))
            await host.say('{"type":"ping"}')  # whose answer is not read
            await host.say('{"type":"terminate","agent":"a"}')
            await host.stream.end()
            await gone(runtime)
            assert (await asyncio.to_thread(agent.wait, TIMEOUT_S)).status == "terminated"

        play(tmp_path, scenario, token=TOKEN)

    def test_goodbye_and_close_arrive_although_the_client_went_on_sending(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            await opened(host)
            await host.stream.send(Received(bytes(frames.MAX_FRAME_BYTES + 1), is_text=False))
            for _ in range(1_000):
                await host.say('{"type":"ping"}')
            messages = await host.rest()
            assert texts_of(messages)[-1]["type"] == "goodbye"
            last = messages[-1]
            assert isinstance(last, Closed) and last.code == 1009

        play(tmp_path, scenario)

    def test_what_is_in_the_buffers_when_the_gateway_stops_arrives(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
                gateway, agent = server_of(runtime), await runtime.alaunch(id="a")
                tunnels = Tunnels(gateway)
                host = Host(*await tunnels.open_tunnel())
                await opened(host)
                await host.say('{"type":"subscribe","agent":"a","after":"tail"}')
                while frame_of(await host.receive())["type"] != "live":
                    continue
                pause(host)
                count = 0
                while not tunnels.writers[0].transport.get_write_buffer_size():
                    await agent.aemit(
                        "x" * 4_000
                    )  # until the kernel takes no more; a subscriber may have as much again
                    count += 1
                    await asyncio.to_thread(wait_until, lambda: not unsent(gateway), "the message to be written")
                stopping = asyncio.create_task(asyncio.to_thread(runtime.stop))
                await asyncio.to_thread(wait_until, lambda: not gateway.core._sessions, "the sessions to end")
                await asyncio.wait({stopping}, timeout=0.3)  # longer than the rest of a stop
                resume(host)
                messages = await host.rest()
                host.stream.close()
                await stopping
                told = texts_of(messages)
                assert sum(len(frame["items"]) for frame in told if frame["type"] == "messages") == count
                assert told[-1]["type"] == "goodbye"
                assert isinstance(messages[-1], Closed) and messages[-1].code == 4000

        asyncio.run(scenario())

    def test_a_large_message_goes_in_parts_and_arrives_whole(self, tmp_path: Path) -> None:
        content = "ü\n" * 1_000_000

        async def scenario(runtime: AgentRuntime, host: Host) -> None:
            agent = await runtime.alaunch(id="a")
            await agent.aemit(content)
            await agent.aemit("after it")
            await opened(host)
            await host.say('{"type":"subscribe","agent":"a"}')
            parts: list[FromServer] = []
            while b'"after it"' not in b"".join(each.part for each in _texts(parts[-1:])):
                message = await host.receive()
                assert message is not None
                parts.append(message)
            items = [item for frame in texts_of(parts) for item in frame.get("items", ())]
            assert [item["content"] for item in items] == [content, "after it"]
            assert len(parts) > 3_000_000 // 65_536

        play(tmp_path, scenario)


def resume(host: Host) -> None:
    """Read again."""
    transport: Any = host.writer.transport
    transport.resume_reading()
