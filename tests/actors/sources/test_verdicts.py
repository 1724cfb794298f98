"""A verdict is kept only while it holds: turns, notifications, sub-agents, late errors; with it, usage and reasons."""

import json
from typing import Any

import pytest

from commitcast.actors.sources.parsers import PARSERS, first_parser
from commitcast.actors.sources.parsers.events import add_up, reason_in
from commitcast.actors.sources.verdict import decide_ending
from commitcast.persistence.records import AgentStatus
from transcripts import encode, hear

MISSING = "did not report whether it had succeeded"


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "assistant", "message": {"content": [{"type": "text", "text": said}]}, **more}


def result(**more: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "session_id": "main", **more}


def below(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "parent_tool_use_id": "t1"}


def asked(kind: str) -> dict[str, Any]:
    return {"type": "user", "message": {"content": "Go."}, "origin": {"kind": kind}}


INIT = {"type": "system", "subtype": "init", "session_id": "main"}
NOTE = {"type": "system", "subtype": "task_notification", "task_id": "t"}
GOOD = result(result="Done.")
BAD = result(is_error=True, result="overloaded")
OF_NOTE = {"origin": {"kind": "task-notification"}}

CLAUDE: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "a turn that begins takes the verdict back": ([INIT, text("a"), GOOD, INIT, text("b")], MISSING),
    "a message without an init begins a turn": ([INIT, text("a"), GOOD, text("b")], MISSING),
    "a delta begins a turn": (
        [INIT, GOOD, {"type": "stream_event", "event": {"type": "message_start"}}],
        MISSING,
    ),
    "a turn that only began is no success": ([INIT, GOOD, INIT], MISSING),
    "the last turn of the user counts": ([INIT, BAD, INIT, text("b"), GOOD], None),
    "a bad last turn of the user counts": ([INIT, GOOD, INIT, text("b"), BAD], "overloaded"),
    "a notification's good turn mends nothing": ([INIT, BAD, NOTE, INIT, text("n"), result(**OF_NOTE)], "overloaded"),
    "a notification's turn that does not say so mends nothing": (
        [INIT, BAD, NOTE, INIT, text("n"), GOOD],
        "overloaded",
    ),
    "a notification's bad turn spoils nothing": (
        [INIT, text("a"), GOOD, NOTE, INIT, text("n"), {**BAD, **OF_NOTE}],
        None,
    ),
    "a notification's turn that is cut off spoils nothing": ([INIT, text("a"), GOOD, NOTE, INIT, text("n")], None),
    "a timer's turn is known by its first message": (
        [INIT, BAD, INIT, asked("timer"), text("n"), result(origin={"kind": "timer"})],
        "overloaded",
    ),
    "the user's turn behind a notification's counts": (
        [INIT, BAD, NOTE, INIT, text("n"), result(**OF_NOTE), INIT, asked("human"), text("b"), GOOD],
        None,
    ),
    "a notification during the user's turn changes nothing": ([INIT, text("a"), NOTE, text("b"), BAD], "overloaded"),
    "a sub-agent's result is not the run's": ([INIT, text("a"), GOOD, below(BAD)], None),
    "a sub-agent's good result is no verdict": ([INIT, below(text("a")), below(GOOD)], MISSING),
    "a sub-agent that speaks after the result begins no turn": ([INIT, GOOD, below(text("late")), below(INIT)], None),
    "a notification's turn is no verdict for the user's that was cut off": (
        [INIT, text("a"), NOTE, INIT, text("n"), result(**OF_NOTE)],
        MISSING,
    ),
    "a turn behind a notification's that was cut off is the user's": (
        [INIT, text("a"), GOOD, NOTE, INIT, text("n"), INIT, text("b")],
        MISSING,
    ),
    "each of several notifications begins a turn": (
        [INIT, BAD, NOTE, NOTE, INIT, text("n"), GOOD, INIT, text("n"), GOOD],
        "overloaded",
    ),
    "the last of several notifications' turns that is cut off spoils nothing": (
        [INIT, text("a"), GOOD, NOTE, NOTE, INIT, text("n"), GOOD, INIT, text("n")],
        None,
    ),
    "a notification during the user's turn begins the next one": (
        [INIT, text("a"), NOTE, text("b"), BAD, INIT, text("n"), GOOD],
        "overloaded",
    ),
    "a notification's turn that is announced twice is one": (
        [INIT, text("a"), GOOD, NOTE, INIT, INIT, text("n"), {**BAD, **OF_NOTE}, INIT, text("b"), BAD],
        "overloaded",
    ),
    "the user's turn comes before a notification's": (
        [INIT, text("a"), GOOD, NOTE, INIT, asked("human"), text("b"), BAD, INIT, text("n"), GOOD],
        "overloaded",
    ),
    "the user's result comes before a notification's": (
        [INIT, text("a"), GOOD, NOTE, INIT, text("b"), {**BAD, "origin": {"kind": "human"}}, INIT, text("n"), GOOD],
        "overloaded",
    ),
    "what the CLI says again of the user begins no turn": (
        [INIT, text("a"), GOOD, {"type": "user", "message": {"content": "Go."}, "isReplay": True}],
        None,
    ),
    "a sign of life begins no turn": (
        [INIT, text("a"), GOOD, {"type": "stream_event", "event": {"type": "ping"}}],
        None,
    ),
    "a run of notifications only has their verdict": ([INIT, text("n"), result(**OF_NOTE)], None),
}


