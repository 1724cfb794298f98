"""What the programs print, understood: the mapping of every kind, and what no line can do to a parser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers import PARSERS, Parser, Verdict, claude_code, guess_type
from commitcast.actors.sources.parsers.decoding import MAX_DEPTH
from commitcast.persistence.writes import MAX_MESSAGE_BYTES, new_message

TRANSCRIPTS = Path(__file__).parent / "transcripts"
EVERY_TYPE = pytest.mark.parametrize("type", sorted(PARSERS))

Shown = tuple[str, str, dict[str, Any] | None]


def lines_of(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")


def show(parser: Parser, lines: list[bytes]) -> list[Shown]:
    drafts = [draft for line in lines for draft in parser.parse(line)]
    return [(draft.type, str(draft.content), draft.metadata) for draft in drafts]


def encode(*events: Any) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]


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
    msgspec.json.encode(parser.verdict)


# The mapping of each kind.


def test_claude_code_events_become_the_messages_of_the_mapping() -> None:
    delta = {"delta": True}
    thought = {"delta": True, "thinking": True}
    below = {"parent_tool_use_id": "t2"}
    result = {
        "subtype": "success",
        "is_error": False,
        "duration_ms": 1200,
        "num_turns": 2,
        "session_id": "s-1",
        "total_cost_usd": 0.01,
        "usage": {"output_tokens": 9},
        "permission_denials": [],
    }
    lines = lines_of("claude_code")
    parser = PARSERS["claude-code"]()

    shown = show(parser, lines)

    init = {key: value for key, value in json.loads(lines[0]).items() if key != "type"}
    bash = {"id": "t1", "name": "Bash", "input": {"command": "ls -l"}}
    assert shown == [
        ("system", "", init),
        ("system", "", {"event": "message_start"}),
        ("system", "", {"event": "content_block_start"}),
        ("assistant", "Which ", thought),
        ("assistant", "files?", thought),
        ("assistant", "Which files?", {"thinking": True, "repeats_deltas": True}),
        ("assistant", "I look 👀", delta),
        ("assistant", " around.\n", delta),
        ("assistant", "I look 👀 around.", {"repeats_deltas": True}),
        ("assistant", "Not streamed.", None),
        ("tool", 'Bash {"command":"ls -l"}', {"tool_use": bash}),
        ("tool", "Task {}", {"tool_use": {"id": "t2", "name": "Task", "input": {}}}),
        ("tool", "a.py\n[image]", {"tool_result": {"tool_use_id": "t1", "is_error": False}}),
        ("tool", "no such task", {"tool_result": {"tool_use_id": "t2", "is_error": True}}),
        ("user", "Carry on.", None),
        ("assistant", "From below.", below),
        (
            "system",
            '{"type":"redacted_thinking","data":"eA=="}',
            {"event": "assistant", "block": "redacted_thinking", **below},
        ),
        ("system", "", {"event": "message_stop", **below}),
        ("system", lines[15].decode(), {"event": "rate_limit_event"}),
        ("response", "Two files.", result),
    ]
    del result["is_error"], result["permission_denials"]
    assert parser.session_id == "s-1"
    assert parser.verdict == Verdict(True, None, result)


def test_gemini_cli_events_become_the_messages_of_the_mapping() -> None:
    lines = lines_of("gemini_cli")
    parser = PARSERS["gemini-cli"]()

    shown = show(parser, lines)

    init = {"timestamp": "2026-11-22T08:00:00.000Z", "session_id": "g-7", "model": "gemini-test"}
    used = {"tool_name": "run_shell_command", "tool_id": "c-1", "parameters": {"command": "ls"}}
    denied = {"tool_id": "c-2", "status": "error", "error": {"type": "DENIED", "message": "not allowed"}}
    stats = {"status": "success", "stats": {"total_tokens": 55, "tool_calls": 1}}
    assert shown == [
        ("system", "Loaded cached credentials.", {"unparsed": True}),
        ("system", "", init),
        ("user", "Count the files.", None),
        ("assistant", "There ", {"delta": True}),
        ("assistant", "are three.", {"delta": True}),
        ("tool", 'run_shell_command {"command":"ls"}', {"tool_use": used}),
        ("tool", "a\nb\nc", {"tool_result": {"tool_id": "c-1", "status": "success"}}),
        ("tool", "not allowed", {"tool_result": denied}),
        ("error", "Loop detected", {"timestamp": "2026-11-22T08:00:04.000Z", "severity": "warning"}),
        ("assistant", "Done.", None),
        ("response", "", {"timestamp": "2026-11-22T08:00:06.000Z", **stats}),
    ]
    assert parser.session_id == "g-7"
    assert parser.last_error == "Loop detected"
    assert parser.verdict == Verdict(True, None, stats)


def test_codex_events_become_the_messages_of_the_mapping() -> None:
    lines = lines_of("codex")
    parser = PARSERS["codex"]()

    shown = [(kind, content) for kind, content, _ in show(parser, lines)]

    assert shown == [
        ("system", ""),
        ("system", ""),
        ("assistant", "Look first."),
        ("tool", "$ make test"),
        ("tool", "$ make test\n1 failed\nexit code 2"),
        ("tool", "update a.py\ndelete b.py"),
        ("tool", 'tracker.find {"q":1}\nnone'),
        ("tool", "tracker.find\ntimed out"),
        ("tool", "sqlite journal modes"),
        ("tool", "[x] read\n[ ] write"),
        ("system", ""),
        ("assistant", "All is well."),
        ("error", "output was cut"),
        ("system", lines[13].decode()),
        ("error", "stream lost, trying again"),
        ("response", ""),
    ]
    assert parser.session_id == "th-3"
    assert parser.last_error == "stream lost, trying again"
    assert parser.verdict == Verdict(True, None, {"usage": {"input_tokens": 10, "output_tokens": 5}})


def test_codex_metadata_tells_items_and_events_apart_without_repeating_the_content() -> None:
    metadata = [shown[2] for shown in show(PARSERS["codex"](), lines_of("codex"))]

    assert metadata[0] == {"event": "thread.started", "thread_id": "th-3"}
    assert metadata[2] == {
        "event": "item.completed",
        "thinking": True,
        "item": {"id": "i0", "type": "reasoning"},
    }
    assert metadata[4] == {
        "event": "item.completed",
        "item": {
            "id": "i1",
            "type": "command_execution",
            "command": "make test",
            "exit_code": 2,
            "status": "failed",
        },
    }
    assert metadata[13] == {"event": "item.completed"}
    assert metadata[14] == {"event": "error"}
    assert metadata[15] == {"event": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 5}}


def test_jsonl_objects_become_what_they_say_and_anything_else_a_system_message() -> None:
    lines = encode(
        {"content": "plain"},
        {"text": "other name"},
        {"content": "typed", "type": "tool", "role": "bash", "metadata": {"n": 1}},
        {"content": "odd", "type": "shout", "role": "a\nb", "metadata": [1]},
        {"content": 7},
        ["content"],
    )

    drafts = [PARSERS["jsonl"]().parse(line)[0] for line in [*lines, b"no json"]]

    assert [(draft.type, draft.content, draft.role, draft.metadata) for draft in drafts] == [
        ("assistant", "plain", None, None),
        ("assistant", "other name", None, None),
        ("tool", "typed", "bash", {"n": 1}),
        ("assistant", "odd", None, None),
        ("system", '{"content": 7}', None, {"unparsed": True}),
        ("system", '["content"]', None, {"unparsed": True}),
        ("system", "no json", None, {"unparsed": True}),
    ]


def test_text_lines_become_assistant_messages_as_they_are() -> None:
    shown = show(PARSERS["text"](), [b" a\tb ", b"c\r", b'{"content":"x"}', b""])

    assert shown == [
        ("assistant", " a\tb ", None),
        ("assistant", "c", None),
        ("assistant", '{"content":"x"}', None),
        ("assistant", "", None),
    ]


# Verdicts.


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"subtype": "error_max_turns"}, "error_max_turns"),
        ({"subtype": "error_during_execution", "errors": ["a", {"b": 1}]}, 'a; {"b":1}'),
        ({"subtype": "success", "is_error": True, "result": "Credit is low"}, "Credit is low"),
        ({"is_error": "yes"}, "it gave no reason"),
    ],
)
def test_claude_code_says_why_it_failed(event: dict[str, Any], message: str) -> None:
    parser = PARSERS["claude-code"]()

    shown = show(parser, encode({"type": "result", **event}))

    assert parser.verdict is not None
    assert (parser.verdict.ok, parser.verdict.message) == (False, message)
    assert shown[0][:2] == ("response", message)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"status": "error", "error": {"type": "X", "message": "quota"}}, "quota"),
        ({"status": "cancelled"}, 'its status was "cancelled"'),
        ({}, "its status was null"),
    ],
)
def test_gemini_cli_says_why_it_failed(event: dict[str, Any], message: str) -> None:
    parser = PARSERS["gemini-cli"]()

    show(parser, encode({"type": "result", **event}))

    assert parser.verdict is not None
    assert (parser.verdict.ok, parser.verdict.message) == (False, message)


def test_a_codex_turn_that_fails_is_a_bad_verdict_and_a_new_turn_takes_it_back() -> None:
    parser = PARSERS["codex"]()

    shown = show(parser, encode({"type": "turn.failed", "error": {"message": "no npm"}}))
    failed = parser.verdict
    parser.parse(b'{"type":"turn.started"}')

    assert shown[0][:2] == ("error", "no npm")
    assert failed == Verdict(False, "no npm")
    assert parser.verdict is None


def test_the_latest_verdict_and_session_count() -> None:
    parser = PARSERS["claude-code"]()

    show(
        parser,
        encode(
            {"type": "system", "subtype": "init", "session_id": "first"},
            {"type": "result", "subtype": "success"},
            {"type": "system", "subtype": "init", "session_id": "second"},
            {"type": "result", "subtype": "error_max_turns"},
        ),
    )

    assert parser.session_id == "second"
    assert parser.verdict is not None
    assert not parser.verdict.ok


def test_the_kinds_say_whether_they_give_a_verdict_and_echo_the_prompt() -> None:
    facts = {name: (make().gives_verdict, make().echoes_prompt) for name, make in PARSERS.items()}

    assert facts == {
        "claude-code": (True, False),
        "gemini-cli": (True, True),
        "codex": (True, False),
        "jsonl": (False, False),
        "text": (False, False),
    }


# Deltas and their repetition.


def delta(text: str, index: int = 0, parent: str | None = None) -> dict[str, Any]:
    inner = {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}
    return {"type": "stream_event", "event": inner, "parent_tool_use_id": parent}


def whole(text: str, parent: str | None = None) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"type": "assistant", "message": {"content": content}, "parent_tool_use_id": parent}


def start(parent: str | None = None) -> dict[str, Any]:
    return {"type": "stream_event", "event": {"type": "message_start"}, "parent_tool_use_id": parent}


@pytest.mark.parametrize(
    ("events", "repeats"),
    [
        ([delta("ab"), delta("c"), whole("abc")], True),
        ([delta("abc \n"), whole("abc")], True),
        ([delta("ab", 0), delta("cd", 1), whole("cd")], True),
        ([delta("ab"), whole("abc")], False),
        ([delta("abc"), whole("ab")], False),
        ([delta("abc"), whole("")], False),
        ([delta("abc"), start(), whole("abc")], False),
        ([delta("abc", parent="t1"), whole("abc")], False),
        ([delta("abc", parent="t1"), start(), whole("abc", "t1")], True),
    ],
)
def test_a_text_is_marked_only_if_it_came_as_deltas_of_the_same_message(
    events: list[dict[str, Any]], repeats: bool
) -> None:
    metadata = show(PARSERS["claude-code"](), encode(*events))[-1][2]

    assert (metadata or {}).get("repeats_deltas", False) is repeats


def test_remembered_deltas_are_bounded_and_forgotten_with_their_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claude_code, "MAX_REMEMBERED_BYTES", 1000)
    parser = PARSERS["claude-code"]()

    for _ in range(50):
        *_, last = show(parser, encode(start(), *[delta("12345")] * 10, whole("12345" * 10)))
        assert last[2] == {"repeats_deltas": True}
    *_, last = show(parser, encode(start(), *[delta("12345")] * 20, whole("12345" * 20)))

    assert last[2] is None


# What no line can do.


@EVERY_TYPE
def test_every_line_is_kept_byte_for_byte_and_in_order(type: str) -> None:
    lines = [line for name in ("claude_code", "gemini_cli", "codex") for line in lines_of(name)]
    lines += [b"", b"\r", b"plain\r", b"\xff\xfe", b'{"type":"error"}\r', b"{" * 5000]
    parser = PARSERS[type]()

    drafts = [draft for line in lines for draft in parser.parse(line)]

    assert [draft.raw for draft in drafts if draft.raw is not None] == lines


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


STRANGE = [
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
    ("type", "name"), [("claude-code", "claude_code"), ("gemini-cli", "gemini_cli"), ("codex", "codex")]
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
        + b',"f":1,"f":2,"g":18446744073709551615}'
    )

    draft = PARSERS["claude-code"]().parse(line)[0]

    assert draft.metadata == {
        **{"a": "NaN", "b": "-Infinity", "c": "18446744073709551616", "d": "1e999", "\ufffd": "\ufffdx"},
        **{"e": "9" * 5000, "f": 2, "g": 2**64 - 1},
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


@pytest.mark.parametrize(
    ("argv", "type"),
    [
        (["claude", "-p", "x"], "claude-code"),
        (["/opt/bin/gemini"], "gemini-cli"),
        (["./codex", "exec"], "codex"),
        (["my-claude"], "text"),
        (["sh", "-c", "claude"], "text"),
        ([], "text"),
    ],
)
def test_the_type_is_guessed_by_the_base_name(argv: list[str], type: str) -> None:
    assert guess_type(argv) == type
