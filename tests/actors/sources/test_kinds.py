"""Programs beyond the first three: what their events become, how their runs end, and how they are known by shape."""

from pathlib import Path
from typing import Any

import pytest

from command_agent import Agent
from commitcast.actors.sources.command import CommandSource
from commitcast.actors.sources.parsers import PARSERS, is_told_to_print_json
from commitcast.actors.sources.parsers.shapes import kind_of
from commitcast.actors.sources.verdict import decide_ending
from commitcast.persistence.records import AgentStatus
from transcripts import Heard, encode, hear, lines_of

COMPLETED, FAILED = AgentStatus.COMPLETED, AgentStatus.FAILED
KINDS = ["amp", "copilot", "cursor-agent", "kimi", "opencode", "pi", "qwen"]
EVERY_SHAPE = {kind: kind.replace("-", "_") for kind in [*KINDS, "claude-code", "codex", "gemini-cli"]}


def hear_run(kind: str, type: str = "text") -> Heard:
    return hear(lines_of(EVERY_SHAPE[kind]), type)


MAPPING: dict[str, list[tuple[str, str]]] = {
    "amp": [
        ("system", ""),
        ("user", "Count."),
        ("tool", 'Bash {"cmd":"ls"}'),
        ("tool", "a b"),
        ("assistant", "Two."),
        ("response", "Two."),
    ],
    "qwen": [("system", ""), ("assistant", "Two."), ("response", "Two.")],
    "cursor-agent": [
        ("system", ""),
        ("user", "Count."),
        ("assistant", "Look "),
        ("system", ""),
        ("assistant", "I read."),
        ("tool", 'read {"path":"a"}'),
        ("tool", "1\n2"),
        ("tool", "not allowed"),
        ("assistant", "Tw"),
        ("assistant", "o."),
        ("assistant", "Two."),
        ("response", "Two."),
    ],
    "opencode": [
        ("system", ""),
        ("assistant", "Look."),
        ("tool", 'bash {"command":"ls"}\na b'),
        ("tool", 'read {"path":"c"}\nno such file'),
        ("response", ""),
        ("system", ""),
        ("assistant", "Two."),
        ("response", ""),
    ],
    "pi": [
        *[("system", "")] * 3,
        ("user", "Count."),
        ("system", ""),
        ("assistant", "Look."),
        ("system", ""),
        ("assistant", "Look."),
        ("tool", 'bash {"command":"ls"}'),
        ("system", ""),
        ("tool", "a b"),
        *[("system", "")] * 2,
        ("assistant", "Two."),
        ("system", "[image]"),
        ("response", ""),
    ],
    "copilot": [
        ("system", ""),
        ("user", "Count."),
        ("system", ""),
        ("assistant", "Look."),
        ("system", ""),
        ("tool", 'bash {"command":"ls"}'),
        ("tool", "a b"),
        ("tool", "denied"),
        ("assistant", "Two."),
        ("assistant", "Two."),
        ("response", ""),
    ],
    "kimi": [
        ("assistant", "Look."),
        ("assistant", "I look."),
        ("tool", 'Shell {"command":"ls"}'),
        ("tool", "a b"),
        ("assistant", "Two."),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_events_become_the_messages_of_the_mapping(kind: str) -> None:
    heard = hear_run(kind, kind)

    assert heard.shown == MAPPING[kind]
    assert heard.raw == lines_of(EVERY_SHAPE[kind])
    assert heard.ending.status is COMPLETED


@pytest.mark.parametrize("kind", ["cursor-agent", "copilot", "pi"])
def test_a_text_that_came_in_parts_is_marked_when_it_comes_whole(kind: str) -> None:
    marks = [draft.metadata or {} for draft in hear_run(kind, kind).drafts if draft.type == "assistant"]

    assert any(mark.get("delta") for mark in marks)
    assert sum(mark.get("repeats_deltas", False) for mark in marks) == 1


@pytest.mark.parametrize(
    ("kind", "session", "result"),
    [
        ("amp", "T-1", {"usage": {"input_tokens": 30, "output_tokens": 5}, "duration_ms": 900, "num_turns": 2}),
        ("qwen", "q-1", {"usage": {"input_tokens": 20, "output_tokens": 3}, "duration_ms": 900, "num_turns": 1}),
        ("cursor-agent", "c-1", {"duration_ms": 900}),
        ("opencode", "ses_1", {"usage": {"input": 30, "output": 5, "cache": {"read": 5}}, "cost": 0.75}),
        ("pi", "pi-1", {"usage": {"input": 30, "output": 5, "cost": {"total": 0.75}}}),
        ("copilot", "co-1", {"usage": {"output_tokens": 5, "premiumRequests": 1}}),
        ("kimi", None, {}),
    ],
)
def test_the_session_and_what_was_used_over_all_turns_are_known(
    kind: str, session: str | None, result: dict[str, Any]
) -> None:
    heard = hear_run(kind, kind)

    assert heard.parser.session_id == session
    assert heard.parser.result == result
    assert heard.ending.result is not None
    assert result.items() <= heard.ending.result.items()


# Its own error.


def opencode(type: str, **part: Any) -> dict[str, Any]:
    return {"type": type, "sessionID": "s", "part": part}


def pi_end(reason: str, error: str | None = None) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": [], "stopReason": reason, "errorMessage": error}
    return [{"type": "message_end", "message": message}, {"type": "agent_end", "messages": [message]}]


def copilot(type: str, **data: Any) -> dict[str, Any]:
    return {"type": type, "timestamp": "t", "data": data}


CLAUDE_LIKE_INIT = {"type": "system", "subtype": "init", "session_id": "s"}
COPILOT_RESULT = {"type": "result", "sessionId": "s", "exitCode": 0}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "k", "function": {"name": "f", "arguments": "{}"}}]}

