"""The gateway as an ASGI app, mounted in a FastAPI app that a real uvicorn serves on a real port.

In both forms: with the gateway in this process, and behind a Unix socket for each request.
"""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from commitcast.actors import AgentHandle, AgentRuntime, RuntimeStoppedError
from commitcast.gateway import Limits, ListenError, subscribe
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.gateway import Gateway
from commitcast.gateway.server.http import asgi
from commitcast.gateway.server.http.asgi_peer import AsgiPeer, NotServingError, call
from commitcast.gateway.server.server import GatewayServer
from commitcast.gateway.server.sockets.websocket import WRITE_LIMIT_BYTES
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.store import PAGE_BYTES
from hosting import hosted
from subscribers import raw
from tunnels import FORMS, served
from waiting import TIMEOUT_S, wait_until

PREFIX = "/agents"
LARGE = 16 * 1024 * 1024

Headers = dict[str, str]

_form = FORMS[0]


@pytest.fixture(params=FORMS)
def both_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with apps of either form."""
    monkeypatch.setitem(globals(), "_form", request.param)


def app_of(runtime: AgentRuntime) -> ASGIApp:
    """Return the app of a runtime's gateway."""
    return asgi.app(served(runtime.gateway, _form))


def beside(runtime: AgentRuntime, prefix: str = PREFIX) -> FastAPI:
    """A host's app: a route of its own, which counts its tasks, and the gateway under a prefix."""
    host = FastAPI()

    @host.get("/own")
    async def own() -> dict[str, int]:
        return {"tasks": len(asyncio.all_tasks())}

    host.mount(prefix, app_of(runtime))
    return host


@contextmanager
def mounted(tmp_path: Path, *, listen: str = "asgi", **options: Any) -> Iterator[tuple[AgentRuntime, str]]:
    """A runtime and, on a loop of its own, a host with its gateway; yields both, the host as its address."""
    with AgentRuntime(tmp_path / "a.db", listen=listen, **options) as runtime, hosted(beside(runtime)) as address:
        yield runtime, address


def ws(address: str, prefix: str = PREFIX) -> str:
    return f"ws://{address}{prefix}/v1/ws"


def get(
    address: str,
    path: str,
    headers: Headers | None = None,
    *,
    method: str = "GET",
    timeout_s: float | None = TIMEOUT_S,
) -> tuple[int, Headers, bytes]:
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a loop of its own, which is neither the host's nor the gateway's."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await scenario()

    asyncio.run(bounded())


def spoken(runtime: AgentRuntime, id: str, *contents: str, end: bool = False) -> AgentHandle:
    """Launch an agent that has said so much."""
    agent = runtime.launch(id=id)
    agent.start()
    for content in contents:
        agent.emit(content)
    if end:
        agent.complete().get(TIMEOUT_S)
    else:
        agent.emit("").get(TIMEOUT_S)
    return agent


def connections(runtime: AgentRuntime) -> int:
    assert isinstance(runtime.gateway, GatewayServer)
    return runtime.gateway.core.connections


def nobody_is_left(runtime: AgentRuntime) -> None:
    """Wait until the gateway has forgotten everybody, also in its count for each address."""
    assert runtime.gateway is not None
    gateway = runtime.gateway
    wait_until(lambda: not gateway.core.connections and not gateway.core._from, "everybody to be forgotten")


