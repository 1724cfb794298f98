"""Each frame is the same at the other end, however the bytes come, and nothing else is taken for a frame."""

import struct
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.persistence.errors import InvalidValueError, LinkError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.remote import frames
from commitcast.persistence.remote.frames import (
    MAX_FRAME_BYTES,
    Answer,
    Ask,
    Cast,
    Commit,
    Deframer,
    Frame,
    Log,
    Part,
    pack,
    unpack,
)
from commitcast.persistence.writes import (
    MAX_MESSAGE_BYTES,
    AgentPatch,
    AgentWrites,
    NewAgent,
    NewMessage,
    NewStatus,
    Write,
)
from examples import examples
from stores import text

KINDS = get_args(Frame)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**64 - 1)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: numbers,
    bool: st.booleans(),
    bytes | None: st.none() | st.binary(max_size=8),
    str | None: st.none() | texts,
    int | None: st.none() | numbers,
    float | None: st.none() | st.floats(0, 1e6),
    list[int]: st.lists(numbers, max_size=3),
    list[Any]: st.lists(plain, max_size=3),
    list[Any] | None: st.none() | st.lists(plain, max_size=3),
    dict[str, Any]: st.dictionaries(texts, plain, max_size=2),
    dict[str, str]: st.dictionaries(texts, texts, max_size=2),
    AgentStatus: st.sampled_from(AgentStatus),
    Any: plain,
}


def made(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a struct."""
    return st.builds(kind, **{field.name: OF_TYPE[field.type] for field in msgspec.structs.fields(kind)})


OF_TYPE[frames.Failure] = made(frames.Failure)
OF_TYPE[frames.Failure | None] = st.none() | OF_TYPE[frames.Failure]
OF_TYPE[frames.Settings | None] = st.none() | made(frames.Settings)
OF_TYPE[list[Part]] = st.lists(made(Part), max_size=3)
OF_TYPE[tuple[NewMessage, ...]] = st.lists(made(NewMessage), max_size=2).map(tuple)
OF_TYPE[list[Write]] = st.lists(st.one_of(list(map(made, get_args(Write)))), max_size=3)
OF_TYPE[list[AgentWrites]] = st.lists(made(AgentWrites), max_size=3)
any_frame = st.one_of(list(map(made, KINDS)))


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The pieces of a stream that is cut at some places."""
    ends = sorted({place % (len(stream) + 1) for place in places} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def received(pieces: list[bytes], deframer: Deframer | None = None) -> list[bytes]:
    """The payloads of a stream that comes in pieces."""
    deframer = deframer or Deframer()
    return [bytes(payload) for piece in pieces for payload in deframer.feed(memoryview(piece))]


@pytest.mark.sampled
@settings(max_examples=examples(80, 800))
@given(frame=any_frame)
def test_every_frame_survives(frame: Frame) -> None:
    (payload,) = received([pack(frame)])

    other = unpack(payload)

    assert type(other) is type(frame)
    assert msgspec.to_builtins(other) == msgspec.to_builtins(frame)
    assert pack(other) == pack(frame)


def test_each_kind_has_a_number_of_its_own() -> None:
    tags = [kind.__struct_config__.tag for kind in KINDS]

    assert sorted(tags) == list(range(len(KINDS)))


def test_writes_come_as_the_types_that_the_store_takes() -> None:
    work = [
        AgentWrites(
            "a",
            [
                NewAgent(epoch="e", type="agent", created_at="t", messages=(text("prompt"),)),
                NewStatus(previous=AgentStatus.INITIALIZING, status=AgentStatus.RUNNING, at="t"),
                NewMessage("user", None, "x", "text", "t", 2, None, b"\xff", "key"),
                AgentPatch(pid=3),
            ],
        )
    ]
    other = unpack(received([pack(Commit(1, 0, work))])[0])

    assert other == Commit(1, 0, work)
    assert isinstance(other, Commit)
    created, change, message, _ = other.work[0].writes
    assert isinstance(created, NewAgent) and isinstance(created.messages, tuple)
    assert isinstance(change, NewStatus) and change.status is AgentStatus.RUNNING
    assert isinstance(message, NewMessage) and type(message.raw) is bytes


@pytest.mark.sampled
@settings(max_examples=examples(80, 1_000))
@given(
    payloads=st.lists(st.binary(max_size=40), max_size=6),
    places=st.lists(st.integers(0, 2**16), max_size=12),
    whole=st.booleans(),
)
def test_a_stream_gives_the_same_payloads_however_it_is_cut(
    payloads: list[bytes], places: list[int], whole: bool
) -> None:
    stream = b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)
    pieces = cut(stream, places) if not whole else [bytes([byte]) for byte in stream]

    deframer = Deframer()
    assert received(pieces, deframer) == payloads
    assert deframer.missing_bytes == 4  # nothing is left over


@given(payload=st.binary(min_size=1, max_size=50), place=st.integers(0, 2**16))
def test_what_is_missing_of_a_frame_is_what_the_frame_still_needs(payload: bytes, place: int) -> None:
    """A reader that asks for no more than that never takes a byte of the next frame."""
    frame = struct.pack("<I", len(payload)) + payload
    deframer, at, seen = Deframer(), place % len(frame), list[bytes]()
    for payload_so_far in deframer.feed(memoryview(frame[:at])):
        seen.append(bytes(payload_so_far))
    while not seen:
        missing = deframer.missing_bytes
        assert 0 < missing <= len(frame) - at
        seen += [bytes(each) for each in deframer.feed(memoryview(frame[at : at + missing]))]
        at += missing

    assert (at, seen) == (len(frame), [payload])


def test_a_payload_is_not_overwritten_by_what_comes_while_it_is_read() -> None:
    stream = b"".join(pack(Cast([number])) for number in range(50))
    deframer, seen = Deframer(), []
    for piece in cut(stream, list(range(0, len(stream), 7))):
        for payload in deframer.feed(memoryview(piece)):
            frame = unpack(payload)
            assert isinstance(frame, Cast)
            seen += frame.positions

    assert seen == list(range(50))


@pytest.mark.parametrize("before", [b"", struct.pack("<I", 2) + b"ab"], ids=["first", "second"])
@pytest.mark.parametrize("step", [1, 3, 64])
def test_a_length_beyond_the_limit_ends_it_before_anything_is_kept(before: bytes, step: int) -> None:
    deframer = Deframer(max_bytes=1_000)
    stream = before + struct.pack("<I", 1_001) + b"x" * 100

    with pytest.raises(LinkError, match=r"1,001 bytes was announced, and the limit is 1,000"):
        received([stream[at : at + step] for at in range(0, len(stream), step)], deframer)

    assert len(deframer._buffer) <= 4 + step


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    frame = struct.pack("<I", 1_000) + b"x" * 1_000

    assert received([frame[:500], frame[500:]], Deframer(max_bytes=1_000)) == [b"x" * 1_000]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\x80",
        b"\xa4text",
        b"\x91\x63",
        b"\x91\xa5Hello",
        b"\x92" * 5_000,
        b"\xdd" + b"\xff" * 4,
    ],
    ids=lambda payload: repr(payload[:10]),
)
def test_what_is_not_a_frame_is_an_error_of_the_connection(payload: bytes) -> None:
    with pytest.raises(LinkError, match="a frame cannot be decoded"):
        unpack(payload)