ERRORS: dict[str, tuple[str, list[Any], str]] = {
    "amp says an error with an empty result": (
        "amp",
        [
            {**CLAUDE_LIKE_INIT, "session_id": "T-1"},
            {
                "type": "result",
                "subtype": "error",
                "is_error": True,
                "result": "",
                "error": "no key",
                "session_id": "T-1",
            },
        ],
        "no key",
    ),
    "qwen says an error as an object": (
        "qwen",
        [
            {**CLAUDE_LIKE_INIT, "uuid": "u"},
            {
                "type": "result",
                "subtype": "error_during_execution",
                "is_error": True,
                "error": {"message": "quota"},
                "uuid": "u",
            },
        ],
        "quota",
    ),
    "cursor says an error in its result": (
        "cursor-agent",
        [
            CLAUDE_LIKE_INIT,
            {"type": "result", "subtype": "error", "is_error": True, "result": "no model", "session_id": "s"},
        ],
        "no model",
    ),
    "cursor ends in the middle": (
        "cursor-agent",
        [CLAUDE_LIKE_INIT, {"type": "assistant", "message": {"content": []}, "session_id": "s"}],
        "did not report",
    ),
    "opencode says an error": (
        "opencode",
        [
            opencode("step_start"),
            {"type": "error", "sessionID": "s", "error": {"name": "APIError", "data": {"message": "too many"}}},
        ],
        "too many",
    ),
    "opencode says only which error it is": (
        "opencode",
        [{"type": "error", "sessionID": "s", "error": {"name": "MessageAbortedError", "data": {}}}],
        "MessageAbortedError",
    ),
    "opencode is cut off before it has said anything": (
        "opencode",
        [opencode("step_start"), opencode("step_finish", reason="length")],
        "'length', and it had printed no answer",
    ),
    "opencode ends behind a tool": (
        "opencode",
        [opencode("step_start"), opencode("tool_use", tool="x")],
        "did not report",
    ),
    "pi ends with an error": ("pi", [{"type": "agent_start"}, *pi_end("error", "upstream")], "upstream"),
    "pi was aborted": ("pi", [{"type": "agent_start"}, *pi_end("aborted")], "ended with 'aborted'"),
    "pi gives up trying again": (
        "pi",
        [
            {"type": "agent_start"},
            *pi_end("error", "busy"),
            {"type": "auto_retry_start", "attempt": 1, "errorMessage": "busy"},
            {"type": "auto_retry_end", "success": False, "finalError": "still busy"},
        ],
        "still busy",
    ),
    "pi begins another turn and ends": (
        "pi",
        [{"type": "agent_start"}, *pi_end("stop"), {"type": "turn_start"}],
        "did not report",
    ),
    "copilot says an error and exit code 0": (
        "copilot",
        [copilot("session.start"), copilot("session.error", message="no quota"), COPILOT_RESULT],
        "no quota",
    ),
    "copilot says an error after its result": (
        "copilot",
        [COPILOT_RESULT, copilot("session.error", message="lost")],
        "lost",
    ),
    "copilot says nothing but white space after an error": (
        "copilot",
        [
            copilot("session.start"),
            copilot("session.error", message="no quota"),
            copilot("assistant.message", content=" \n"),
            COPILOT_RESULT,
        ],
        "no quota",
    ),
    "opencode ends a tool and its step after an error": (
        "opencode",
        [
            opencode("step_start"),
            {"type": "error", "sessionID": "s", "error": "too many"},
            opencode("tool_use", tool="x"),
            opencode("step_finish", reason="stop"),
        ],
        "too many",
    ),
    "copilot's result is an exit code": ("copilot", [{**COPILOT_RESULT, "exitCode": 3}], "exit code 3"),
    "copilot ends before its result": (
        "copilot",
        [copilot("session.start"), copilot("assistant.turn_start")],
        "did not report",
    ),
}


