"""What a frame costs that is refused: nothing is made of it but its `id`, and before `hello` not even that."""

import json
import tracemalloc
from pathlib import Path
from typing import Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import ErrorCode, FrameError
from commitcast.gateway.server.access.limits import BYTES_PER_REQUEST, STRANGER_BURST, Limits
from hostile import LAUNCH, READ, SEND, TEXT, Passes, allowed, masked, opened, play, spoken

KIB: Final = 1024
MIB: Final = 1024 * KIB
TOKENS: Final = Passes(mine=allowed("mine", ("*", [READ, SEND, LAUNCH])))


def many(element: str, size: int = 2 * MIB - 200) -> str:
    """Return a list of that element, as long as a frame may be."""
    return "[" + ",".join([element] * (size // (len(element) + 1))) + "]"


class TestWhatIsRefusedIsNotMadeIntoObjects:
    @pytest.mark.parametrize("element", ["[]", "{}", '{"a":0}', '"x"', "1.5"])
    @pytest.mark.parametrize(
        "frame",
        [
            '{{"id":7,"type":"x","a":{0}}}',
            '{{"a":{0},"id":7,"type":"ping"}}',
            '{{"id":7,"type":"ack","agent":{0}}}',
            '{{"id":7,"type":"send","agent":{0},"content":"x"}}',
            '{{"id":7,"type":"launch","template":5,"more":{0}}}',
            '{{"id":{0},"type":"launch","template":5}}',
            '{{"id":7,"type":{0}}}',
            '{{"id":7,"type":"x"}}{0}',
            "{0}",
        ],
    )
    def test_a_large_frame_of_many_parts(self, frame: str, element: str) -> None:
        data = frame.format(many(element))

        tracemalloc.start()
        try:
            with pytest.raises(FrameError) as caught:
                decoding.decode_client(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 4 * MIB
        assert caught.value.id in (7, None)

    def test_an_ack_of_more_entries_than_fit_a_control_frame(self) -> None:
        data = json.dumps({"type": "ack", "id": 7, "agent": {f"a{number}": 1 for number in range(100_000)}})

        tracemalloc.start()
        try:
            with pytest.raises(FrameError) as caught:
                decoding.decode_client(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert (caught.value.error_code, caught.value.id) == (ErrorCode.TOO_LARGE, 7)
        assert peak < MIB

    @pytest.mark.parametrize("field", ["agent", "id"])
    def test_what_is_echoed_is_no_larger_than_a_control_frame(self, field: str) -> None:
        fields = {"type": "send", "agent": "a", "content": "x", field: "x" * (64 * KIB + 1)}

        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps(fields))

        assert (caught.value.error_code, caught.value.id) == (ErrorCode.TOO_LARGE, None)


class TestBeforeHello:
    @pytest.mark.parametrize("type", ["send", "launch", "hello", "x"])
    def test_nothing_is_read_of_a_frame_that_is_larger_than_a_control_frame(self, type: str) -> None:
        fields = {"id": 7, "type": type, "agent": "a", "content": "", "template": "t", "prompt": "x" * 64 * KIB}

        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps(fields), is_known=False)

        assert (caught.value.error_code, caught.value.id) == (ErrorCode.TOO_LARGE, None)

    def test_a_stranger_that_sends_large_frames_is_closed_after_the_first(self, tmp_path: Path) -> None:
        large = masked(TEXT, json.dumps({"id": 7, "type": "send", "agent": "a", "content": "x" * MIB}))

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as stranger:
                await stranger.send(large + masked(TEXT, '{"type":"hello","id":1,"token":"mine"}'))
                assert (await stranger.until("error"))["code"] == "too_large"
                assert (await stranger.farewell())[1] == 4004

        play(tmp_path, scenario, token=TOKENS)

    def test_a_stranger_that_goes_on_asking_is_closed(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as stranger:
                codes = [(await stranger.ask("ping"))["code"] for _ in range(int(STRANGER_BURST) + 5)]
                assert set(codes) == {"unauthenticated", "rate_limited"}
                await stranger.send(masked(TEXT, '{"type":"ping"}') * int(2 * STRANGER_BURST))
                assert (await stranger.farewell())[1] == 4004

        play(tmp_path, scenario, token=TOKENS)

    def test_a_large_frame_right_behind_a_hello_is_taken(self, tmp_path: Path) -> None:
        sent = json.dumps({"id": 2, "type": "send", "agent": "a", "content": "x" * MIB})

        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 1, end=False)
            async with opened(runtime) as client:
                await client.send(masked(TEXT, '{"type":"hello","id":1,"token":"mine"}') + masked(TEXT, sent))
                assert (await client.until("ok", id=2))["sequence"] == 2

        play(tmp_path, scenario, token=TOKENS)


class TestRateByBytes:
    def test_a_frame_counts_as_more_requests_the_larger_it_is(self, tmp_path: Path) -> None:
        large = {"junk": "x" * (3 * BYTES_PER_REQUEST)}

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer mine")) as client:
                codes = [(await client.ask("ping", **large)).get("code") for _ in range(4)]
                assert codes == [None, None, "rate_limited", "rate_limited"]

        play(tmp_path, scenario, token=TOKENS, limits=Limits(requests_per_s=0.001, burst=10))

    def test_a_frame_that_is_refused_counts_by_its_size_too(self, tmp_path: Path) -> None:
        large = masked(TEXT, json.dumps({"type": "x", "a": "x" * MIB}))

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer mine")) as client:
                await client.send(large * 9)
                assert (await client.farewell())[1] == 4004

        play(tmp_path, scenario, token=TOKENS, limits=Limits(requests_per_s=0.001, burst=10))

    def test_saying_hello_again_does_not_fill_the_bucket(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer mine")) as client:
                replies = [await client.ask("hello", token="mine") for _ in range(5)]
                assert [reply.get("code") for reply in replies] == [None, None, None, "rate_limited", "rate_limited"]

        play(tmp_path, scenario, token=TOKENS, limits=Limits(requests_per_s=0.001, burst=3))


def test_sizes_are_counted_in_bytes_whatever_the_text() -> None:
    assert [decoding.size_of(each) for each in ("x", "ü", "\U0001f916", "\ud800", b"\xff\xff")] == [1, 2, 4, 3, 2]
    assert isinstance(decoding.decode_client(json.dumps({"type": "ping", "x": "y" * 100})), frames.Ping)
