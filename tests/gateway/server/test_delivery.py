"""How what was committed gets to sockets: paced, made once for everybody, and never in pieces."""

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as LibraryFrame
from websockets.protocol import State
from websockets.uri import parse_uri

from commitcast.actors import AgentHandle, AgentRuntime
from commitcast.gateway.hub import log
from commitcast.gateway.hub.encoding import COMPRESSED_FROM_BYTES, PreparedFrame
from commitcast.gateway.hub.log import MAX_DEBT_S, QUIET_S, REST, Pacer
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode
from commitcast.gateway.server.peer import LivenessMonitor
from commitcast.gateway.server.sockets.websocket import UNSENT_LIMIT_BYTES
from hostile import BINARY, CLOSE, TEXT, Frame, Wire, masked, opened, play, say, server_of, spoken
from subscribers import Fields, Raw, raw
from waiting import wait_until

DEFLATE: Final = ("Sec-WebSocket-Extensions", "permessage-deflate")
SIZES: Final = [60, 124, 125, 126, 127, 511, 512, 513, 65_534, 65_535, 65_536, 65_537, 200_000]
HOUR_S: Final = 3_600.0


class TestPacer:
    def test_a_quarter_of_the_time_is_for_sending(self) -> None:
        pacer = Pacer()
        now = sent = 0.0
        while now < 100:
            now += pacer.owed_s(now)
            now += 0.01
            sent += 0.01
            pacer.spend(now, 0.01)

        assert sent / now == pytest.approx(1 / (1 + REST), rel=0.01)

    def test_nothing_is_owed_for_what_took_nothing(self) -> None:
        pacer = Pacer()

        pacer.spend(5.0, 0.0)

        assert pacer.owed_s(5.0) == 0

    def test_debts_add_up_and_are_paid_by_time_alone(self) -> None:
        pacer = Pacer()

        pacer.spend(1.0, 0.1)
        pacer.spend(1.0, 0.2)

        assert pacer.owed_s(1.0) == pytest.approx(0.3 * REST)
        assert pacer.owed_s(1.5) == pytest.approx(0.3 * REST - 0.5)
        assert pacer.owed_s(1.0 + 0.3 * REST + 1e-9) == 0
        assert pacer.owed_s(50.0) == 0

    @given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=20))
    def test_rest_is_never_negative_and_never_forgotten(self, steps: list[tuple[float, float]]) -> None:
        pacer, now = Pacer(), 0.0
        for wait_s, took_s in steps:
            now += wait_s
            before = pacer.owed_s(now)
            pacer.spend(now, took_s)
            assert pacer.owed_s(now) == pytest.approx(before + REST * took_s)

    def test_the_longest_wait_of_a_quiet_agent_is_within_what_eyes_forgive(self) -> None:
        assert QUIET_S <= 0.1 and MAX_DEBT_S <= 0.25