@pytest.mark.parametrize("by", ["name", "shape"])
@pytest.mark.parametrize("case", ERRORS)
def test_its_own_error_is_never_completed(case: str, by: str) -> None:
    kind, events, message = ERRORS[case]

    ending = hear(encode(*events), kind if by == "name" else "text").ending

    assert ending.status is FAILED
    assert message in str(ending.error_message)


GOOD: dict[str, tuple[str, list[Any]]] = {
    "opencode goes on after an error": (
        "opencode",
        [
            opencode("step_start"),
            {"type": "error", "sessionID": "s", "error": "x"},
            opencode("step_start"),
            opencode("text", text="a"),
            opencode("step_finish", reason="stop"),
        ],
    ),
    "opencode ends with a text and no end of its step": (
        "opencode",
        [opencode("step_start"), opencode("text", text="a")],
    ),
    "opencode says that it is done": ("opencode", [opencode("step_start"), {"type": "done", "sessionID": "s"}]),
    "pi succeeds when it tries again": (
        "pi",
        [{"type": "agent_start"}, *pi_end("error", "busy"), {"type": "agent_start"}, *pi_end("stop")],
    ),
    "copilot goes on after an error": (
        "copilot",
        [
            copilot("session.start"),
            copilot("session.error", message="a hitch"),
            copilot("assistant.message", content="done"),
            COPILOT_RESULT,
        ],
    ),
    "copilot's sub-agent has an error": (
        "copilot",
        [
            copilot("session.start"),
            copilot("session.error", message="below", parentToolCallId="k0"),
            COPILOT_RESULT,
        ],
    ),
}


NESTED: dict[str, tuple[str, list[Any]]] = {
    "opencode": (
        "opencode",
        [
            opencode("step_start"),
            opencode("text", text="a"),
            opencode("step_finish", reason="stop"),
            {"type": "error", "sessionID": "sub", "error": "no"},
            {**opencode("step_start"), "sessionID": "sub"},
        ],
    ),
    "copilot by its parent": (
        "copilot",
        [
            copilot("session.start", sessionId="s"),
            COPILOT_RESULT,
            {"type": "result", "sessionId": "sub", "exitCode": 1, "parentToolCallId": "k"},
            copilot("assistant.turn_start", parentToolCallId="k"),
        ],
    ),
    "copilot by its session": (
        "copilot",
        [
            copilot("session.start", sessionId="s"),
            COPILOT_RESULT,
            copilot("session.start", sessionId="sub"),
            {"type": "result", "sessionId": "sub", "exitCode": 1},
        ],
    ),
    "codex": (
        "codex",
        [
            {"type": "thread.started", "thread_id": "s"},
            {"type": "thread.started", "thread_id": "sub"},
            {"type": "turn.completed", "usage": {}},
        ],
    ),
}


@pytest.mark.parametrize("by", ["name", "shape"])
@pytest.mark.parametrize("case", NESTED)
def test_a_nested_agent_sets_neither_session_nor_verdict(case: str, by: str) -> None:
    kind, events = NESTED[case]

    heard = hear(encode(*events), kind if by == "name" else "text")

    assert (heard.ending.status, heard.parser.session_id) == (COMPLETED, "s")