@given(payload=st.binary(max_size=60))
def test_no_other_error_comes_of_any_bytes(payload: bytes) -> None:
    try:
        unpack(payload)
    except LinkError:
        pass


@pytest.mark.parametrize(
    "value",
    ["\ud800", 2**64, -(2**63) - 1, object(), {"a": {1: {2: object()}}}],
    ids=["surrogate", "large", "small", "object", "object inside"],
)
def test_what_cannot_be_sent_is_refused_with_a_reason_before_a_byte_of_it_goes(value: object) -> None:
    with pytest.raises(InvalidValueError, match=r"this cannot be sent to another process \(Ask\): .+"):
        pack(Ask(1, "agents", [value]))
    with pytest.raises(InvalidValueError):
        pack(Answer(1, value))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(InvalidValueError):
        pack(Answer(1, value))


def test_what_is_longer_than_the_other_end_takes_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1_000)

    with pytest.raises(InvalidValueError, match=r"another process \(Log\): it has 1,0\d\d bytes, and the limit is"):
        pack(Log("name", 1, "x" * 1_000))
    assert len(pack(Log("name", 1, "x" * 900))) < 1_000


def test_the_largest_agent_and_the_largest_message_fit() -> None:
    """Prompt, first message and configuration; or prompt, configuration and result."""
    assert 3 * MAX_MESSAGE_BYTES + 32 * 1024 * 1024 < MAX_FRAME_BYTES < 2**32
