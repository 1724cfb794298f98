"""Bounds on what one client, one peer and everybody together may ask for; and every byte that no client would send."""

import asyncio
import json
import math
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway.server.access.limits import MAX_LIMIT, OVERDRAFT, Bucket, Limits
from commitcast.gateway.server.sockets import websocket
from commitcast.gateway.tls import server_context
from commitcast.persistence.errors import CommitcastError, InvalidValueError
from commitcast.persistence.records import AgentRecord, MessageRecord
from examples import examples
from hostile import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    UPGRADE,
    Wire,
    get,
    masked,
    nobody_is_left,
    opened,
    play,
    request,
    server_of,
    wire,
)
from subscribers import raw
from waiting import TIMEOUT_S, wait_until


class TestRate:
    @pytest.fixture(autouse=True)
    def nobody_waits_for_who_sends_more_than_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.2)

    def test_the_bucket_counts_what_it_says(self) -> None:
        bucket = Bucket(rate=10, burst=20, now=100.0)

        assert all(bucket.take(100.0, 5) for _ in range(4))
        assert not bucket.take(100.0, 1)
        assert not bucket.take(100.0, 1)
        assert not bucket.take(100.1, 1), "what was refused is drawn as well"
        assert bucket.take(100.5, 2)
        assert bucket.take(1_000.0, 20) and not bucket.take(1_000.0, 1), "a rest fills no more than the burst"

    def test_only_who_goes_on_regardless_is_overdrawn(self) -> None:
        bucket = Bucket(rate=1, burst=1, now=0.0)

        bucket.take(0.0, 1 + OVERDRAFT)
        assert not bucket.is_overdrawn
        bucket.take(0.0, 0.1)
        assert bucket.is_overdrawn
        bucket.take(2.0, 0.0)
        assert not bucket.is_overdrawn

    def test_too_many_requests_are_refused_and_then_the_connection_is_closed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as greedy, raw(runtime.url) as other:
                codes = [(await greedy.ask("ping")).get("code") for _ in range(5)]
                assert codes == [None, None, None, "rate_limited", "rate_limited"]
                assert (await greedy.ask("subscribe", agent="a"))["retry"] is True
                await greedy.send(masked(TEXT, '{"type":"ping"}') * int(OVERDRAFT))
                goodbye, code = await greedy.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4004, 4004)
                await other.still_works()

        play(tmp_path, scenario, limits=Limits(requests_per_s=0.001, burst=3))

    def test_who_sends_nothing_but_nonsense_is_told_not_to_come_back(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(masked(TEXT, "nonsense") * int(OVERDRAFT + 5))
                assert (await enemy.farewell())[1] == 4500

        play(tmp_path, scenario, limits=Limits(requests_per_s=0.001, burst=3))

    @pytest.mark.sampled(1 / 2)
    def test_a_burst_of_all_subscriptions_is_fine(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            ids = [f"a{number}" for number in range(1_024)]
            await asyncio.to_thread(runtime.launch_many, len(ids), ids=ids)
            frames = [masked(TEXT, json.dumps({"type": "subscribe", "agent": id, "id": id})) for id in ids]
            async with opened(runtime) as client:
                await client.send(b"".join(frames))
                live: set[str] = set()
                while len(live) < len(ids):
                    frame = (await client.read()).json
                    assert frame["type"] in ("subscribed", "live", "status"), frame
                    live |= {frame["agent"]} if frame["type"] == "live" else set()

        play(tmp_path, scenario)


class TestConnections:
    def test_one_too_many_of_a_peer_is_told_and_closed_and_has_room_later(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url) as first:
                async with raw(runtime.url), wire(runtime) as third:
                    await third.send(request(runtime, "/v1/ws", UPGRADE))
                    await third.reader.readuntil(b"\r\n\r\n")
                    goodbye, code = await third.farewell()
                    assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4504, 4504)
                    await first.still_works()
                counts = server_of(runtime).core._from
                await asyncio.to_thread(wait_until, lambda: counts["127.0.0.1"] == 1, "the others to be gone")
                async with raw(runtime.url) as again:
                    await again.still_works()

        play(tmp_path, scenario, limits=Limits(connections_per_peer=2))

    def test_encrypted_ones_count_only_as_long_as_they_last(self, tmp_path: Path) -> None:
        trusting: Any = {"ssl": ssl._create_unverified_context(), "server_hostname": "localhost"}

        async def scenario(runtime: AgentRuntime) -> None:
            counts = server_of(runtime).core._from
            for _ in range(5):
                async with opened(runtime, **trusting) as client:
                    assert (await client.ask("ping"))["type"] == "ok"
                await asyncio.to_thread(wait_until, lambda: not counts, "it to be forgotten", show=lambda: counts)

        tls = server_context(*write_certificate(tmp_path))
        play(tmp_path, scenario, tls=tls, limits=Limits(connections_per_peer=2))

    def test_twice_as_many_are_dropped_before_they_have_asked(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime), wire(runtime), wire(runtime), wire(runtime), wire(runtime) as fifth:
                assert await fifth.is_dropped() == b""

        play(tmp_path, scenario, limits=Limits(connections_per_peer=2))

    def test_beyond_what_there_may_be_in_all_a_socket_is_refused_and_reads_are_not(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url), raw(runtime.url):
                async with wire(runtime) as third:
                    await third.send(request(runtime, "/v1/ws", UPGRADE))
                    refusal = await third.answer()
                assert (refusal.status, refusal.json["error"]["code"]) == (503, "unavailable")
                assert int(refusal.headers["retry-after"]) > 0
                assert (await get(runtime, "/v1/agents")).status == 200

        play(tmp_path, scenario, limits=Limits(connections=2))


class Waiting:
    """Operations that wait until they are told to go on, and count how many do at once."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.now = self.most = 0

    async def _wait(self) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        self.now -= 1
        raise InvalidValueError("this was only counted")

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Wait."""
        record: AgentRecord = await self._wait()
        return record

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Wait."""
        record: MessageRecord = await self._wait()
        return record

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """Wait."""
        return await self.launch(agent, "", key=None, prefix="")


def test_requests_that_are_at_work_are_bounded(tmp_path: Path) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        core = server_of(runtime).core
        waiting = core.requests.control = Waiting()
        async with opened(runtime, ("Authorization", "Bearer t")) as greedy, raw(runtime.url, token="t") as other:
            for number in range(5):
                await greedy.say("send", id=number, agent="a", content="x")
                await greedy.say("launch", id=10 + number, template="t")
            await asyncio.to_thread(wait_until, lambda: waiting.now == 3, "three to be at work")
            await other.still_works()
            core.call(waiting.go_on.set)
            answered = {(await greedy.until("error"))["id"] for _ in range(10)}
        assert answered == {*range(5), *range(10, 15)}
        assert waiting.most == 3

    play(tmp_path, scenario, token="t", limits=Limits(running_requests=3))


def test_requests_outlive_their_connection_and_leave_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        core = server_of(runtime).core
        waiting = core.requests.control = Waiting()
        async with opened(runtime, ("Authorization", "Bearer t")) as client:
            await client.say("terminate", agent="a")
            await asyncio.to_thread(wait_until, lambda: waiting.now, "it to be at work")
        await asyncio.to_thread(nobody_is_left, server_of(runtime))
        core.call(waiting.go_on.set)
        await asyncio.to_thread(wait_until, lambda: not waiting.now, "it to be done")

    play(tmp_path, scenario, token="t")
    assert not [record for record in caplog.records if record.exc_info]


class TestBadLimits:
    @pytest.mark.parametrize("name", Limits.__struct_fields__)
    @pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, MAX_LIMIT + 1, 10**30, 1e300])
    def test_what_cannot_be_is_refused_at_once(self, name: str, value: float) -> None:
        with pytest.raises(InvalidValueError, match=name):
            Limits(**{name: value})  # type: ignore[arg-type]  # is made to be wrong

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e300])
    def test_so_is_a_heartbeat_that_cannot_be(self, tmp_path: Path, value: float) -> None:
        with pytest.raises(InvalidValueError, match="heartbeat"):
            AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", heartbeat_s=value)

    def test_the_largest_ones_serve(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            agent.start()
            await agent.aemit("said")
            assert (await get(runtime, "/v1/agents/a/messages")).json["items"][0]["content"] == "said"
            async with raw(runtime.url) as client:
                await client.subscribe("a")
                assert (await client.follow("a", 1)).contents == ["said"]

        largest: dict[str, Any] = dict.fromkeys(Limits.__struct_fields__, MAX_LIMIT)
        play(tmp_path, scenario, heartbeat_s=float(MAX_LIMIT), limits=Limits(**largest))

    def test_limits_that_do_not_exist_are_refused(self) -> None:
        with pytest.raises(TypeError):
            Limits(conections=5)  # type: ignore[call-arg]

    def test_this_machine_may_have_as_many_as_all_and_others_256(self) -> None:
        limits = Limits(connections=1_000)

        assert limits.connections_from(is_local=True) == 1_000
        assert limits.connections_from(is_local=False) == 256
        assert Limits(connections=5).connections_from(is_local=False) == 5
        assert Limits(connections_per_peer=7).connections_from(is_local=True) == 7


WORDS: Final = ["type", "id", "agent", "after", "key", "subscribe", "ack", "hello", "send", "launch", "*", "a", "tail"]
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=5),
    max_leaves=12,
)
REQUESTS: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "subscribe", "unsubscribe", "ack", "ping", "launch", "send", "terminate", "?"])},
    optional={name: JSON for name in ("id", "agent", "after", "epoch", "raw", "window", "slow", "content", "key")},
)
FRAMES: Final = st.builds(
    lambda opcode, payload, first, mask: masked(opcode, payload, first=first, mask=mask),
    st.sampled_from([CONT, TEXT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
    st.binary(max_size=200) | st.binary(min_size=120, max_size=130),
    st.sampled_from([FIN, FIN, 0, FIN | RSV1, FIN | 0x20]),
    st.sampled_from([True, True, True, False]),
)
SOUP: Final = st.lists(
    st.binary(max_size=60)
    | FRAMES
    | (JSON | REQUESTS).map(lambda value: masked(TEXT, json.dumps(value)))
    | REQUESTS.map(lambda value: masked(TEXT, json.dumps(value))[:-1]),
    max_size=12,
)
GREETINGS: Final = st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/ws HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
FUZZ: Final = settings(max_examples=examples(20, 60), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _close_writing(enemy: Wire) -> None:
    """Say that nothing more comes, if the server has not gone first."""
    plug: socket.socket = enemy.writer.get_extra_info("socket")
    try:
        plug.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("kind", ["frames", "handshakes"])
@pytest.mark.sampled(1 / 2)
def test_whatever_bytes_come_nothing_is_left_and_nobody_is_harmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def attack(runtime: AgentRuntime, soup: list[bytes]) -> None:
        async with wire(runtime) as enemy:
            if kind == "frames":
                await enemy.open(("Sec-WebSocket-Extensions", "permessage-deflate"))
            for data in soup:
                await enemy.send(data)
            _close_writing(enemy)
            await enemy.is_dropped()

    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime, asyncio.Runner() as runner:
        runtime.launch(id="a").emit("x").get(TIMEOUT_S)
        stack = raw(runtime.url)
        honest = runner.run(stack.__aenter__())

        @FUZZ
        @given(SOUP if kind == "frames" else st.tuples(GREETINGS, SOUP).map(lambda pair: [pair[0], *pair[1]]))
        def soups(soup: list[bytes]) -> None:
            runner.run(attack(runtime, soup))
            runner.run(honest.still_works())

        soups()
        runner.run(stack.__aexit__(None, None, None))
        nobody_is_left(server_of(runtime))
        assert runtime.agent("a").record().head == 1
    unexpected = [record for record in caplog.records if record.exc_info or record.levelname in ("ERROR", "CRITICAL")]
    assert not unexpected


@pytest.mark.parametrize("behind", [b"\xff\xff", masked(TEXT, b"x", mask=False), b"{}" * 40], ids=repr)
def test_a_request_with_something_behind_it_is_answered_and_logged_by_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        async with wire(runtime) as enemy:
            await enemy.send(request(runtime, "/healthz") + behind)
            assert b"200 OK" in await enemy.is_dropped()

    play(tmp_path, scenario)
    assert not [record for record in caplog.records if record.exc_info]


def test_an_operation_that_fails_costs_its_request_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Waiting):
        async def _wait(self) -> Any:
            raise RuntimeError("a defect")

    class Refusing(Waiting):
        async def _wait(self) -> Any:
            raise CommitcastError("refused for a reason without a code")

    async def scenario(runtime: AgentRuntime) -> None:
        core = server_of(runtime).core
        async with opened(runtime, ("Authorization", "Bearer t")) as client:
            for operations in (Failing(), Refusing()):
                core.requests.control = operations
                assert (await client.ask("send", agent="a", content="x"))["code"] == "internal"
                assert (await client.ask("ping"))["type"] == "ok"

    play(tmp_path, scenario, token="t")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a Send failed"]