def test_what_a_nested_agent_used_is_counted() -> None:
    step = opencode("step_finish", reason="stop", cost=0.5)

    heard = hear(encode(opencode("step_start"), step, {**step, "sessionID": "sub"}), "opencode")

    assert heard.parser.result == {"cost": 1.0}


@pytest.mark.parametrize("by", ["name", "shape"])
@pytest.mark.parametrize("case", GOOD)
def test_an_error_that_did_not_last_is_not_held_against_it(case: str, by: str) -> None:
    kind, events = GOOD[case]

    assert hear(encode(*events), kind if by == "name" else "text").ending.status is COMPLETED


@pytest.mark.parametrize("more", [[], [{"role": "tool", "tool_call_id": "k", "content": "a"}]])
def test_kimi_that_stops_behind_a_tool_has_given_no_answer(more: list[Any]) -> None:
    ending = hear([*encode(CALL, *more), b"Max number of steps reached: 3"], "kimi").ending

    assert ending.error_name == "VerdictMissingError"
    assert "Max number of steps" in str(ending.error_message)


def test_kimi_says_by_its_exit_code_and_as_text_why_it_failed() -> None:
    lines = [*lines_of("kimi")[:2], b"LLM provider error: 429"]

    ending = hear(lines, "kimi", exit_code=75).ending

    assert ending.error_message == (
        "x ended with exit code 75: a temporary error of its provider; try again; it printed: LLM provider error: 429"
    )


# Known by shape.


@pytest.mark.parametrize("kind", EVERY_SHAPE)
@pytest.mark.parametrize("before", [[], [b"npm notice", b"\x1b[1mWelcome\x1b[0m"]], ids=["at once", "behind a banner"])
def test_a_program_of_unknown_name_is_read_by_what_it_prints(kind: str, before: list[bytes]) -> None:
    named = hear_run(kind, kind)

    guessed = hear([*before, *lines_of(EVERY_SHAPE[kind])])

    assert isinstance(guessed.parser, type(PARSERS["claude-code" if kind == "qwen" else kind]()))
    assert guessed.shown[-3:] == named.shown[-3:]
    assert guessed.ending == named.ending


@pytest.mark.parametrize("kind", [kind for kind in EVERY_SHAPE if kind not in ("kimi", "opencode")])
def test_a_run_whose_beginning_was_seen_needs_its_end(kind: str) -> None:
    ending = hear(lines_of(EVERY_SHAPE[kind])[:2]).ending

    assert ending.status is FAILED
    assert ending.error_name == "VerdictMissingError"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "result", "is_error": True, "subtype": "error", "uuid": "u"}, "claude-code"),
        ({"type": "assistant", "message": {"content": []}, "session_id": "s", "uuid": "u"}, "claude-code"),
        ({"type": "stream_event", "event": {"type": "message_start"}}, "cursor-agent"),
        ({"type": "result", "is_error": False, "session_id": "T-1"}, "amp"),
        ({"type": "thread.started", "thread_id": "t"}, "codex"),
        ({"type": "turn.failed", "error": {"message": "x"}}, "codex"),
        ({"type": "item.completed", "item": {"type": "reasoning"}}, "codex"),
        ({"type": "result", "status": "error", "error": {"message": "x"}, "timestamp": "t"}, "gemini-cli"),
        ({"type": "message", "role": "user", "content": "x", "timestamp": "t"}, "gemini-cli"),
        ({"type": "error", "severity": "error", "message": "x", "timestamp": "t"}, "gemini-cli"),
        ({"response": None, "stats": {}, "error": {"message": "x"}}, "gemini-cli"),
        ({"session_id": "g", "error": {"type": "E", "message": "x"}}, "gemini-cli"),
        ({"stats": {}, "error": {"message": "x"}}, "gemini-cli"),
        ({"type": "error", "sessionID": "s", "error": "x"}, "opencode"),
        ({"type": "agent_end", "messages": []}, "pi"),
        ({"type": "message_end", "message": {"role": "assistant"}}, "pi"),
        ({"type": "session.error", "timestamp": "t", "data": {"message": "x"}}, "copilot"),
        ({"type": "result", "sessionId": "s", "exitCode": 1}, "copilot"),
        ({"role": "tool", "tool_call_id": "k", "content": "x"}, "kimi"),
        ({"role": "user", "content": "x"}, None),
        ({"type": "thread.started"}, None),
        ({"type": "item.completed", "item": 1}, None),
        ({"type": "session.error", "data": {}}, None),
        ({"type": "tool.done", "timestamp": "t", "data": {}}, None),
        ({"type": "result", "status": "ok", "stats": {}, "timestamp": "t"}, None),
        ({"type": "error", "severity": "low", "message": "x", "timestamp": "t"}, None),
        ({"type": "agent_start", "agent": 1}, None),
        ({"type": []}, None),
    ],
)
def test_a_single_event_tells_the_program(event: dict[str, Any], kind: str | None) -> None:
    assert kind_of(event) == kind