class TestPacing:
    """How much rest is owed is said by the test, so that nothing depends on how quick a disk or a machine is."""

    @pytest.fixture(autouse=True)
    def nothing_becomes_quiet_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "QUIET_S", 1e6)
        monkeypatch.setattr(log, "MAX_DEBT_S", 2 * HOUR_S)

    @asynccontextmanager
    async def _heard(self, runtime: AgentRuntime, *agents: AgentHandle) -> AsyncIterator[Wire]:
        """A subscriber, to whom each agent is to be quiet."""
        async with opened(runtime) as client:
            for agent in agents:
                await client.ask("subscribe", agent=agent.id)
                await client.until("live", agent=agent.id)
            yield client

    async def _owe(self, runtime: AgentRuntime, debt_s: float) -> None:
        """Let so much rest be owed from now on, in place of what was."""
        owing: asyncio.Queue[None] = asyncio.Queue()
        here, core = asyncio.get_running_loop(), server_of(runtime).core

        def owe() -> None:
            core.hub.pacer._free_at = 0.0
            core.hub.pacer.spend(time.perf_counter(), debt_s / REST)
            if core.pump._rest is not None:
                core.pump._rest.cancel()
            core.pump._on_rested()
            here.call_soon_threadsafe(owing.put_nowait, None)

        core.call(owe)
        await owing.get()

    async def _hub_knows_of(self, runtime: AgentRuntime, *lags: int) -> None:
        """Wait until the hub has what was said: it is told after those who spoke."""
        hub = server_of(runtime).core.hub
        await asyncio.to_thread(wait_until, lambda: hub.lags() == list(lags), f"{lags} to be known", show=hub.lags)

    async def _nothing_is_heard(self, client: Wire) -> None:
        await client.say("ping", id="still nothing?")
        assert (await client.read()).json["type"] == "ok"

    def test_the_first_word_of_a_quiet_agent_does_not_wait_for_a_loud_one(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            loud, quiet = [await runtime.alaunch(id=id) for id in ("loud", "quiet")]
            async with self._heard(runtime, loud, quiet) as client:
                await loud.aemit("before")
                await client.until("messages")
                await self._owe(runtime, HOUR_S)
                await loud.aemit("paced")
                await quiet.aemit("at once")
                assert (await client.until("messages"))["agent"] == "quiet"
                await self._hub_knows_of(runtime, 1, 0)
                await self._nothing_is_heard(client)
                await self._owe(runtime, 0)
                assert (await client.until("messages"))["agent"] == "loud"

        play(tmp_path, scenario)

    def test_when_too_much_rest_is_owed_it_waits_as_well(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            quiet = await runtime.alaunch(id="quiet")
            async with self._heard(runtime, quiet) as client:
                await self._owe(runtime, 3 * HOUR_S)
                await quiet.aemit("first")
                await self._hub_knows_of(runtime, 1)
                await self._nothing_is_heard(client)
                await self._owe(runtime, HOUR_S)
                assert (await client.until("messages"))["agent"] == "quiet"

        play(tmp_path, scenario)

    def test_what_is_said_meanwhile_travels_together_once_the_rest_is_over(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with self._heard(runtime, agent) as client:
                await agent.aemit("first")
                await client.until("messages")
                await self._owe(runtime, HOUR_S)
                for number in range(5):
                    await agent.aemit(str(number))
                await self._hub_knows_of(runtime, 5)
                await self._nothing_is_heard(client)
                await self._owe(runtime, 0.01)  # and by itself, when that is over
                assert len((await client.until("messages"))["items"]) == 5

        play(tmp_path, scenario)


def test_more_that_waits_for_a_socket_is_no_sign_that_it_takes_anything() -> None:
    liveness = LivenessMonitor()

    assert [liveness.stalled_s(*each) for each in ((100, 1.0), (100, 2.0), (200, 3.0), (300, 4.0))] == [0, 1, 2, 3]
    assert liveness.stalled_s(299, 5.0) == 0
    assert liveness.stalled_s(299, 6.0) == 1
    assert liveness.stalled_s(None, 7.0) == 0, "it takes more"


def padded(size: int, *, noisy: bool) -> PreparedFrame:
    """Return a frame whose JSON has exactly that many bytes."""
    bare = len(frames.encode(frames.Error(code="x", message="", retry=False)))
    letters = random.Random(size)
    text = (
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ", k=size - bare))
        if noisy
        else "y" * (size - bare)
    )
    frame = PreparedFrame(frames.Error(code="x", message=text, retry=False))
    assert len(frame.json) == size
    return frame


def by_hand(data: bytes) -> Frame:
    """Read a frame as RFC 6455 section 5.2 has it; it must be all there is."""
    first, length, start = data[0], data[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start])
        assert length > (125 if start == 4 else 65_535), "the shortest form is the only one"
    assert len(data) == start + length
    return Frame(first, data[start:])


class TestPreparedFrames:
    @pytest.mark.parametrize("noisy", [False, True], ids=["repetitive", "noisy"])
    @pytest.mark.parametrize("size", SIZES)
    def test_they_are_read_alike_by_hand_and_by_the_library(self, size: int, noisy: bool) -> None:
        frame = padded(size, noisy=noisy)
        deflate = PerMessageDeflate(True, True, 12, 12)

        for data, extensions in ((frame.plain, []), (frame.compressed, [deflate])):
            assert frames.encode(decoding.decode_server(json.dumps(by_hand(data).json))) == frame.json
            client = ClientProtocol(parse_uri("ws://x/"), state=State.OPEN, max_size=None)
            client.extensions = extensions  # type: ignore[assignment]
            client.receive_data(data)
            (event,) = client.events_received()
            assert isinstance(event, LibraryFrame)
            assert (event.opcode, event.fin, bytes(event.data)) == (TEXT, True, frame.json)

    @pytest.mark.parametrize("size", SIZES)
    def test_compressed_only_from_where_it_helps(self, size: int) -> None:
        frame = padded(size, noisy=False)

        assert by_hand(frame.compressed).is_compressed == (size >= COMPRESSED_FROM_BYTES)
        assert len(frame.compressed) <= len(frame.plain)
        assert frame.compressed is frame.compressed and frame.plain is frame.plain, "made once"

    def test_over_sockets_every_size_arrives_whole_in_one_stream(self, tmp_path: Path) -> None:
        made = [padded(size, noisy=noisy) for noisy in (False, True) for size in SIZES]
        wanted = [json.loads(frame.json) for frame in made]

        async def scenario(runtime: AgentRuntime) -> None:
            async with (
                opened(runtime) as plain,
                opened(runtime, DEFLATE) as compressed,
                connect(str(runtime.url), max_size=None) as library,
            ):
                assert json.loads(await library.recv())["type"] == "welcome"
                core = server_of(runtime).core

                def write() -> None:
                    for frame in made:
                        for peer in list(core._sessions):
                            peer.write(frame)

                core.call(write)
                for read in (plain.read, compressed.read):
                    assert [(await read()).json for _ in made] == wanted
                assert [json.loads(await library.recv()) for _ in made] == wanted

        play(tmp_path, scenario)


class TestFallback:
    def test_without_the_librarys_internals_everybody_gets_the_same_frames(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def told(runtime: AgentRuntime, *headers: tuple[str, str]) -> list[Fields]:
            async with opened(runtime, *headers) as client:
                (peer,) = server_of(runtime).core._sessions
                assert peer._shares_frames == (not monkeypatch._setattr)  # type: ignore[attr-defined]
                answers = [await client.ask("ping"), await client.ask("subscribe", agent="a")]
                while answers[-1]["type"] != "live":
                    frame = await client.read()
                    answers.append(frame.json)
                await client.send(masked(TEXT, "nonsense"))
                return [*answers, await client.until("error")]

        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 50, text="a text that is long enough to be compressed " * 5)
            shared = [await told(runtime), await told(runtime, DEFLATE)]
            monkeypatch.setattr("commitcast.gateway.server.sockets.websocket.INTERNALS", ("what no version has",))
            assert [await told(runtime), await told(runtime, DEFLATE)] == shared
            assert shared[0] == shared[1]

        play(tmp_path, scenario)

    def test_a_slow_reader_still_gets_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("commitcast.gateway.server.sockets.websocket.INTERNALS", ("what no version has",))

        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with raw(runtime.url) as client:
                await client.subscribe("a")
                client.connection.transport.pause_reading()
                await say(agent, *["x" * 50_000] * 40)
                client.connection.transport.resume_reading()
                assert (await client.follow("a", 40)).sequences == list(range(1, 41))

        play(tmp_path, scenario)


def test_the_kernel_keeps_little_that_was_not_sent_and_sends_at_once(tmp_path: Path) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        async with opened(runtime):
            (peer,) = server_of(runtime).core._sessions
            plug = peer.transport.get_extra_info("socket")  # type: ignore[attr-defined]
            assert plug.getsockopt(socket.IPPROTO_TCP, 25) == UNSENT_LIMIT_BYTES == 16 * 1024
            assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    play(tmp_path, scenario)


@pytest.mark.parametrize("headers", [(), (DEFLATE,)], ids=["plain", "compressed"])
def test_a_close_in_the_middle_of_shared_writes_leaves_whole_frames(
    tmp_path: Path, headers: tuple[tuple[str, str], ...]
) -> None:
    async def watch(client: Wire) -> list[int]:
        """Return the sequences that came until the close; the parser fails on anything that is no frame."""
        sequences: list[int] = []
        is_told = False
        while (frame := await client.read()).opcode != CLOSE:
            assert frame.opcode == TEXT and not is_told, "something came behind the goodbye"
            is_told = frame.json["type"] == "goodbye"
            if frame.json["type"] == "messages":
                sequences += [item["sequence"] for item in frame.json["items"]]
        assert is_told
        await client.send(masked(CLOSE, frame.payload))
        assert await client.is_dropped() == b""
        return sequences

    async def scenario(runtime: AgentRuntime) -> None:
        core = server_of(runtime).core
        agent = await runtime.alaunch(id="a")
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(opened(runtime, *headers)) for _ in range(20)]
            for client in clients:
                await client.say("subscribe", agent="a")
            watching = [asyncio.create_task(watch(client)) for client in clients]
            sessions = list(core._sessions.values())
            for session in sessions:
                await agent.aemit("x" * 3_000)
                close: Callable[[], Any] = lambda session=session: core.tasks.spawn(  # type: ignore[misc]  # noqa: E731
                    session.close(CloseCode.SLOW, "in the middle of it")
                )
                core.call(close)
                await agent.aemit("y" * 700)
            for sequences in await asyncio.gather(*watching):
                assert sequences == list(range(1, len(sequences) + 1))

    play(tmp_path, scenario)


@pytest.mark.parametrize("data", [b'{"type":"ping"}', b"", b"\x00\xff"])
def test_binary_frames_are_a_bad_request_and_no_more(tmp_path: Path, data: bytes) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        async with opened(runtime) as client:
            await client.send(masked(BINARY, data))
            assert (await client.until("error"))["code"] == "bad_request"
            assert (await client.ask("ping"))["type"] == "ok"

    play(tmp_path, scenario)


def test_subscribers_at_one_cursor_share_one_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[frames.ServerFrame] = []
    make = PreparedFrame.__init__

    def count(self: PreparedFrame, frame: frames.ServerFrame, messages: int = 0) -> None:
        made.append(frame)
        make(self, frame, messages)

    async def scenario(runtime: AgentRuntime) -> None:
        agent = await runtime.alaunch(id="a")
        async with AsyncExitStack() as stack:
            clients: list[Raw] = [await stack.enter_async_context(raw(runtime.url)) for _ in range(30)]
            for client in clients:
                await client.subscribe("a")
                await client.until("live")
            monkeypatch.setattr(PreparedFrame, "__init__", count)
            await agent.aemit("for everybody")
            for client in clients:
                await client.follow("a", 1)
            await asyncio.to_thread(wait_until, lambda: made, "the frame to be made")
            assert len([frame for frame in made if isinstance(frame, frames.Messages)]) == 1

    play(tmp_path, scenario)