@pytest.mark.parametrize("case", CLAUDE)
def test_a_verdict_of_claude_code_holds_for_the_users_last_turn(case: str) -> None:
    events, message = CLAUDE[case]

    ending = hear(encode(*events), "claude-code").ending

    assert ending.status is (AgentStatus.COMPLETED if message is None else AgentStatus.FAILED)
    assert message is None or message in str(ending.error_message)


def test_a_sub_agent_does_not_set_the_session() -> None:
    heard = hear(
        encode(INIT, below({**INIT, "session_id": "sub"}), below(result(session_id="sub")), GOOD), "claude-code"
    )

    assert heard.parser.session_id == "main"


def codex(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


CODEX: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "a turn that begins takes the verdict back": (
        [codex("turn.started"), codex("turn.completed", usage={}), codex("turn.started")],
        MISSING,
    ),
    "an error that it got over is none": (
        [codex("turn.started"), codex("error", message="again 1/5"), codex("turn.completed", usage={})],
        None,
    ),
    "an error behind the verdict replaces it": (
        [codex("turn.started"), codex("turn.completed", usage={}), codex("error", message="stream closed")],
        "stream closed",
    ),
    "another thread's failure is not the run's": (
        [
            codex("thread.started", thread_id="main"),
            codex("turn.completed", usage={}, thread_id="main"),
            codex("thread.started", thread_id="sub"),
            codex("turn.failed", error="no", thread_id="sub"),
        ],
        None,
    ),
    "an error with no turn is why it never said": ([codex("error", message="no key")], "no key"),
    "a failure without a reason has the last error's": (
        [codex("error", message="no key"), codex("turn.failed")],
        "no key",
    ),
}


@pytest.mark.parametrize("case", CODEX)
def test_a_verdict_of_codex_holds_for_the_last_turn(case: str) -> None:
    events, message = CODEX[case]

    ending = hear(encode(*events), "codex").ending

    assert ending.status is (AgentStatus.COMPLETED if message is None else AgentStatus.FAILED)
    assert message is None or message in str(ending.error_message)