def test_a_piece_of_a_run_that_somebody_shows_needs_no_end() -> None:
    heard = hear(lines_of("claude_code")[9:11])

    assert heard.ending.status is COMPLETED


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"error","message":"x"}',
        b'{"type":"result","value":1}',
        b'{"type":"message","text":"x"}',
        b'{"level":"info","msg":"started"}',
        b'{"role":"assistant"}',
        b'{"content":"x"}',
        b"[1,2]",
        b"{}",
        b'the log said {"type":"turn.completed","usage":{}} at the end',
    ],
)
def test_json_of_another_purpose_stays_text(line: bytes) -> None:
    heard = hear([line])

    assert heard.shown == [("assistant", line.decode())]
    assert heard.ending.status is COMPLETED


COMMON: dict[str, list[dict[str, Any]]] = {
    "a summary": [{"type": "result", "status": "ok", "stats": {"files": 3}}],
    "a summary of failures": [{"type": "result", "status": "failed", "error": {"message": "x"}, "timestamp": "t"}],
    "a linter": [{"type": "error", "severity": "error", "message": "unused variable", "timestamp": "t"}] * 2,
    "a linter and its summary": [
        {"type": "error", "severity": "warning", "message": "unused", "timestamp": "t"},
        {"type": "result", "status": "ok", "stats": {"files": 3}, "timestamp": "t"},
    ],
    "a chat log": [
        {"type": "message", "role": "user", "content": "hi", "timestamp": "t"},
        {"type": "error", "message": "not delivered, sent again"},
    ],
    "a server": [{"type": "session.error", "data": {"message": "retrying"}, "timestamp": "t"}],
    "a game": [{"type": "turn.started"}, {"type": "error", "message": "no such move"}],
    "tools": [{"type": "tool.done", "data": {}, "timestamp": "t"}],
}


@pytest.mark.parametrize("case", COMMON)
def test_what_only_resembles_an_error_is_not_held_against_a_program_of_unknown_name(case: str) -> None:
    heard = hear([*encode(*COMMON[case]), b"done"])

    assert heard.ending.status is COMPLETED
    assert heard.shown[-1] == ("assistant", "done")


def test_a_common_event_counts_once_the_program_is_plain() -> None:
    error = {"type": "error", "severity": "error", "message": "too many turns", "timestamp": "t"}
    result = {"type": "result", "status": "success", "stats": {"output_tokens": 1}, "timestamp": "t"}

    assert "too many turns" in str(hear(encode(error, result)).ending.error_message)


BAD_RESULT = b'{"type":"result","subtype":"success","is_error":true,"session_id":"s","result":"overloaded"}'


@pytest.mark.parametrize("prefix", [b"agent-1  | ", b"data: ", b"[12:00:01] ", b"\x1b[2mINFO\x1b[0m out: ", b"{} "])
def test_an_event_behind_a_banner_tells_the_program(prefix: bytes) -> None:
    heard = hear([b"Starting.", prefix + BAD_RESULT])

    assert "overloaded" in str(heard.ending.error_message)
    assert heard.raw == [b"Starting.", prefix + BAD_RESULT]


def test_an_event_over_several_lines_that_begins_behind_a_banner_is_believed() -> None:
    lines = BAD_RESULT.replace(b",", b",\n").split(b"\n")

    assert "overloaded" in str(hear([b"Result: " + lines[0], *lines[1:]]).ending.error_message)


def test_an_object_over_several_lines_is_shown_as_text_and_believed() -> None:
    lines = b'{\n  "type": "result",\n  "subtype": "success",\n  "is_error": true,\n  "result": "overloaded"\n}'.split(
        b"\n"
    )

    heard = hear(lines)

    assert [content for _, content in heard.shown] == [line.decode() for line in lines]
    assert "overloaded" in str(heard.ending.error_message)


