"""What the programs print, understood: the mapping of every kind, verdicts, and repeated deltas."""

import json
from typing import Any

import pytest

from commitcast.actors.sources.parsers import PARSERS, Parser, Verdict, claude_code, guess_type
from commitcast.actors.sources.verdict import account
from transcripts import encode, lines_of

Shown = tuple[str, str, dict[str, Any] | None]


def show(parser: Parser, lines: list[bytes]) -> list[Shown]:
    drafts = [draft for line in lines for draft in parser.parse(line)]
    return [(draft.type, str(draft.content), draft.metadata) for draft in drafts]


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
    assert parser.verdict is not None and parser.verdict.ok
    assert account(parser) == result


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
    assert parser.verdict is not None and parser.verdict.ok
    assert account(parser) == stats


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
    assert parser.verdict == Verdict(True)
    assert account(parser) == {"usage": {"input_tokens": 10, "output_tokens": 5}}


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
        "amp": (True, True),
        "copilot": (True, True),
        "cursor-agent": (True, True),
        "kimi": (False, False),
        "opencode": (True, False),
        "pi": (True, True),
        "qwen": (True, False),
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


def test_remembered_deltas_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_code, "MAX_REMEMBERED_BYTES", 2_000)
    parser = PARSERS["claude-code"]()

    *_, ascii = show(parser, encode(start(), *[delta("z" * 300)] * 3, whole("z" * 900)))
    *_, wide = show(parser, encode(start(), *[delta("字" * 300)] * 3, whole("字" * 900)))

    assert ascii[2] == {"repeats_deltas": True}
    assert wide[2] is None, "2,700 bytes were remembered"


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