def gemini(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


GEMINI_INIT = gemini("init", session_id="g", model="m")
SAID = gemini("message", role="assistant", content="ok", delta=True)
GEMINI_ERROR = gemini("error", severity="error", message="too many turns")
SUCCESS = gemini("result", status="success", stats={"output_tokens": 1})

GEMINI: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "an error that nothing follows but the result": ([GEMINI_INIT, SAID, GEMINI_ERROR, SUCCESS], "too many turns"),
    "an error without a severity": ([GEMINI_INIT, gemini("error", message="bad key"), SUCCESS], "bad key"),
    "an error and no result": ([GEMINI_INIT, GEMINI_ERROR], "too many turns"),
    "an error after the result": ([GEMINI_INIT, SAID, SUCCESS, GEMINI_ERROR], "too many turns"),
    "an error that work followed": ([GEMINI_INIT, GEMINI_ERROR, SAID, SUCCESS], None),
    "an error that a tool followed": ([GEMINI_INIT, GEMINI_ERROR, gemini("tool_use", tool_name="x"), SUCCESS], None),
    "an error that only white space followed": (
        [GEMINI_INIT, GEMINI_ERROR, {**SAID, "content": "\n "}, SUCCESS],
        "many",
    ),
    "an error during a tool call": (
        [GEMINI_INIT, gemini("tool_use", tool_name="x"), GEMINI_ERROR, gemini("tool_result"), SUCCESS],
        "too many turns",
    ),
    "a tool's late answer": ([GEMINI_INIT, SAID, SUCCESS, gemini("tool_result", output="x")], None),
    "the end of another session": ([GEMINI_INIT, SAID, SUCCESS, {**GEMINI_ERROR, "session_id": "sub"}], None),
    "a warning": ([GEMINI_INIT, SAID, {**GEMINI_ERROR, "severity": "warning"}, SUCCESS], None),
    "work after the result": ([GEMINI_INIT, SAID, SUCCESS, SAID], MISSING),
    "success, and nothing said or done": (
        [GEMINI_INIT, gemini("result", status="success", stats={"output_tokens": 0})],
        "had no output",
    ),
    "one object for a whole run": ([{"response": "ok", "stats": {}}], None),
    "one object with a session and an error": (
        [{"session_id": "g", "error": {"type": "E", "message": "quota"}}],
        "quota",
    ),
    "one object with an error": ([{"stats": {}, "error": {"type": "E", "message": "quota", "code": 1}}], "quota"),
}


@pytest.mark.parametrize("case", GEMINI)
def test_a_verdict_of_gemini_cli_is_not_better_than_its_last_error(case: str) -> None:
    events, message = GEMINI[case]

    ending = hear(encode(*events), "gemini-cli").ending

    assert ending.status is (AgentStatus.COMPLETED if message is None else AgentStatus.FAILED)
    assert message is None or message in str(ending.error_message)


# Why.


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"error": "no key"}, "no key"),
        ({"error": {"message": "no key"}}, "no key"),
        ({"error": {"error": {"message": "no key"}}}, "no key"),
        ({"error": {"name": "E", "data": {"message": "no key"}}}, "no key"),
        ({"errors": ["a", {"message": "b"}]}, "a; b"),
        ({"result": "no key"}, "no key"),
        ({"api_error_status": 529}, "API error 529"),
        ({"subtype": "error_max_turns"}, "error_max_turns"),
        ({"terminal_reason": "aborted"}, "aborted"),
        ({}, "it gave no reason"),
    ],
)
def test_the_reason_is_found_where_claude_code_and_its_like_put_it(event: dict[str, Any], reason: str) -> None:
    events = encode(INIT, {"type": "result", "subtype": "success", "is_error": True, **event})

    assert hear(events, "claude-code").ending.error_message == f"x reported an error: {reason}"


def test_a_message_with_an_error_is_why_a_turn_failed_that_does_not_say() -> None:
    events = [INIT, text("Invalid API key", error="authentication_failed"), result(is_error=True, subtype="error")]

    assert hear(encode(*events), "claude-code").ending.error_message == "x reported an error: error: Invalid API key"


def test_text_behind_the_last_event_is_why_a_run_was_cut_off() -> None:
    lines = [*encode(INIT, text("a")), b"\x1b[31mFatal: out of memory\x1b[0m", b"]"]

    message = hear(lines, "claude-code", exit_code=7).ending.error_message

    assert message == "x ended with exit code 7; it printed: Fatal: out of memory"


@pytest.mark.parametrize("type", ["text", "kimi", "pi", "claude-code", "jsonl"])
def test_plain_text_is_why_a_program_failed_that_prints_nothing_else(type: str) -> None:
    heard = hear([b"Loading.", b"LLM provider error: 401 unauthorized"], type, argv=(type,), exit_code=1)

    message = str(heard.ending.error_message)

    assert "x ended with exit code 1; it printed: Loading.\nLLM provider error: 401 unauthorized" in message


