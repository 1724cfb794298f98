"""Every attack of the threat list, each played by an enemy on a real socket against a real runtime."""

import asyncio
import json
import logging
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol import frames
from commitcast.gateway.server import gateway
from commitcast.gateway.server.access.auth import Operation, StaticTokens
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.http.request import HttpRequest
from commitcast.gateway.server.sockets import websocket
from commitcast.gateway.tls import server_context
from hostile import (
    ADMIN,
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    READ,
    RSV1,
    TEXT,
    UPGRADE,
    Answer,
    Passes,
    Wire,
    allowed,
    asleep,
    get,
    masked,
    opened,
    play,
    request,
    say,
    server_of,
    spoken,
    wire,
)
from subscribers import Raw, raw
from waiting import wait_until

SECRET: Final = "S3cr3t-Tok3n"
MIB: Final = 1024 * 1024


async def upgraded(runtime: AgentRuntime, *headers: tuple[str, str], path: str = "/v1/ws") -> Answer:
    """Return what a handshake is answered with that should be refused."""
    async with wire(runtime) as enemy:
        await enemy.send(request(runtime, path, (*UPGRADE, *headers)))
        return await enemy.answer()


class TestCrossSiteHijacking:
    FOREIGN: Final = (
        "https://evil.example",
        "null",
        "",
        "http://{}.evil.example",
        "http://127.0.0.1:1",
        "http://evil@{}",
    )

    def test_a_page_of_another_site_gets_neither_socket_nor_answer(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for origin in self.FOREIGN:
                header = ("Origin", origin.format(runtime.address))
                assert (await upgraded(runtime, header)).status == 403, origin
                assert (await get(runtime, "/v1/agents", header)).status == 403, origin

        play(tmp_path, scenario)

    def test_a_page_of_the_server_and_one_that_is_allowed_get_in(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for origin in (f"http://{runtime.address}", "https://app.example"):
                async with opened(runtime, ("Origin", origin)):
                    pass

        play(tmp_path, scenario, allowed_origins=["https://app.example"])

    def test_two_origins_are_refused_whatever_they_are(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            own = ("Origin", f"http://{runtime.address}")
            assert (await upgraded(runtime, own, own)).status == 400

        play(tmp_path, scenario)


class TestDnsRebinding:
    FOREIGN: Final = (
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:{}",
        "localhost@evil.example",
        "[::2]",
        "",
    )
    ODD: Final = ("127.0.0.1/;script-src *", "127.0.0.1?;report-uri //x", "a@127.0.0.1", "localhost:1 x", "localhost:x")

    def test_a_name_that_is_not_ours_gets_neither_socket_nor_answer(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for host in self.FOREIGN:
                header = ("Host", host.format(str(runtime.address).rpartition(":")[2]))
                for path in ("/", "/healthz", "/v1/agents"):
                    assert (await get(runtime, path, header)).status == 403, host
                assert (await upgraded(runtime, header)).status == 403, host

        play(tmp_path, scenario)

    def test_a_host_with_more_than_a_name_and_a_port_is_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for host in self.ODD:
                assert (await get(runtime, "/", ("Host", host))).status == 403, host

        play(tmp_path, scenario)

    def test_two_hosts_or_none_are_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            own = ("Host", str(runtime.address))
            assert (await get(runtime, "/v1/agents", own, ("Host", "evil.example"))).status == 400
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /v1/agents HTTP/1.1\r\n\r\n")
                assert (await enemy.answer()).status == 403

        play(tmp_path, scenario)


class TestTokenInTheOpen:
    @pytest.mark.parametrize("name", ["token", "access_token", "jwt", "authorization", "bearer", "TOKEN", "%74oken"])
    def test_a_token_in_the_query_is_refused_even_if_it_is_right(self, tmp_path: Path, name: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for answer in (
                await upgraded(runtime, path=f"/v1/ws?x=1&{name}={SECRET}"),
                await get(runtime, f"/v1/agents?{name}={SECRET}", token=SECRET),
            ):
                assert answer.status == 400
                assert SECRET not in str(answer)

        play(tmp_path, scenario, token=SECRET)

    def test_no_token_gets_into_any_log_or_answer(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        wrong = SECRET + "-wrong"

        async def scenario(runtime: AgentRuntime) -> None:
            said: list[Any] = []
            for token in (SECRET, wrong):
                said.append(await get(runtime, "/v1/agents", token=token))
                said.append(await get(runtime, f"/v1/ws?token={token}"))
                for header in (("Authorization", f"Bearer {token}"), ("Sec-WebSocket-Protocol", _offer(token))):
                    said.append(await _all_that_is_said(runtime, header))
                said.append(await _all_that_is_said(runtime, hello=token))
            async with wire(runtime) as enemy:
                await enemy.send(request(runtime, "/v1/ws", [("Authorization", f"Bearer \x00{SECRET}")]))
                said.append(await enemy.is_dropped())
            assert SECRET not in str(said)

        with caplog.at_level(logging.DEBUG):
            for name in ("asyncio", "commitcast", "commitcast.gateway", "commitcast.gateway.websockets", "websockets"):
                caplog.set_level(logging.DEBUG, logger=name)
            play(tmp_path, scenario, token=SECRET)
        assert caplog.records, "nothing was logged, so nothing was looked at"
        assert not [record for record in caplog.records if SECRET in record.getMessage() + repr(record.__dict__)]

    @pytest.mark.parametrize("token", [f"{SECRET}/+=", f'{SECRET}"', f"{SECRET}{{"])
    def test_a_token_that_is_no_subprotocol_is_not_repeated(self, tmp_path: Path, token: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await upgraded(runtime, ("Sec-WebSocket-Protocol", _offer(token)))
            assert answer.status == 400
            assert SECRET not in str(answer)

        play(tmp_path, scenario, token=SECRET)

    def test_no_object_shows_its_token(self, tmp_path: Path) -> None:
        tokens = StaticTokens.single(SECRET)
        shown = [tokens, tokens.__dict__, tokens.verify(SECRET), frames.Hello(token=SECRET)]
        shown += [HttpRequest(path="/", token=SECRET)]

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", f"Bearer {SECRET}")):
                (peer,) = server_of(runtime).core._sessions
                shown.extend([peer, server_of(runtime), runtime, *asyncio.all_tasks()])
                assert SECRET not in " ".join(map(repr, shown))

        play(tmp_path, scenario, token=SECRET)


def _offer(token: str) -> str:
    return f"commitcast.v1.json, commitcast.bearer.{token}"


async def _all_that_is_said(runtime: AgentRuntime, *headers: tuple[str, str], hello: str | None = None) -> bytes:
    """Return every byte of a conversation, which ends with the token refused or with a bad request."""
    async with wire(runtime) as enemy:
        await enemy.send(request(runtime, "/v1/ws", (*UPGRADE, *headers)))
        if hello is not None:
            await enemy.send(masked(TEXT, json.dumps({"type": "hello", "id": 1, "token": hello, "client": 1})))
            await enemy.send(masked(TEXT, json.dumps({"type": "hello", "id": 2, "token": hello})))
        await enemy.send(masked(TEXT, json.dumps({"type": "send", "agent": "nobody", "content": "x"})))
        await enemy.send(masked(CLOSE, b"\x03\xe8"))
        return await enemy.is_dropped()


class TestUnboundedReplay:
    def test_who_asks_for_more_subscriptions_than_allowed_is_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await asyncio.to_thread(runtime.launch_many, 4, ids=["a", "b", "c", "d"])
            async with raw(runtime.url) as greedy:
                for agent in ("a", "b", "c", "b"):
                    await greedy.subscribe(agent)
                assert (await greedy.ask("subscribe", agent="d", id="one more"))["code"] == "limit"
                assert (await greedy.ask("unsubscribe", agent="a", id="away"))["type"] == "ok"
                await greedy.subscribe("d")

        play(tmp_path, scenario, limits=Limits(subscriptions=3))

    def test_who_reads_nothing_of_a_thousand_histories_holds_little_and_delays_nobody(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            handles = await asyncio.to_thread(runtime.launch_many, 1_000)
            futures = [handle.emit("x" * 8_000) for handle in handles for _ in range(3)]
            await futures[-1]
            asked = [masked(TEXT, json.dumps({"type": "subscribe", "agent": handle.id})) for handle in handles]
            async with opened(runtime, receive_buffer=4_096) as greedy, raw(runtime.url) as other:
                greedy.stop_reading()
                await greedy.send(b"".join(asked))
                peer = await asleep(runtime, greedy)

                await other.subscribe(handles[0].id)
                assert len((await other.follow(handles[0].id, 3)).contents) == 3
                await handles[0].aemit("heard at once")
                assert (await other.follow(handles[0].id, 4)).contents[-1] == "heard at once"

                pump = server_of(runtime).core.pump
                assert peer.unsent_bytes < MIB
                assert pump.hub._rings.size + pump._pages.size < MIB
                assert server_of(runtime).core.traffic.pages < 100, "pages were read for who does not take them"

        play(tmp_path, scenario)


class TestDecompressionBomb:
    OFFER: Final = ("Sec-WebSocket-Extensions", "permessage-deflate")

    @pytest.mark.parametrize("fragments", [1, 2])
    def test_it_is_closed_before_it_bursts(self, tmp_path: Path, fragments: int) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = (deflate.compress(bytes(50_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        half = len(bomb) // fragments
        parts = [masked(TEXT, bomb[:half], first=RSV1 | (FIN if fragments == 1 else 0))]
        parts += [masked(CONT, bomb[half:])] if fragments == 2 else []

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, self.OFFER) as enemy, raw(runtime.url) as other:
                assert enemy.offered.startswith("permessage-deflate")
                tracemalloc.start()
                try:
                    await enemy.send(b"".join(parts))
                    goodbye, code = await enemy.farewell()
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)
                assert peak < 12 * MIB
                await other.still_works()

        play(tmp_path, scenario)


class TestFragmentFlood:
    def test_sixty_four_fragments_are_a_message(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as client:
                blanks = (masked(CONT, b" ", first=0) + masked(PING, b"between")) * 62
                await client.send(masked(TEXT, '{"type":"ping",', first=0) + blanks + masked(CONT, '"id":7}'))
                assert (await client.until("ok"))["id"] == 7

        play(tmp_path, scenario)

    @pytest.mark.parametrize("between", [b"", masked(PONG, b"x")], ids=["bare", "control frames between"])
    def test_more_are_closed(self, tmp_path: Path, between: bytes) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(masked(TEXT, b"{", first=0) + (masked(CONT, b" ", first=0) + between) * 64)
                goodbye, code = await enemy.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)

        play(tmp_path, scenario)

    def test_what_comes_behind_the_flood_is_not_looked_at(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        flood = masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 200 + masked(CONT, b"}")

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(flood + masked(TEXT, '{"type":"ping"}') + flood)
                assert (await enemy.farewell())[1] == 1009

        play(tmp_path, scenario)
        assert not [record for record in caplog.records if record.exc_info]


class TestHugeFrames:
    @pytest.mark.parametrize(
        "data",
        [
            masked(TEXT, b"x" * (2 * MIB + 1)),
            masked(BINARY, b"x" * (2 * MIB + 1)),
            bytes((FIN | TEXT, 0xFF)) + (2**63 - 1).to_bytes(8),
            masked(TEXT, b"x" * MIB, first=0) + masked(CONT, b"x" * MIB, first=0) + masked(CONT, b"x"),
        ],
        ids=["text", "binary", "only announced", "in fragments"],
    )
    def test_more_than_two_mebibytes_are_closed(self, tmp_path: Path, data: bytes) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(data)
                goodbye, code = await enemy.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 1009, 1009)

        play(tmp_path, scenario)

    def test_control_frames_and_contents_have_bounds_of_their_own_in_bytes(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime, ("Authorization", f"Bearer {SECRET}")) as client:
                bare = len(json.dumps({"type": "ping", "id": "asked", "pad": ""}))
                assert (await client.ask("ping", pad="x" * (64 * 1024 - bare)))["type"] == "ok"
                assert (await client.ask("ping", pad="x" * (64 * 1024 - bare + 1)))["code"] == "too_large"
                assert (await client.ask("send", agent="a", content="x" * MIB))["type"] == "ok"
                assert (await client.ask("send", agent="a", content="x" * (MIB + 1)))["code"] == "too_large"
                text = json.dumps({"type": "send", "id": "asked", "agent": "a", "content": "\u00e9" * (MIB // 2)})
                await client.send(masked(TEXT, text.encode().decode("unicode_escape")[:-2] + 'x"}'))
                assert (await client.until("error"))["code"] == "too_large"
                assert (await client.ask("launch", template="t", prompt="x" * (MIB + 1)))["code"] == "too_large"

        play(tmp_path, scenario, token=SECRET)


class TestSlowloris:
    LIMITS: Final = Limits(handshake_timeout_s=0.2, answer_timeout_s=0.2, hello_timeout_s=0.1)

    def test_who_asks_for_nothing_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                assert await enemy.is_dropped() == b""

        play(tmp_path, scenario, limits=self.LIMITS)

    def test_who_sends_headers_drop_by_drop_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /v1/agents HTTP/1.1\r\n")
                dropped = asyncio.create_task(enemy.is_dropped())
                while not dropped.done():
                    await enemy.send(b"X-More: and more\r\n")
                    await asyncio.wait([dropped], timeout=0.02)
                assert b"200" not in dropped.result()

        play(tmp_path, scenario, limits=self.LIMITS)

    def test_headers_without_end_are_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                await enemy.send(request(runtime, "/v1/ws", [("X-More", "and more")] * 1_000))
                assert (await enemy.is_dropped())[:12] in (b"HTTP/1.1 431", b"")
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /" + b"x" * 100_000)
                assert (await enemy.is_dropped())[:12] in (b"HTTP/1.1 414", b"")

        play(tmp_path, scenario)

    def test_who_says_anything_but_hello_is_closed_in_time(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                farewell = asyncio.create_task(enemy.farewell())
                while not farewell.done():
                    await enemy.say("ping")
                    await asyncio.wait([farewell], timeout=0.01)
                goodbye, code = farewell.result()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4507, 4507)

        play(tmp_path, scenario, limits=self.LIMITS, token=SECRET)

    def test_who_never_makes_the_handshake_of_tls_is_dropped(self, tmp_path: Path) -> None:
        tls = server_context(*write_certificate(tmp_path))

        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                assert await enemy.is_dropped() == b""
            async with wire(runtime, ssl=ssl._create_unverified_context(), server_hostname="localhost") as half:
                assert await half.is_dropped() == b""

        play(tmp_path, scenario, limits=self.LIMITS, tls=tls)

    def test_who_never_reads_an_answer_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 20, text="x" * 50_000)
            async with wire(runtime, receive_buffer=4_096) as enemy:
                enemy.stop_reading()
                await enemy.send(request(runtime, "/v1/agents/a/messages"))
                counts = server_of(runtime).core._from
                await asyncio.to_thread(wait_until, lambda: counts, "the connection to be there")
                await asyncio.to_thread(wait_until, lambda: not counts, "the connection to be gone")

        play(tmp_path, scenario, limits=self.LIMITS)


class TestSilentPeer:
    def test_who_gives_no_sign_of_life_is_closed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as silent:
                goodbye, code = await silent.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4003, 4003)

        play(tmp_path, scenario, heartbeat_s=0.05)

    @pytest.mark.parametrize("shares", [True, False], ids=["shared frames", "fallback"])
    def test_who_only_answers_pings_lives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool) -> None:
        if not shares:
            monkeypatch.setattr("commitcast.gateway.server.sockets.websocket.INTERNALS", ("what no version has",))

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as listener:
                for _ in range(4):
                    await listener.until("heartbeat")

        play(tmp_path, scenario, heartbeat_s=0.3)


class TestSlowReader:
    @pytest.fixture(autouse=True)
    def looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateway, "TICK_S", 0.02)
        monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.2)

    def test_each_policy_does_what_it_says(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with (
                opened(runtime, receive_buffer=4_096) as patient,
                opened(runtime, receive_buffer=4_096) as hasty,
                opened(runtime, receive_buffer=4_096) as proud,
            ):
                slow = {"catch_up": patient, "skip": hasty, "close": proud}
                for policy, each in slow.items():
                    await each.ask("subscribe", agent="a", slow=policy)
                    await each.until("live")
                    each.stop_reading()
                await say(agent, *["x" * 50_000] * 40)
                for each in slow.values():
                    await asleep(runtime, each)
                    each.read_on()
                cursor = 0
                while cursor < 40:
                    frame = await patient.until("messages")
                    assert frame["prev"] == cursor
                    cursor = frame["last"]
                gap = await hasty.until("gap")
                assert gap["last"] == 40
                goodbye, code = await proud.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4002, 4002)

        play(tmp_path, scenario)

    def test_who_takes_nothing_at_all_is_dropped_in_time(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, receive_buffer=4_096) as stalled, raw(runtime.url) as other:
                await stalled.ask("subscribe", agent="a")
                stalled.stop_reading()
                await other.subscribe("a")
                await say(agent, *["x" * 50_000] * 10)
                await asleep(runtime, stalled)
                left = server_of(runtime).core._sessions
                await asyncio.to_thread(wait_until, lambda: len(left) == 1, "the stalled one to be gone")
                assert server_of(runtime).core.traffic.closes[4002] == 1
                assert len((await other.follow("a", 10)).items) == 10

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=0.1))

    def test_forty_kilobytes_a_second_are_alive(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, receive_buffer=4_096) as slow:
                await slow.ask("subscribe", agent="a")
                await say(agent, *["x" * 25_000] * 10)
                cursor, unread = 0, bytearray()
                while cursor < 2:
                    unread += await slow.reader.read(1_000)
                    await asyncio.sleep(0.025)  # this is its speed
                    while (taken := _first_frame(unread)) is not None:
                        first, payload = taken
                        if first & 0x0F == PING:
                            await slow.send(masked(PONG, payload))
                        elif (frame := json.loads(payload))["type"] == "messages":
                            assert frame["prev"] == cursor
                            cursor = frame["last"]
                        else:
                            assert frame["type"] != "goodbye", frame

        play(tmp_path, scenario, heartbeat_s=0.05, limits=Limits(stall_timeout_s=0.5))

    def test_who_pings_and_reads_nothing_is_read_no_more_and_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            core = server_of(runtime).core
            async with opened(runtime, receive_buffer=4_096) as enemy, raw(runtime.url) as other:
                enemy.stop_reading()
                flood = asyncio.create_task(enemy.send(masked(PING, b"x" * 125) * 100_000))
                most = 0
                while len(core._sessions) > 1:
                    most = max([most, *(peer.unsent_bytes for peer in list(core._sessions))])
                    await other.still_works()
                assert most < MIB
                assert core.traffic.closes[4002] == 1
                flood.cancel()

        play(tmp_path, scenario, limits=Limits(stall_timeout_s=0.2, burst=1e6))


def _first_frame(unread: bytearray) -> tuple[int, bytes] | None:
    """Take a whole frame from what was read, if there is one."""
    if len(unread) < 2:
        return None
    start = {126: 4, 127: 10}.get(unread[1], 2)
    size = unread[1] if start == 2 else int.from_bytes(unread[2:start])
    if len(unread) < start + size:
        return None
    taken = unread[0], bytes(unread[start : start + size])
    del unread[: start + size]
    return taken


class TestGuessingOfIds:
    GRANT: Final = allowed("one", ("org1:*", tuple(Operation)))
    """Everything, on its own agents."""

    @pytest.mark.parametrize(
        ("type", "fields"),
        [
            ("subscribe", {}),
            ("subscribe", {"after": 99}),
            ("subscribe", {"after": "tail"}),
            ("subscribe", {"epoch": "guessed"}),
            ("send", {"content": "x"}),
            ("send", {"content": "x", "key": "k"}),
            ("terminate", {}),
            ("unsubscribe", {}),
        ],
        ids=str,
    )
    def test_an_agent_of_others_is_answered_for_like_one_that_is_not_there(
        self, tmp_path: Path, type: str, fields: dict[str, Any]
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            async with opened(runtime, ("Authorization", "Bearer one")) as enemy:
                there = await enemy.ask(type, agent="org2:here", **fields)
                nowhere = await enemy.ask(type, agent="org2:gone", **fields)
                assert json.dumps(there).replace("org2:here", "org2:gone") == json.dumps(nowhere)
                assert there["code"] == "not_found"
                await enemy.say("ack", agent={"org2:here": 3, "org2:gone": 3})
                assert (await enemy.ask("ping"))["type"] == "ok"
                assert (await runtime.agent("org2:here").arecord()).head == 5

        play(tmp_path, scenario, token=Passes(one=self.GRANT))

    @pytest.mark.parametrize("tail", ["", "/messages", "/messages?after=99", "/messages?limit=1&raw=1"])
    def test_nor_do_reads_over_http_tell(self, tmp_path: Path, tail: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            there = await get(runtime, f"/v1/agents/org2:here{tail}", token="one")
            nowhere = await get(runtime, f"/v1/agents/org2:gone{tail}", token="one")
            assert there.status == 404
            assert there.body.replace(b"org2:here", b"org2:gone") == nowhere.body
            assert there.headers | {"date": ""} == nowhere.headers | {"date": ""}

        play(tmp_path, scenario, token=Passes(one=self.GRANT))

    def test_lists_heartbeats_and_metrics_name_only_what_is_ones_own(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            await spoken(runtime, "org1:mine", 2, end=False)
            async with (
                opened(runtime, ("Authorization", "Bearer one")) as client,
                raw(runtime.url, token="two") as other,
            ):
                await other.subscribe("org2:here")
                await client.ask("subscribe", agent="org1:mine")
                await client.ask("subscribe", agent="org2:here")
                assert (await client.until("heartbeat"))["heads"].keys() <= {"org1:mine"}
                listed = await get(runtime, "/v1/agents", token="one")
                assert [agent["id"] for agent in listed.json["agents"]] == ["org1:mine"]
                assert b"org2" not in (await get(runtime, "/metrics", token="two")).body

        grants = {"one": self.GRANT, "two": allowed("two", ("*", [READ, ADMIN]))}
        play(tmp_path, scenario, heartbeat_s=0.05, token=Passes(**grants))

    def test_a_page_of_the_list_does_not_count_the_agents_of_others(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org1:mine", 1)
            before = await get(runtime, "/v1/agents?limit=2", token="one")
            await spoken(runtime, "org2:here", 1)
            after = await get(runtime, "/v1/agents?limit=2", token="one")
            assert after.body == before.body

        play(tmp_path, scenario, token=Passes(one=self.GRANT))


class TestSharedFrames:
    def test_two_callers_at_the_same_cursor_get_only_what_each_may_read(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            both = [await runtime.alaunch(id=id) for id in ("shared", "org1:a", "org2:a")]
            async with raw(runtime.url, token="one") as one, raw(runtime.url, token="two") as two:
                for caller, own, others in ((one, "org1:a", "org2:a"), (two, "org2:a", "org1:a")):
                    await caller.subscribe("shared")
                    await caller.subscribe(own)
                    assert (await caller.ask("subscribe", agent=others, id="?"))["code"] == "not_found"
                for agent in both:
                    await agent.aemit(f"of {agent.id}")
                for caller, own in ((one, "org1:a"), (two, "org2:a")):
                    heard = (await caller.follow("shared", 1)).contents + (await caller.follow(own, 1)).contents
                    assert heard == ["of shared", f"of {own}"]
                    await caller.still_works()
                    assert caller.followers.keys() == {"shared", own}

        grants = {
            name: allowed(name, ("shared", [READ]), (f"org{number}:*", [READ]))
            for number, name in ((1, "one"), (2, "two"))
        }
        play(tmp_path, scenario, token=Passes(**grants))

    def test_everything_needs_the_right_to_read_everything(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for token, code in (("prefix", "forbidden"), ("blind", "forbidden"), ("all", None)):
                async with raw(runtime.url, token=token) as caller:
                    assert (await caller.ask("subscribe", agent="*")).get("code") == code

        grants = {"prefix": allowed("p", ("org1:*", [READ])), "blind": allowed("b", ("*", [ADMIN]))}
        play(tmp_path, scenario, token=Passes(**grants, all=allowed("a", ("*", [READ]))))


class TestCompressionSideChannel:
    @pytest.mark.parametrize(
        "offer",
        [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=12",
        ],
    )
    def test_no_context_is_kept_whatever_is_offered(self, tmp_path: Path, offer: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 30)
            async with opened(runtime, ("Sec-WebSocket-Extensions", offer)) as client:
                assert {"server_no_context_takeover", "client_no_context_takeover"} <= set(client.offered.split("; "))
                same = [await _replayed(client, str(number)) for number in range(3)]
                assert same[0].is_compressed
                assert len({frame.payload for frame in same}) == 1

        play(tmp_path, scenario)

    @pytest.mark.parametrize(
        "offer", ["permessage-deflate; server_max_window_bits=9", "permessage-deflate; dance", "other"]
    )
    def test_who_insists_on_what_is_not_shared_gets_plain_frames(self, tmp_path: Path, offer: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 30)
            async with opened(runtime, ("Sec-WebSocket-Extensions", offer)) as client:
                assert not (await _replayed(client, "plain")).is_compressed

        play(tmp_path, scenario)

    @pytest.mark.parametrize("bits", [9, 10, 12, 15, None])
    def test_a_client_with_any_window_understands(self, tmp_path: Path, bits: int | None) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 300, text="a long and far from random text " * 9)
            offer = [ClientPerMessageDeflateFactory(server_max_window_bits=bits)]
            async with connect(str(runtime.url), compression=None, extensions=offer, max_size=None) as connection:
                client = Raw(connection)
                assert (await client.receive())["type"] == "welcome"
                await client.subscribe("a")
                assert len((await client.follow_to_end("a", 300)).items) == 300

        play(tmp_path, scenario)

    def test_who_keeps_a_context_all_the_same_only_harms_itself(self, tmp_path: Path) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = json.dumps({"type": "ping", "id": "a text that is long enough to be found again in the window"})
        both = [(deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2)]

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, TestDecompressionBomb.OFFER) as enemy, raw(runtime.url) as other:
                await enemy.send(masked(TEXT, both[0], first=FIN | RSV1))
                assert (await enemy.until("ok"))["id"].startswith("a text")
                await enemy.send(masked(TEXT, both[1], first=FIN | RSV1))
                goodbye, code = await enemy.farewell()
                assert goodbye["code"] == code == 1002
                await other.still_works()

        play(tmp_path, scenario)


async def _replayed(client: Wire, id: str) -> Any:
    """Return the frame with the messages of agent `a`, asked for once more."""
    await client.say("subscribe", id=id, agent="a")
    while True:
        frame = await client.read()
        if frame.opcode == TEXT and frame.json["type"] == "messages":
            return frame


class TestReconnectStorm:
    def test_two_hundred_who_come_back_at_once_share_their_pages(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 1_000)
            traffic = server_of(runtime).core.traffic

            async def come_back(number: int) -> list[int]:
                async with raw(runtime.url) as client:
                    after = 250 * (number % 2)
                    await client.subscribe("a", after=after)
                    return (await client.follow_to_end("a", 1_000 - after)).sequences

            everybody = await asyncio.gather(*map(come_back, range(200)))

            assert everybody == [list(range(1 + 250 * (number % 2), 1_001)) for number in range(200)]
            alone = 2 * 5  # what one of each would have read: four pages, and the last that is empty
            assert traffic.pages < 20 * alone, "every client read for itself"

        play(tmp_path, scenario)


class TestScriptsInContent:
    SCRIPT: Final = "<script>alert(1)</script>"

    PATHS: Final = (
        *("/", "/web/app.js", "/web/client.js", "/web/style.css", "/healthz", "/readyz", "/asyncapi.json", "/metrics"),
        *("/v1/agents", "/v1/agents/a", "/v1/agents/a/messages", "/v1/agents?limit=x", f"/v1/agents?status={SCRIPT}"),
        *("/nothing", f"/{SCRIPT}", f"/v1/agents/{SCRIPT}", f"/v1/agents/{SCRIPT}/messages", f"/web/{SCRIPT}"),
    )

    def test_every_answer_says_what_it_is_and_what_may_run(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 1, text=self.SCRIPT)
            for path in self.PATHS:
                await self._check(runtime, path)

        play(tmp_path, scenario)

    async def _check(self, runtime: AgentRuntime, path: str) -> None:
        answer = await get(runtime, path)
        is_page = answer.headers["content-type"].startswith("text/html")
        assert is_page == (path == "/")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert "frame-ancestors 'none'" in policy

    @pytest.mark.parametrize(
        "headers", [(), UPGRADE[:2], (*UPGRADE[:3], ("Sec-WebSocket-Key", SCRIPT)), (("Connection", SCRIPT),)]
    )
    def test_a_handshake_that_fails_is_answered_as_carefully(
        self, tmp_path: Path, headers: Sequence[tuple[str, str]]
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await get(runtime, "/v1/ws", *headers)
            assert answer.status in (400, 426)
            assert self.SCRIPT.encode() not in answer.body
            assert answer.headers["x-content-type-options"] == "nosniff"

        play(tmp_path, scenario)


class TestExposedMetrics:
    @pytest.mark.parametrize(
        ("token", "status"), [(None, 401), ("wrong", 401), ("reader", 403), ("prefix", 403), ("admin", 200)]
    )
    def test_they_need_admin_over_everything_when_there_are_tokens(
        self, tmp_path: Path, token: str | None, status: int
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await get(runtime, "/metrics", token=token)
            assert answer.status == status
            assert (b"commitcast" in answer.body) == (status == 200)

        grants = {"reader": allowed("r", ("*", [READ])), "prefix": allowed("p", ("org1:*", [ADMIN]))}
        play(tmp_path, scenario, token=Passes(**grants, admin=allowed("a", ("*", [ADMIN]))))

    def test_a_server_on_loopback_without_tokens_shows_them(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            assert (await get(runtime, "/metrics")).status == 200

        play(tmp_path, scenario)


@pytest.mark.parametrize("prompt", ["x" * MIB, "\u6f22" * (MIB // 6)], ids=["ASCII", "CJK"])
def test_the_list_of_agents_is_bounded_in_bytes(tmp_path: Path, prompt: str) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        for number in range(8):
            await runtime.alaunch(id=f"a{number}", prompt=prompt)
        ids: list[str] = []
        after = 0
        while after is not None:
            page = await get(runtime, f"/v1/agents?limit=1000&after={after}")
            assert len(page.body) < MIB + len(prompt.encode()) + 64 * 1024
            ids += [agent["id"] for agent in page.json["agents"]]
            after = page.json["next"]
        assert ids == [f"a{number}" for number in range(8)]

    play(tmp_path, scenario)


def test_hostile_clients_leave_the_others_alone(tmp_path: Path) -> None:
    """All of the loud ones at once, beside one honest subscriber who misses nothing."""
    attacks: list[Callable[[], bytes]] = [
        lambda: masked(TEXT, b"x" * (2 * MIB + 1)),
        lambda: masked(TEXT, b"{", first=0) + masked(CONT, b" ", first=0) * 70,
        lambda: masked(TEXT, b"\xff"),
        lambda: masked(TEXT, b"{}", mask=False),
        lambda: masked(TEXT, "[" * 60_000),
    ]

    async def scenario(runtime: AgentRuntime) -> None:
        agent = await runtime.alaunch(id="a")
        agent.start()

        async def attack(make: Callable[[], bytes]) -> None:
            async with opened(runtime) as enemy:
                await enemy.send(make() + masked(CLOSE, b"\x03\xe8"))
                await enemy.is_dropped()

        async with raw(runtime.url) as honest:
            await honest.subscribe("a")
            enemies = [asyncio.create_task(attack(make)) for make in attacks * 4]
            for ten in range(10):
                await say(agent, *(str(number) for number in range(10 * ten, 10 * ten + 10)))
            await agent.complete()
            assert (await honest.follow_to_end("a", 100)).contents == [str(number) for number in range(100)]
            await asyncio.gather(*enemies)

    play(tmp_path, scenario)