# With and without the option that makes them print events.


@pytest.mark.parametrize(
    ("argv", "is_told"),
    [
        (["claude", "-p", "x", "--output-format", "stream-json"], True),
        (["claude", "-p", "--output-format=json"], True),
        (["codex", "exec", "--json", "x"], True),
        (["codex", "exec", "--experimental-json"], True),
        (["amp", "-x", "hi", "--stream-json"], True),
        (["opencode", "run", "--format", "json"], True),
        (["pi", "--mode", "json"], True),
        (["gemini", "-o", "json"], True),
        (["sh", "-c", "claude --output-format stream-json -p hi"], True),
        (["sh", "-c", "claude --output-format 'json' -p hi"], True),
        (["claude", "-p", "write json"], False),
        (["claude", "-p", "--output-format", "text"], False),
        (["codex", "exec", "parse --jsonlines"], False),
        (["env", "A=1", "bash", "-lc", "cd /x && gemini -o json; echo"], True),
        (["sh", "-c", "(codex exec --json)"], True),
        (["sh", "-c", "bash -c 'pi --mode json'"], True),
        (["sh", "-c", 'pi --mode json -p "what'], True),
        (["opencode", "run", "explain what --format json does"], False),
        (["pi", "-p", "convert the tool to --json"], False),
        (["pi", "-p", "convert\n--json\n"], False),
        (["claude", "-p", "what does --json do"], False),
        (["sh", "-c", "claude -p 'what does --output-format json do'"], False),
        (["sh", "-c", "claude -p 'run sh -c x --json'"], False),
        (["codex", "-c", "explain --json", "exec"], False),
        (["python3", "-c", "print('--json')"], False),
        (["claude", "-p", "--output-format", "json is what I want"], False),
        (["claude"], False),
    ],
)
def test_the_option_for_json_is_known_in_its_forms(argv: list[str], is_told: bool) -> None:
    assert is_told_to_print_json(argv) is is_told


@pytest.mark.parametrize(
    ("type", "option"),
    [
        ("claude-code", "--output-format stream-json --verbose"),
        ("gemini-cli", "--output-format stream-json"),
        ("codex", "exec --json"),
    ],
)
def test_a_known_program_without_its_option_is_told_which(type: str, option: str) -> None:
    parser = hear([b"The answer is 42."], type, argv=("x",)).parser

    ending = decide_ending("x", 0, parser, "", option)

    assert ending.error_message == (
        f"x ended with exit code 0 but did not report whether it had succeeded; run it with {option}, "
        "so that its events can be read"
    )


def test_a_prompt_that_speaks_of_the_option_does_not_make_plain_text_a_failure(agent: Agent, tmp_path: Path) -> None:
    for name in ("opencode", "claude"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'The answer is 42.'\n")
        (tmp_path / name).chmod(0o700)

    plain = agent.run(CommandSource([f"{tmp_path}/opencode", "run", "explain what --format json does"]))
    told = Agent().run(CommandSource([f"{tmp_path}/claude", "-p", "what does --json do"]))

    assert plain.status is COMPLETED
    assert "run it with --output-format stream-json" in str(told.error_message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_may_print_text_is_believed_by_its_exit_code_then(kind: str) -> None:
    good = hear([b"The answer is 42."], kind, argv=(kind,))
    bad = hear([b"The answer is 42."], kind, argv=(kind,), exit_code=1)

    assert (good.shown, good.ending.status) == ([("assistant", "The answer is 42.")], COMPLETED)
    assert bad.ending.status is FAILED


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_prints_events_without_being_told_is_read_all_the_same(kind: str) -> None:
    heard = hear(lines_of(EVERY_SHAPE[kind]), kind, argv=(kind,))

    assert heard.shown == MAPPING[kind]


def test_every_type_and_its_option_are_documented() -> None:
    written = (Path(__file__).parents[3] / "docs" / "programs.md").read_text("utf-8")

    for type, make in PARSERS.items():
        assert f"| `{type}` |" in written
        assert (make().json_option or "") in written


@pytest.mark.parametrize("kind", ["amp", "gemini", "cursor-agent"])
def test_only_a_program_that_prints_events_echoes_the_prompt(kind: str) -> None:
    assert CommandSource([kind, "--output-format", "stream-json"]).echoes_prompt
    assert not CommandSource([kind]).echoes_prompt
