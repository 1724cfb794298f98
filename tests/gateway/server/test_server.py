"""The server over real sockets: what every frame is answered with, who is let in, and how it says goodbye."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from commitcast.actors import AgentRuntime, RuntimeStoppedError
from commitcast.gateway import ListenError
from commitcast.gateway.server.access.limits import Limits
from commitcast.persistence import Committed
from subscribers import Follower, Raw, raw
from waiting import TIMEOUT_S

Scenario = Callable[[AgentRuntime], Awaitable[None]]


def play(tmp_path: Path, scenario: Scenario, **options: Any) -> None:
    """Run a scenario against a runtime of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * TIMEOUT_S):
            async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", **options) as runtime:
                await scenario(runtime)

    asyncio.run(bounded())


async def spoken(runtime: AgentRuntime, id: str, count: int, *, end: bool = True) -> None:
    """Launch an agent that says so much, and wait until that is stored."""
    agent = await runtime.alaunch(id=id)
    agent.start()
    for number in range(count):
        last = agent.emit(f"{id} {number}")
    await last
    if end:
        await agent.complete()


class TestSubscribing:
    def test_early_late_middle_and_tail_get_what_is_theirs(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a1")
            async with raw(runtime.url) as early, raw(runtime.url) as late:
                await early.subscribe("a1")
                agent.start()
                for number in range(50):
                    await agent.aemit(str(number))
                everything = await late.subscribe("a1")
                middle = await early.ask("ping")
                assert middle["type"] == "ok"
                async with raw(runtime.url) as third, raw(runtime.url) as tail:
                    await third.subscribe("a1", after=20)
                    await tail.subscribe("a1", after="tail")
                    await agent.aemit("last")
                    await agent.complete()
                    assert (await third.follow_to_end("a1", 31)).sequences == list(range(21, 52))
                    assert (await tail.follow_to_end("a1", 1)).contents == ["last"]
                await late.follow_to_end("a1", 51)
                assert (await early.follow_to_end("a1", 51)).contents == everything.contents

        play(tmp_path, scenario)

    def test_all_agents_come_in_the_order_of_positions(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 10)
            async with raw(runtime.url) as every:
                follower = await every.subscribe("*")
                await spoken(runtime, "b", 10)
                while len(follower.changes) < 4:
                    await every.receive()
                assert len(follower.items) == 20
                assert [event.agent for event in follower.events] == ["a", "b"]
                assert follower.cursor == runtime.store.position()[0]

        play(tmp_path, scenario)

    def test_a_hundred_subscribers_get_the_same(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a1")
            agent.start()

            async def watch() -> list[str]:
                async with raw(runtime.url) as subscriber:
                    await subscriber.subscribe("a1")
                    return (await subscriber.follow_to_end("a1", 40)).contents

            watching = [asyncio.create_task(watch()) for _ in range(100)]
            for number in range(40):
                await agent.aemit(str(number))
            await agent.complete()
            assert await asyncio.gather(*watching) == [[str(number) for number in range(40)]] * 100

        play(tmp_path, scenario)

    def test_a_message_of_sixteen_mebibytes_arrives(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a1")
            async with raw(runtime.url) as subscriber:
                await subscriber.subscribe("a1")
                await agent.aemit("x" * 16 * 1024 * 1024)
                follower = await subscriber.follow("a1", 1)
                assert len(follower.contents[0]) == 16 * 1024 * 1024

        play(tmp_path, scenario)

    @pytest.mark.parametrize("agent", ["a1", "*"])
    def test_a_commit_that_the_gateway_never_heard_of_is_read_from_the_store(self, tmp_path: Path, agent: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            ref: Any = runtime._running._gateway
            actor = ref._actor_weakref()
            publish = actor._publish
            handle = await runtime.alaunch(id="a1")
            async with raw(runtime.url) as subscriber:
                await subscriber.subscribe(agent)
                await handle.aemit("heard")
                await subscriber.follow(agent, 1)

                def lose(committed: Committed) -> None:
                    actor._publish = publish

                actor._publish = lose
                await handle.aemit("lost on its way")
                await handle.aemit("heard again")
                assert (await subscriber.follow(agent, 3)).contents == ["heard", "lost on its way", "heard again"]

        play(tmp_path, scenario, heartbeat_s=0.05)

    def test_heartbeats_carry_the_heads_of_the_store(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a1", 7, end=False)
            async with raw(runtime.url) as subscriber:
                await subscriber.subscribe("a1")
                await subscriber.follow("a1", 7)
                while not subscriber.heartbeats or not subscriber.heartbeats[-1]["heads"]:
                    await subscriber.still_works()
                assert subscriber.heartbeats[-1]["heads"] == {"a1": 7}

        play(tmp_path, scenario, heartbeat_s=0.1)

    def test_after_unsubscribe_nothing_more_comes(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a1")
            async with raw(runtime.url) as subscriber:
                follower = await subscriber.subscribe("a1")
                await subscriber.until("live")
                assert (await subscriber.ask("unsubscribe", agent="a1"))["type"] == "ok"
                await agent.aemit("unheard")
                await subscriber.still_works()
                assert follower.items == []
                assert (await subscriber.ask("unsubscribe", agent="a1"))["code"] == "not_found"

        play(tmp_path, scenario)


class TestBadInput:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            ("not json", "bad_request"),
            ("[1, 2]", "bad_request"),
            (b"\x00binary", "bad_request"),
            ('{"type": "dance"}', "bad_request"),
            ('{"type": "subscribe"}', "bad_request"),
            ('{"type": "subscribe", "agent": "a1", "after": -1}', "bad_request"),
            ('{"type": "subscribe", "agent": "a1", "after": 99}', "ahead"),
            ('{"type": "subscribe", "agent": "a1", "epoch": "old"}', "stale_epoch"),
            ('{"type": "subscribe", "agent": "nobody"}', "not_found"),
            ('{"type": "launch", "template": "x"}', "forbidden"),
            ('{"type": "send", "agent": "a1", "content": "x"}', "forbidden"),
            ('{"type": "terminate", "agent": "a1"}', "forbidden"),
            (json.dumps({"type": "ping", "padding": "x" * 70_000}), "too_large"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_it_is_answered_with_an_error_and_the_connection_goes_on(
        self, tmp_path: Path, data: str | bytes, code: str
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a1", 3)
            async with raw(runtime.url) as subscriber, raw(runtime.url) as other:
                await other.subscribe("a1")
                await subscriber.connection.send(data)
                error = await subscriber.receive()
                assert (error["type"], error["code"]) == ("error", code)
                assert error["message"] and "\n" not in error["message"]
                await subscriber.still_works()
                assert (await other.follow_to_end("a1", 3)).sequences == [1, 2, 3]

        play(tmp_path, scenario)

    def test_a_frame_over_two_mebibytes_closes_its_connection_only(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url) as subscriber, raw(runtime.url) as other:
                await subscriber.connection.send("x" * (2 * 1024 * 1024 + 1))
                assert (await subscriber.closed())[0] == 1009
                await other.still_works()

        play(tmp_path, scenario)

    def test_too_many_subscriptions_are_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await asyncio.to_thread(runtime.launch_many, 3, ids=["a", "b", "c"])
            async with raw(runtime.url) as subscriber:
                await subscriber.subscribe("a")
                await subscriber.subscribe("b")
                assert (await subscriber.ask("subscribe", agent="c"))["code"] == "limit"

        play(tmp_path, scenario, limits=Limits(subscriptions=2))


class TestAccess:
    @pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}])
    def test_a_page_of_another_site_is_refused(self, tmp_path: Path, headers: dict[str, str]) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            with pytest.raises(InvalidStatus, match="403"):
                async with raw(runtime.url, headers=headers):
                    pass
            async with raw(runtime.url, headers={"Origin": f"http://{runtime.address}"}) as own:
                await own.still_works()

        play(tmp_path, scenario)

    def test_a_name_that_was_bound_to_our_address_is_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            address = str(runtime.address)
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
                request = f"GET /v1/ws HTTP/1.1\r\nHost: evil.example:{address.rpartition(':')[2]}\r\n"
                upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                connection.sendall((request + upgrade + key).encode())
                answer = await asyncio.to_thread(connection.recv, 4_096)
            assert answer.startswith(b"HTTP/1.1 403 ")

        play(tmp_path, scenario)

    def test_a_token_comes_by_header_or_hello_and_a_wrong_one_is_final(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a1")
            async with raw(runtime.url, token="s3cret") as subscriber:
                await subscriber.subscribe("a1")
            async with raw(runtime.url) as subscriber:
                assert (await subscriber.ask("subscribe", agent="a1"))["code"] == "unauthenticated"
                assert (await subscriber.ask("hello", token="s3cret"))["type"] == "ok"
                await subscriber.subscribe("a1")
            async with raw(runtime.url) as subscriber:
                assert (await subscriber.ask("hello", token="wrong"))["code"] == "unauthenticated"
                assert (await subscriber.closed())[0] == 4501

        play(tmp_path, scenario, token="s3cret")

    def test_who_needs_a_token_and_says_nothing_is_closed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url) as subscriber:
                assert (await subscriber.closed())[0] == 4507

        play(tmp_path, scenario, token="s3cret", limits=Limits(hello_timeout_s=0.05))

    def test_beyond_loopback_a_token_is_needed(self, tmp_path: Path) -> None:
        with pytest.raises(ListenError, match="a token is needed"):
            AgentRuntime(tmp_path / "a.db", listen="0.0.0.0:0")

    def test_garbage_on_the_port_harms_nobody(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url) as subscriber:
                with socket.create_connection(("127.0.0.1", int(str(runtime.address).rpartition(":")[2]))) as other:
                    other.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                    await asyncio.to_thread(other.recv, 4_096)
                await subscriber.still_works()

        play(tmp_path, scenario)


class TestSlowAndGone:
    @pytest.mark.sampled(1 / 2)
    def test_who_never_reads_delays_nobody_and_costs_bounded_memory(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a1")
            agent.start()
            assert runtime.gateway is not None
            sleeper = socket.socket()
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sleeper.connect(("127.0.0.1", int(str(runtime.address).rpartition(":")[2])))
            async with connect(str(runtime.url), sock=sleeper, compression=None, max_queue=1) as asleep:
                await asleep.send(json.dumps({"type": "subscribe", "agent": "a1"}))
                await asyncio.sleep(0)
                asleep.transport.pause_reading()
                async with raw(runtime.url) as awake:
                    await awake.subscribe("a1")
                    for _ in range(200):
                        await agent.aemit("x" * 50_000)
                    await agent.complete()
                    assert (await awake.follow_to_end("a1", 200)).sequences == list(range(1, 201))
                assert max(peer.unsent_bytes for peer in runtime.gateway.core._sessions) < 1024 * 1024
                asleep.transport.abort()

        play(tmp_path, scenario)

    def test_goodbye_comes_before_the_close_to_everybody(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with asyncio.timeout(TIMEOUT_S):
                runtime = AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0")
                await asyncio.to_thread(runtime.start)
                async with raw(runtime.url) as one, raw(runtime.url) as two:
                    stopping = asyncio.create_task(asyncio.to_thread(runtime.stop))
                    for subscriber in (one, two):
                        goodbye = await subscriber.until("goodbye")
                        assert goodbye["code"] == 4000 and goodbye["reconnect_ms"] > 0
                        assert (await subscriber.closed())[0] == 4000
                    await stopping

        asyncio.run(scenario())


def test_a_taken_address_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ListenError, match=f"127.0.0.1:{port}"):
            AgentRuntime(tmp_path / "a.db", listen=f"127.0.0.1:{port}").start()


@pytest.mark.parametrize("subscriber", [Raw])
def test_the_judge_of_these_tests_notices_a_gap(subscriber: type[Raw]) -> None:
    """Keeps the helper honest: a frame that does not join must fail the test that receives it."""

    class Once:
        async def recv(self) -> str:
            frame = {"type": "messages", "agent": "a1", "prev": 3, "last": 4, "items": []}
            return json.dumps(frame)

    async def scenario() -> None:
        judged = subscriber(Once())  # type: ignore[arg-type]
        judged.followers["a1"] = Follower("a1", 2)
        with pytest.raises(AssertionError):
            await judged.receive()

    asyncio.run(scenario())


def test_who_is_second_to_listen_on_an_address_that_both_have_bound_is_told_and_stopped(tmp_path: Path) -> None:
    first = AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0")
    first.start(accept=False)
    try:
        second = AgentRuntime(tmp_path / "b.db", listen=str(first.address))
        second.start(accept=False)
        first.accept()

        with pytest.raises(ListenError, match=str(first.address)):
            second.accept()

        with pytest.raises(RuntimeStoppedError):
            second.launch()
    finally:
        first.stop()
