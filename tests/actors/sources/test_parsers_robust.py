"""What no line can do to a parser: make it raise, lose a byte, or make a message that cannot be stored."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers import PARSERS, Parser
from commitcast.actors.sources.parsers.decoding import MAX_DEPTH
from commitcast.persistence.writes import MAX_MESSAGE_BYTES, encode_json, new_message
from transcripts import encode, lines_of

EVERY_TYPE = pytest.mark.parametrize("type", sorted(PARSERS))


def check_storable(draft: Draft) -> None:
    assert isinstance(draft.content, str)
    new_message(  # raises for what a store refuses
        draft.content,
        created_at="2026-11-22T10:00:00.000000Z",
        type=draft.type,
        role=draft.role,
        metadata=draft.metadata,
        raw=draft.raw,
    )


def check_parsed(parser: Parser, line: bytes) -> None:
    drafts = parser.parse(line)
    assert drafts[0].raw == line
    assert all(draft.raw is None for draft in drafts[1:])
    for draft in drafts:
        check_storable(draft)
    for said in (parser.session_id, parser.last_error, parser.verdict and parser.verdict.message):
        assert said is None or isinstance(said, str)
    encode_json(msgspec.to_builtins(parser.verdict), "the verdict")


@EVERY_TYPE
def test_every_line_is_kept_byte_for_byte_and_in_order(type: str) -> None:
    lines = [line for name in ("claude_code", "gemini_cli", "codex") for line in lines_of(name)]
    lines += [b"", b"\r", b"plain\r", b"\xff\xfe", b'{"type":"error"}\r', b"{" * 5000]
    parser = PARSERS[type]()

    drafts = [draft for line in lines for draft in parser.parse(line)]

    assert [draft.raw for draft in drafts if draft.raw is not None] == lines


@settings(deadline=None)
@given(line=st.binary(max_size=60))
def test_random_bytes_never_raise_and_make_what_can_be_stored(line: bytes) -> None:
    for make in PARSERS.values():
        check_parsed(make(), line)


FIELDS = [
    *("type", "subtype", "session_id", "message", "content", "text", "thinking", "role", "event", "delta"),
    *("index", "name", "input", "id", "tool_use_id", "is_error", "errors", "result", "usage", "status"),
    *("parent_tool_use_id", "severity", "tool_name", "parameters", "output", "error", "stats", "thread_id"),
    *("item", "command", "aggregated_output", "exit_code", "changes", "path", "kind", "server", "tool"),
    *("arguments", "query", "items", "completed", "metadata", "num_turns", "tool_id"),
]
NAMES = [
    *(
        "system",
        "init",
        "assistant",
        "user",
        "text",
        "thinking",
        "tool_use",
        "tool_result",
        "result",
        "error",
    ),
    *("stream_event", "content_block_delta", "text_delta", "thinking_delta", "message_start", "message"),
    *("thread.started", "turn.started", "turn.completed", "turn.failed", "success", "agent_message"),
    *("item.started", "item.updated", "item.completed", "reasoning", "command_execution", "file_change"),
    *("mcp_tool_call", "web_search", "todo_list"),
]
strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**64, -(2**63) - 1, 10**40, float("nan"), float("inf"), 1e300, "\ud800", "a\udfffb", ""]),
    st.text(st.characters(), max_size=5),
    st.sampled_from(NAMES),
)
shallow = strange | st.lists(strange, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), strange, max_size=2)
value = shallow | st.dictionaries(st.sampled_from([*FIELDS, "\ud800"]), shallow, max_size=3)
event = st.dictionaries(st.sampled_from(FIELDS), value, max_size=4)


@settings(deadline=None)
@given(
    outer=event,
    inner=event,
    name=st.sampled_from(NAMES),
    kind=st.sampled_from(NAMES),
    place=st.sampled_from(FIELDS),
)
def test_known_events_with_any_values_in_any_field_never_raise(
    outer: dict[str, Any], inner: dict[str, Any], name: str, kind: str, place: str
) -> None:
    inner = {**inner, "type": kind}
    events = [
        {**outer, "type": name, place: inner},
        {**outer, "type": name, "message": {"content": [inner, {**inner, "type": "tool_result"}]}},
        {**outer, "type": "stream_event", "event": {**outer, "type": "content_block_delta", "delta": inner}},
        {**outer, "type": "item.completed", "item": inner},
    ]

    for make in PARSERS.values():
        parser = make()
        for line in encode(*events, *events):
            check_parsed(parser, line)


STRANGE: list[Any] = [
    None,
    True,
    0,
    1.5,
    10**40,
    float("nan"),
    "",
    "\ud800",
    [],
    [1],
    [[]],
    {},
    {"type": 1},
    {"text": {}},
]


def with_strange_fields(value: Any) -> Iterator[Any]:
    """Yield copies of a JSON value in which one value, at any depth, is strange or missing."""
    yield from STRANGE
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: kept for key, kept in value.items() if key != name}
            yield from ({**value, name: changed} for changed in with_strange_fields(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in with_strange_fields(inner))


@pytest.mark.parametrize(
    ("type", "name"), [(type, type.replace("-", "_")) for type in PARSERS if type not in ("jsonl", "text")]
)
def test_every_field_of_every_known_event_may_hold_anything(type: str, name: str) -> None:
    events = [json.loads(line) for line in lines_of(name) if line.startswith(b"{")]
    parser = PARSERS[type]()

    for event in events:
        for line in encode(*with_strange_fields(event)):
            check_parsed(parser, line)


@pytest.mark.parametrize(
    "line",
    [
        rb'{"type":"assistant","message":{"content":[{"type":"text","text":"cut \ud83d"}]}}',
        rb'{"type":"message","role":"assistant","content":"cut \ud83d"}',
        rb'{"type":"item.completed","item":{"type":"agent_message","text":"cut \ud83d"}}',
        rb'{"content":"cut \ud83d"}',
        b'{"content":"cut \xf0\x9f","text":"cut \xf0\x9f"}',
        b"cut \xf0\x9f\x98",
    ],
)
def test_bad_text_costs_one_character_and_not_the_event(line: bytes) -> None:
    seen = [parser().parse(line)[0] for parser in PARSERS.values()]

    assert ("assistant", "cut \ufffd") in [(draft.type, draft.content) for draft in seen]
    assert all(draft.raw == line for draft in seen)


def test_metadata_holds_nothing_that_json_cannot_carry() -> None:
    line = (
        rb'{"type":"system","a":NaN,"b":-Infinity,"c":18446744073709551616,"d":1e999,"\ud800":"\udc00x","e":'
        + b"9" * 5000
        + b',"f":1,"f":2,"g":9007199254740991,"h":9007199254740992,"i":-9007199254740992}'
    )

    draft = PARSERS["claude-code"]().parse(line)[0]

    assert draft.metadata == {
        **{"a": "NaN", "b": "-Infinity", "c": "18446744073709551616", "d": "1e999", "\ufffd": "\ufffdx"},
        **{"e": "9" * 5000, "f": 2, "g": 2**53 - 1, "h": "9007199254740992", "i": "-9007199254740992"},
    }
    check_storable(draft)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 300, 950, 100_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_cut_or_left_unparsed(depth: int, pair: tuple[bytes, bytes]) -> None:
    line = b'{"type":"system","deep":' + pair[0] * depth + b"1" + pair[1] * depth + b"}"

    check_parsed(PARSERS["claude-code"](), line)

    metadata = PARSERS["claude-code"]().parse(line)[0].metadata
    shown = msgspec.json.encode(metadata).decode()
    assert ("…" in shown or metadata == {"unparsed": True}) is (depth >= MAX_DEPTH)


@EVERY_TYPE
def test_an_empty_line_makes_an_empty_message(type: str) -> None:
    draft = PARSERS[type]().parse(b"")[0]

    assert (draft.type, draft.content) == ("assistant" if type == "text" else "system", "")


@pytest.mark.parametrize(
    ("type", "line"),
    [
        ("text", b"\xff" * (16 * 1024 * 1024)),
        ("claude-code", b'{"type":"system","x":"' + b"\xff" * (16 * 1024 * 1024 - 30) + b'"}'),
        (
            "codex",
            b'{"type":"item.completed","item":{"type":"web_search","query":"' + b"\xff" * (8 * 1024 * 1024) + b'"}}',
        ),
    ],
    ids=["content", "metadata", "both"],
)
def test_a_large_line_still_makes_messages_that_fit(type: str, line: bytes) -> None:
    check_parsed(PARSERS[type](), line)


def test_a_line_as_long_as_a_message_may_be_never_raises() -> None:
    line = b"x" * MAX_MESSAGE_BYTES

    draft = PARSERS["claude-code"]().parse(line)[0]

    assert draft.raw == line
    assert draft.metadata == {"unparsed": True, "truncated": True}


@EVERY_TYPE
def test_a_piece_of_a_line_is_kept_and_marked(type: str) -> None:
    draft = PARSERS[type]().parse_piece(b"abc\xff", continues=True)

    assert (draft.content, draft.raw) == ("abc\ufffd", b"abc\xff")
    assert draft.type == ("assistant" if type == "text" else "system")
    assert draft.metadata == {"partial": True, "continues": True}


def test_the_largest_piece_of_bad_bytes_fits() -> None:
    draft = PARSERS["text"]().parse_piece(b"\xff" * (16 * 1024 * 1024), continues=False)

    assert draft.metadata == {"partial": True, "continues": False, "truncated": True}
    check_storable(draft)