def test_what_a_program_says_on_standard_error_is_why_rather_than_its_output() -> None:
    heard = hear([b"Loading."], exit_code=1)

    assert decide_ending("x", 1, heard.parser, "no key").error_message == "x ended with exit code 1\nno key"


def test_pieces_of_a_line_are_put_together_to_a_reason() -> None:
    parser = first_parser("text", ["x"], is_guess=True)
    parser.feed_piece(b"10%", continues=True)
    parser.feed_piece(b"\r20%", continues=True, overwrites=True)
    parser.feed_piece(b" no ", continues=True)
    parser.feed_piece(b"space", continues=False)

    assert parser.last_text == "10%\n20% no space"


def test_of_a_long_text_the_end_is_the_reason() -> None:
    parser = hear([b"x" * 5_000, b"no space"]).parser

    assert str(parser.last_text).endswith("xx\nno space")
    assert len(str(parser.last_text)) < 1_001


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, None),
        ("", None),
        ({}, None),
        ([], None),
        (5, None),
        (" x ", "x"),
        ({"code": 5}, '{"code":5}'),
        ({"code": "E5"}, "E5"),
        ([{"reason": "a"}, "b", None], "a; b"),
    ],
)
def test_a_reason_is_text_that_says_something(value: Any, reason: str | None) -> None:
    assert reason_in(value) == reason


def test_an_endless_nesting_of_errors_is_shown_as_it_is() -> None:
    value: Any = "deep"
    for _ in range(50):
        value = {"error": value}

    assert "deep" in str(reason_in(value))


# What was used.


@pytest.mark.parametrize("last", [[GOOD], [BAD], []], ids=["good", "bad", "cut off"])
def test_usage_is_summed_over_turns_and_kept_however_the_run_ends(last: list[Any]) -> None:
    turn = result(usage={"output_tokens": 5, "tier": "x"}, num_turns=1, duration_ms=10, total_cost_usd=0.5)
    second = {**turn, "total_cost_usd": 0.75}

    ending = hear(encode(INIT, turn, INIT, second, INIT, text("a"), *last), "claude-code").ending

    assert ending.result is not None
    assert ending.result["usage"] == {"output_tokens": 10, "tier": "x"}
    assert (ending.result["num_turns"], ending.result["duration_ms"]) == (2, 20)
    assert ending.result["total_cost_usd"] == 0.75


def test_a_failed_turn_keeps_what_it_used() -> None:
    events = [codex("turn.completed", usage={"output_tokens": 2}), codex("turn.failed", usage={"output_tokens": 3})]

    ending = hear(encode(*events), "codex").ending

    assert ending.status is AgentStatus.FAILED
    assert ending.result == {"usage": {"output_tokens": 5}, "exit_code": 0}


def test_a_run_that_is_killed_keeps_what_it_used() -> None:
    ending = hear(encode(codex("turn.completed", usage={"output_tokens": 2})), "codex", exit_code=-9).ending

    assert ending.result == {"usage": {"output_tokens": 2}, "exit_code": -9}


def test_a_total_of_a_new_session_is_added_to_that_of_the_one_before() -> None:
    parser, costs = PARSERS["claude-code"](), []

    for total in (1.0, 3.0, 0.5, 2.0):
        parser.parse(json.dumps({"type": "result", "is_error": False, "total_cost_usd": total}).encode())
        costs.append(parser.result["total_cost_usd"])

    assert costs == [1.0, 3.0, 3.5, 5.0]


def test_only_numbers_are_added() -> None:
    assert add_up({"a": 1, "b": {"c": 2, "d": True}, "e": [1]}, {"a": 2, "b": {"c": 3, "d": True}, "e": [2]}) == {
        "a": 3,
        "b": {"c": 5, "d": True},
        "e": [2],
    }


def test_a_parser_that_heard_nothing_advises_nothing_if_events_came() -> None:
    heard = hear([json.dumps(INIT).encode()], "claude-code")

    assert "run it with" not in str(decide_ending("x", 1, heard.parser, "", "--json").error_message)