async def refused(url: str, status: int, **options: Any) -> None:
    """Assert that a handshake is refused with a status."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, proxy=None, **options):
            pass
    assert caught.value.response.status_code == status


@pytest.mark.usefixtures("both_forms")
class TestBesideTheHostsOwnRoutes:
    def test_reads_are_answered_under_the_prefix_and_the_hosts_own_beside_it(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "a1", "hello", end=True)

            assert get(address, "/own")[0] == 200
            assert get(address, f"{PREFIX}/healthz")[2] == b'{"status":"ok"}'
            assert json.loads(get(address, f"{PREFIX}/readyz")[2]) == {"status": "ready"}
            assert json.loads(get(address, f"{PREFIX}/v1/agents")[2])["agents"][0]["id"] == "a1"
            assert json.loads(get(address, f"{PREFIX}/v1/agents/a1/messages?after=0")[2])["items"][0]["content"] == (
                "hello"
            )
            assert "asyncapi" in json.loads(get(address, f"{PREFIX}/asyncapi.json")[2])
            assert b"commitcast_connections 0.0" in get(address, f"{PREFIX}/metrics")[2]

    def test_the_page_finds_its_files_from_where_it_is_mounted(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):
            status, headers, page = get(address, f"{PREFIX}/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b'src="web/app.js"' in page
            assert get(address, f"{PREFIX}/web/app.js")[0] == 200

    def test_the_prefix_without_its_slash_leads_to_the_page(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            mounted_by_hand = app_of(runtime)

            async def host(scope: Scope, receive: Receive, send: Send) -> None:
                await mounted_by_hand({**scope, "root_path": "/deep/für"}, receive, send)

            with hosted(beside(runtime)) as fastapi, hosted(host) as other:
                assert get(fastapi, PREFIX)[1]["location"].endswith(f"{PREFIX}/")
                status, headers, _ = get(other, "/deep/f%C3%BCr")
                assert (status, headers["location"]) == (307, "f%C3%BCr/")
                assert get(other, "/deep/f%C3%BCr/")[1]["content-type"].startswith("text/html")

    def test_it_can_be_served_alone(self, tmp_path: Path) -> None:
        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime,
            hosted(app_of(runtime), lifespan="on") as address,
        ):
            assert get(address, "/readyz")[0] == 200

    def test_head_is_answered_without_a_body_and_other_methods_are_not(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):
            status, headers, body = get(address, f"{PREFIX}/healthz", method="HEAD")
            assert (status, headers["content-length"], body) == (200, "15", b"")
            for path in ("/healthz", "/v1/agents/a1/events"):
                status, headers, body = get(address, PREFIX + path, method="POST")
                assert (status, headers["allow"]) == (405, "GET, HEAD")
                assert json.loads(body)["error"]["code"] == "bad_request"

    def test_what_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):
            assert get(address, f"{PREFIX}/nothing")[0] == 404
            assert get(address, f"{PREFIX}/v1/agents/a1")[0] == 404
            assert get(address, f"{PREFIX}/v1/ws")[0] == 426

            async def scenario() -> None:
                await refused(f"ws://{address}{PREFIX}/v1/agents", 404)

            play(scenario)

    def test_a_runtime_in_the_hosts_lifespan_serves_as_long_as_the_host(self, tmp_path: Path) -> None:
        runtime = AgentRuntime(tmp_path / "a.db", listen="asgi")

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with runtime:
                await runtime.alaunch(id="a1")
                yield

        host = FastAPI(lifespan=lifespan)
        host.mount(PREFIX, app_of(runtime))
        serving = hosted(host)

        async def scenario() -> None:
            address = await asyncio.to_thread(serving.__enter__)
            async with raw(ws(address)) as subscriber:
                await subscriber.subscribe("a1")
                await asyncio.to_thread(serving.__exit__, None, None, None)
                assert (await subscriber.closed())[0] == 1012

        play(scenario)

        with pytest.raises(RuntimeStoppedError):
            runtime.launch()

    def test_a_runtime_without_a_gateway_has_no_app(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match="asgi"):
            asgi.app(AgentRuntime(tmp_path / "a.db").gateway)

    def test_without_the_extra_it_says_what_to_install(self) -> None:
        code = "import sys; sys.modules['starlette'] = None; import commitcast.gateway.asgi"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert 'pip install "commitcast[http]"' in ended.stderr


@pytest.mark.usefixtures("both_forms")
class TestWebSockets:
    def test_history_and_live_come_as_on_the_gateways_own_port(self, tmp_path: Path) -> None:
        contents = ["first", "zweite: üö\u2028", "line\nand\r\nline", "\U0001f600"]
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "a1", *contents)

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    await subscriber.subscribe("a1")
                    await subscriber.follow("a1", 5)
                    await agent.aemit("live")
                    await agent.complete()
                    assert (await subscriber.follow_to_end("a1", 6)).contents == [*contents, "", "live"]
                heard = [message.content async for message in subscribe(ws(address), "a1")]
                assert heard == [*contents, "", "live"]

            play(scenario)
            nobody_is_left(runtime)

    def test_a_message_of_sixteen_mebibytes_arrives(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "a1", "x" * LARGE)

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    await subscriber.subscribe("a1")
                    assert [len(content) for content in (await subscriber.follow("a1", 2)).contents] == [LARGE, 0]

            play(scenario)

    @pytest.mark.sampled(1 / 2)
    def test_a_hundred_subscribers_get_the_same_and_nothing_is_left_of_them(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "a1")
            assert runtime.gateway is not None
            gateway_loop = runtime.gateway.core.loop
            before = get(address, "/own")[2], len(asyncio.all_tasks(gateway_loop))

            async def scenario() -> None:
                async def watch() -> list[str]:
                    async with raw(ws(address)) as subscriber:
                        await subscriber.subscribe("a1")
                        return (await subscriber.follow_to_end("a1", 41)).contents

                watching = [asyncio.create_task(watch()) for _ in range(100)]
                for number in range(40):
                    await agent.aemit(str(number))
                await agent.complete()
                assert await asyncio.gather(*watching) == [["", *map(str, range(40))]] * 100

            play(scenario)
            nobody_is_left(runtime)
            wait_until(
                lambda: (get(address, "/own")[2], len(asyncio.all_tasks(gateway_loop))) == before,
                "all tasks to end",
                show=lambda: asyncio.all_tasks(gateway_loop),
            )

    def test_one_app_serves_several_loops(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            app = beside(runtime)
            agent = spoken(runtime, "a1")
            with hosted(app) as first, hosted(app) as second:

                async def scenario() -> None:
                    async with raw(ws(first)) as one, raw(ws(second)) as two, raw(runtime.url) as three:
                        for subscriber in (one, two, three):
                            await subscriber.subscribe("a1")
                        await agent.aemit("to all")
                        for subscriber in (one, two, three):
                            assert (await subscriber.follow("a1", 2)).contents == ["", "to all"]

                play(scenario)

    @pytest.mark.sampled(1 / 2)
    def test_a_frame_that_is_none_is_refused_and_the_connection_goes_on(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    for frame in (b"{}", "{", '{"type":"dance"}'):
                        await subscriber.connection.send(frame)
                        assert (await subscriber.until("error"))["code"] == "bad_request"
                    await subscriber.still_works()

            play(scenario)

    @pytest.mark.parametrize("text", ["x", "ü"])
    def test_a_frame_that_is_too_large_closes_the_connection_after_goodbye(self, tmp_path: Path, text: str) -> None:
        with mounted(tmp_path, token="s3cret-s3cret") as (runtime, address):
            agent = spoken(runtime, "a1")

            async def scenario() -> None:
                async with raw(ws(address), token="s3cret-s3cret") as subscriber:
                    await subscriber.connection.send(text * (frames.MAX_FRAME_BYTES // len(text.encode()) + 1))
                    await subscriber.send("terminate", agent="a1")  # what follows it is not heard
                    assert (await subscriber.until("goodbye"))["code"] == 1009
                    assert (await subscriber.closed())[0] == 1009

            play(scenario)
            nobody_is_left(runtime)
            assert agent.record().status == "running"

    def test_more_frames_than_may_wait_are_all_answered_in_order(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    for number in range(200):
                        await subscriber.send("ping", id=number)
                    assert [(await subscriber.until("ok"))["id"] for _ in range(200)] == list(range(200))

            play(scenario)


@pytest.mark.usefixtures("both_forms")
class TestWhoMayComeIn:
    def test_a_token_comes_in_the_header_in_the_subprotocol_or_in_hello(self, tmp_path: Path) -> None:
        with mounted(tmp_path, token="s3cret-s3cret") as (runtime, address):
            spoken(runtime, "a1", end=True)
            header = {"Authorization": "Bearer s3cret-s3cret"}

            async def scenario() -> None:
                async with raw(ws(address), token="s3cret-s3cret") as subscriber:
                    await subscriber.subscribe("a1")
                offered: Any = [frames.SUBPROTOCOL, "commitcast.bearer.s3cret-s3cret"]
                async with raw(ws(address), subprotocols=offered) as subscriber:
                    await subscriber.subscribe("a1")
                    response = subscriber.connection.response
                    assert subscriber.connection.subprotocol == frames.SUBPROTOCOL
                    assert response is not None and "s3cret" not in str(response.headers)
                async with raw(ws(address)) as subscriber:
                    assert subscriber.welcome["needs_hello"]
                    assert (await subscriber.ask("hello", token="s3cret-s3cret"))["type"] == "ok"
                    await subscriber.subscribe("a1")
                async with raw(ws(address), token="wrong") as subscriber:
                    assert (await subscriber.closed())[0] == 4501

            play(scenario)
            assert get(address, f"{PREFIX}/v1/agents")[0] == 401
            assert get(address, f"{PREFIX}/v1/agents", header)[0] == 200

    @pytest.mark.parametrize(
        ("headers", "query", "status"),
        [
            ({"Host": "evil.example"}, "", 403),
            ({"Origin": "https://evil.example"}, "", 403),
            ({}, "?token=s3cret", 400),
            ({"Host": "known.example", "Origin": "https://page.example"}, "", 200),
        ],
    )
    def test_host_origin_and_url_are_checked(self, tmp_path: Path, headers: Headers, query: str, status: int) -> None:
        with mounted(tmp_path, allowed_hosts=["known.example"], allowed_origins=["https://page.example"]) as (
            _,
            address,
        ):
            for path in ("/healthz", "/v1/agents", "/v1/events"):
                method = "HEAD" if path == "/v1/events" else "GET"
                assert get(address, PREFIX + path + query, headers, method=method)[0] == status

            async def scenario() -> None:
                if status != 200:
                    sent = dict(headers)
                    host = sent.pop("Host", None)
                    if host is None:
                        await refused(ws(address) + query, status, additional_headers=sent)

            play(scenario)

    def test_a_header_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (_, address):
            connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
            connection.putrequest("GET", f"{PREFIX}/healthz")
            for token in ("one", "two"):
                connection.putheader("Authorization", f"Bearer {token}")
            connection.endheaders()
            assert connection.getresponse().status == 400
            connection.close()

    def test_without_tokens_only_this_machine_may_come(self, tmp_path: Path) -> None:
        far = {"X-Forwarded-For": "203.0.113.7"}  # uvicorn takes it for the client's address
        with mounted(tmp_path) as (_, address):
            assert get(address, f"{PREFIX}/v1/agents", far)[0] == 403
            assert get(address, f"{PREFIX}/v1/events", far)[0] == 403

            async def scenario() -> None:
                await refused(ws(address), 403, additional_headers=far)

            play(scenario)

    def test_with_a_token_everybody_may(self, tmp_path: Path) -> None:
        far = {"X-Forwarded-For": "203.0.113.7", "Authorization": "Bearer s3cret-s3cret"}
        with mounted(tmp_path, token="s3cret-s3cret") as (_, address):
            assert get(address, f"{PREFIX}/v1/agents", far)[0] == 200

    def test_who_has_no_address_comes_from_this_machine(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi", limits=Limits(connections_per_peer=1)) as runtime:
            app = app_of(runtime)

            async def host(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "client": None}, receive, send)

            with hosted(host) as address:
                assert get(address, "/v1/agents")[0] == 200

    def test_connections_of_one_address_are_counted_together_with_those_of_the_port(self, tmp_path: Path) -> None:
        limits = Limits(connections_per_peer=2)
        with mounted(tmp_path, listen="127.0.0.1:0", limits=limits) as (runtime, address):

            async def scenario() -> None:
                async with raw(runtime.url), raw(ws(address)) as second:
                    async with connect(ws(address), proxy=None) as third:
                        assert json.loads(await third.recv())["code"] == 4504
                        with pytest.raises(ConnectionClosed) as caught:
                            await third.recv()
                        assert caught.value.rcvd is not None and caught.value.rcvd.code == 4504
                    status, _, body = await asyncio.to_thread(get, address, f"{PREFIX}/v1/events")
                    assert (status, json.loads(body)["error"]["code"]) == (429, "limit")
                    await second.still_works()

            play(scenario)
            nobody_is_left(runtime)

    def test_a_full_or_draining_gateway_refuses_with_503(self, tmp_path: Path) -> None:
        with mounted(tmp_path, limits=Limits(connections=1)) as (runtime, address):

            async def scenario() -> None:
                async with raw(ws(address)):
                    await refused(ws(address), 503)
                    assert (await asyncio.to_thread(get, address, f"{PREFIX}/v1/events"))[0] == 503
                assert runtime.gateway is not None
                runtime.gateway.drain()
                await refused(ws(address), 503)

            play(scenario)

    def test_a_server_that_cannot_answer_a_handshake_refuses_with_its_own_403(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi", limits=Limits(connections=1)) as runtime:
            app = app_of(runtime)

            async def host(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "extensions": {}}, receive, send)

            with hosted(host) as address:

                async def scenario() -> None:
                    async with raw(ws(address, "")):
                        await refused(ws(address, ""), 403)

                play(scenario)


@pytest.mark.usefixtures("both_forms")
class TestBeginningAndEnd:
    def test_before_the_start_and_after_the_stop_everything_is_unavailable(self, tmp_path: Path) -> None:
        runtime = AgentRuntime(tmp_path / "a.db", listen="asgi")

        async def scenario() -> None:
            await refused(ws(address), 503)

        def everything_is_unavailable() -> None:
            for path in ("/healthz", "/v1/agents", "/v1/events"):
                assert get(address, PREFIX + path)[0] == 503
            play(scenario)

        with hosted(beside(runtime)) as address:
            everything_is_unavailable()
            runtime.start(accept=False)
            everything_is_unavailable()
            runtime.accept()
            assert get(address, f"{PREFIX}/healthz")[0] == 200
            runtime.stop()
            everything_is_unavailable()

    def test_a_gateway_that_could_not_start_is_unavailable(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            runtime = AgentRuntime(tmp_path / "a.db", listen=f"127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(ListenError):
                runtime.start()
            with hosted(beside(runtime)) as address:
                assert get(address, f"{PREFIX}/healthz")[0] == 503

    def test_what_is_under_way_when_the_gateway_ends_is_unavailable(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            gateway = runtime.gateway
            assert gateway is not None
            has_begun = threading.Event()

            async def for_ever() -> None:
                has_begun.set()
                await asyncio.get_running_loop().create_future()

            async def scenario() -> None:
                calling = asyncio.create_task(call(gateway.core, for_ever))
                await asyncio.to_thread(has_begun.wait)
                await asyncio.to_thread(runtime.stop)
                with pytest.raises(NotServingError):
                    await calling

            play(scenario)

    def test_a_runtime_that_stops_says_goodbye_before_it_closes(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "a1")

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    await subscriber.subscribe("a1")
                    stopping = asyncio.create_task(asyncio.to_thread(runtime.stop))
                    goodbye = await subscriber.until("goodbye")
                    assert goodbye["code"] == 4000 and goodbye["reconnect_ms"] >= 200
                    assert (await subscriber.closed())[0] == 4000
                    await stopping

            play(scenario)
            assert connections(runtime) == 0

    def test_a_host_that_shuts_down_first_leaves_nothing_in_the_gateway(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            agent = spoken(runtime, "a1")
            serving = hosted(beside(runtime))
            address = serving.__enter__()

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    await subscriber.subscribe("a1")
                    await asyncio.to_thread(serving.__exit__, None, None, None)
                    assert (await subscriber.closed())[0] == 1012

            play(scenario)
            nobody_is_left(runtime)
            agent.emit("it goes on").get(TIMEOUT_S)

    def test_a_host_that_cancels_in_the_middle_of_a_send_leaves_nothing(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            spoken(runtime, "a1", *["x" * 1_000_000] * 20)

            async def scenario() -> None:
                is_sending = asyncio.Event()
                serving = asyncio.create_task(_that_takes_nothing(app_of(runtime), is_sending))
                await is_sending.wait()
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
                assert asyncio.all_tasks() == {asyncio.current_task()}

            asyncio.run(scenario())
            nobody_is_left(runtime)

    @pytest.mark.parametrize(("has_woken", "heartbeat_s"), [(False, 60.0), (True, 0.02)], ids=["by a write", "in time"])
    def test_a_loop_that_is_closed_with_its_connections_is_noticed(
        self, tmp_path: Path, has_woken: bool, heartbeat_s: float
    ) -> None:
        async def connected(core: Gateway) -> AsgiPeer:
            return AsgiPeer(core, address="127.0.0.1", token=None)

        with AgentRuntime(tmp_path / "a.db", listen="asgi", heartbeat_s=heartbeat_s) as runtime:
            gateway = runtime.gateway
            assert gateway is not None and gateway.core.loop is not None
            peer = asyncio.run(connected(gateway.core))
            peer._is_awake = has_woken  # and it has not come to look

            asyncio.run_coroutine_threadsafe(gateway.core.serve(peer), gateway.core.loop).result(TIMEOUT_S)

            nobody_is_left(runtime)


@pytest.mark.usefixtures("both_forms")
class TestSlowHostsAndClients:
    def test_a_host_that_is_busy_costs_bounded_memory_and_delays_nobody(self, tmp_path: Path) -> None:
        is_busy, go_on = threading.Event(), threading.Event()
        bound = WRITE_LIMIT_BYTES + 2 * PAGE_BYTES
        with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            host = beside(runtime)

            @host.get("/busy")
            async def busy() -> None:
                is_busy.set()
                go_on.wait()  # on the host's loop, as a host should not

            agent = spoken(runtime, "a1")
            with hosted(host) as address:

                async def scenario() -> None:
                    async with raw(ws(address)) as slow, raw(runtime.url) as quick:
                        await slow.subscribe("a1")
                        await quick.subscribe("a1")
                        blocking = asyncio.create_task(asyncio.to_thread(get, address, "/busy", timeout_s=None))
                        try:
                            await asyncio.to_thread(is_busy.wait)
                            for _ in range(4):  # in commits of a bound's worth: smaller ones would measure the disk
                                await asyncio.gather(*(agent.aemit("x" * (bound // 30)) for _ in range(30)))
                            await quick.follow("a1", 121)
                            wait_until(
                                lambda: _unsent(runtime) > WRITE_LIMIT_BYTES, "the slow one to be given its share"
                            )
                            assert _unsent(runtime) < bound
                        finally:
                            go_on.set()
                        await blocking
                        assert (await slow.follow("a1", 121)).sequences == list(range(1, 122))

                play(scenario)
                nobody_is_left(runtime)

    def test_a_client_that_stops_reading_is_closed_and_delays_nobody(self, tmp_path: Path) -> None:
        with mounted(tmp_path, limits=Limits(stall_timeout_s=0.5)) as (runtime, address):
            agent = spoken(runtime, "a1", *["x" * 100_000] * 200)
            client = _who_reads_nothing(address, "a1")
            wait_until(lambda: _unsent(runtime) > WRITE_LIMIT_BYTES, "the socket to be full")

            async def scenario() -> None:
                async with raw(ws(address)) as quick:
                    await quick.subscribe("a1", after="tail")
                    await agent.aemit("in time")
                    await quick.follow("a1", 1)
                    assert _unsent(runtime) < WRITE_LIMIT_BYTES + 2 * PAGE_BYTES

            play(scenario)
            nobody_is_left(runtime)
            assert runtime.gateway is not None
            assert runtime.gateway.core.traffic.closes[4002] == 1
            client.close()

    def test_a_client_that_is_gone_is_forgotten(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "a1")

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    await subscriber.subscribe("a1")
                    subscriber.connection.transport.abort()

            play(scenario)
            nobody_is_left(runtime)

    def test_a_client_that_says_nothing_is_not_taken_for_gone(self, tmp_path: Path) -> None:
        with mounted(tmp_path, heartbeat_s=0.02) as (_, address):

            async def scenario() -> None:
                async with raw(ws(address)) as subscriber:
                    heartbeats = 0
                    while heartbeats < 10:
                        heartbeats += json.loads(await subscriber.connection.recv())["type"] == "heartbeat"
                    await subscriber.still_works()

            play(scenario)


def _who_reads_nothing(address: str, agent: str) -> socket.socket:
    """A WebSocket that has subscribed, and from then on leaves its socket alone."""
    host, _, port = address.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    client.sendall(
        f"GET {PREFIX}/v1/ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    frame = json.dumps({"type": "subscribe", "agent": agent}).encode()
    client.sendall(bytes((0x81, 0x80 | len(frame), 0, 0, 0, 0)) + frame)
    return client


def _unsent(runtime: AgentRuntime) -> int:
    assert runtime.gateway is not None
    return max((peer.unsent_bytes for peer in list(runtime.gateway.core._sessions)), default=0)


async def _that_takes_nothing(app: ASGIApp, is_sending: asyncio.Event) -> None:
    """Call an app as an ASGI server does whose client subscribes and then takes nothing."""
    subscribe = json.dumps({"type": "subscribe", "agent": "a1"})
    said: list[dict[str, Any]] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": subscribe}]

    async def receive() -> dict[str, Any]:
        return said.pop(0) if said else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if len(message.get("text", "")) > WRITE_LIMIT_BYTES:
            is_sending.set()
            await asyncio.get_running_loop().create_future()

    headers = [(b"host", b"localhost")]
    await app({"type": "websocket", "path": "/v1/ws", "headers": headers, "subprotocols": []}, receive, send)
