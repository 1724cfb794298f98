"""Lines that are not finished: shown in pieces after a while, kept whole if they may be events, never lost."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_agent import Agent, python
from commitcast.actors.errors import SourceCancelledError
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.output_reader import PARTIAL_AFTER_S, SCANNED_BYTES, OutputReader
from commitcast.actors.sources.parsers import first_parser
from commitcast.persistence.records import AgentStatus
from waiting import TIMEOUT_S

EVENT = b'{"type":"turn.completed","usage":{}}'


class Said(Agent):
    """A reader on a clock that the test moves."""

    def __init__(self, type: str = "text") -> None:
        super().__init__()
        self.time_s = 0.0
        self.reader = OutputReader(
            first_parser(type, ["x"], is_guess=type == "text"), self.context, lambda: self.time_s
        )

    def feed(self, *chunks: bytes, after_s: float = 0.0) -> None:
        for chunk in chunks:
            self.reader.feed(chunk)
        self.time_s += after_s
        self.reader.show_due()

    @property
    def pieces(self) -> list[tuple[str, bool, bool]]:
        """What was said: the text, whether it is a piece, whether the line goes on."""
        drafts = self.recorder.drafts
        marks = [draft.metadata or {} for draft in drafts]
        return [
            (str(draft.content), mark.get("partial", False), mark.get("continues", False))
            for draft, mark in zip(drafts, marks, strict=True)
        ]

    @property
    def stream(self) -> bytes:
        """The bytes that the messages rebuild: a newline behind each line, but not behind a piece that continues."""
        return b"".join(
            draft.raw + (b"" if (draft.metadata or {}).get("continues") else b"\n")
            for draft in self.recorder.drafts
            if isinstance(draft.raw, bytes)
        )


def test_a_line_that_waits_is_shown_in_pieces_that_rebuild_it() -> None:
    said = Said()

    said.feed(b"word ", after_s=PARTIAL_AFTER_S)
    said.feed(b"by ", b"word", after_s=PARTIAL_AFTER_S)
    said.feed(b".\nnext\n")

    assert said.pieces == [("word ", True, True), ("by word", True, True), (".", True, False), ("next", False, False)]
    assert said.stream == b"word by word.\nnext\n"


def test_a_line_that_is_finished_in_time_is_one_message() -> None:
    said = Said()

    said.feed(b"word ", after_s=PARTIAL_AFTER_S * 0.9)
    said.feed(b"by word\n", after_s=PARTIAL_AFTER_S)

    assert said.pieces == [("word by word", False, False)]


def test_how_long_the_agent_was_at_its_bound_is_not_the_programs_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    put = said.context.put

    def blocks(draft: Draft) -> None:
        said.time_s += 10 * PARTIAL_AFTER_S
        put(draft)

    monkeypatch.setattr(said.context, "put", blocks)
    said.feed(b"one\ntw")
    said.feed(b"o\n")

    assert said.pieces == [("one", False, False), ("two", False, False)]


def test_it_says_how_long_a_line_may_wait() -> None:
    said = Said()
    patience = [said.reader.due_in_s()]
    said.feed(b"a", after_s=PARTIAL_AFTER_S / 2)
    patience.append(said.reader.due_in_s())
    said.feed(b"b", after_s=PARTIAL_AFTER_S / 2)
    patience.append(said.reader.due_in_s())

    assert patience == [None, PARTIAL_AFTER_S / 2, None]


def test_half_a_character_waits_and_a_carriage_return_is_not_shown() -> None:
    said = Said()

    said.feed("é".encode()[:1], after_s=PARTIAL_AFTER_S)
    said.feed("é".encode()[1:] + b"a\r", after_s=PARTIAL_AFTER_S)
    said.feed(b"\n")

    assert [piece[0] for piece in said.pieces] == ["éa", ""]
    assert said.stream == "éa\r\n".encode()


CLAUDE_INIT = b'{"type":"system","subtype":"init","session_id":"main"}'
CLAUDE_GOOD = b'{"type":"result","subtype":"success","is_error":false,"session_id":"main","result":"done"}'
CLAUDE_BAD = CLAUDE_GOOD.replace(b"false", b"true")
LATE: dict[str, tuple[str, list[bytes], bool]] = {
    "an event": ("codex", [EVENT], True),
    "an event of a program that is not known": ("text", [CLAUDE_BAD], False),
    "an event behind a banner": ("claude-code", [b"\xef\xbb\xbfWelcome " + CLAUDE_GOOD], True),
    "events on one line": ("claude-code", [CLAUDE_INIT + CLAUDE_BAD], False),
    "an array, bit by bit": ("claude-code", [b"[" + CLAUDE_INIT, b"," + CLAUDE_GOOD, b"]"], True),
    "an array that goes on": ("claude-code", [b"[" + CLAUDE_INIT + b"," + CLAUDE_GOOD[:9], CLAUDE_GOOD[9:]], True),
    "an event in two bits": ("claude-code", [CLAUDE_GOOD[:40], CLAUDE_GOOD[40:]], True),
    "the last line of an object": ("gemini-cli", [b'{\n "response": "ok",\n "stats": {', b"}\n}"], True),
    "the last line of one of a program that is not known": (
        "text",
        [CLAUDE_BAD.replace(b",", b",\n"), b""],
        False,
    ),
    "an object behind one over several lines": ("claude-code", [b'{\n"type":"x"\n}' + CLAUDE_BAD], False),
    "an event before a damaged object": ("claude-code", [CLAUDE_BAD + b'{"a": b '], False),
    "the last line of an object before a damaged one": (
        "claude-code",
        [CLAUDE_BAD.replace(b",", b",\n") + b'{"a": b '],
        False,
    ),
    "an event behind an object that was broken off": ("codex", [b'{"type": 1,\n', EVENT], True),
}


@pytest.mark.parametrize("case", LATE)
def test_an_event_is_heard_when_it_is_complete_though_its_newline_is_late(case: str) -> None:
    type, chunks, is_ok = LATE[case]
    said = Said(type)

    for chunk in chunks:
        said.feed(chunk, after_s=PARTIAL_AFTER_S)
    verdict = said.reader.parser.verdict
    said.feed(b"\n")
    said.reader.end()

    assert verdict is not None
    assert verdict.ok is is_ok
    assert said.reader.parser.verdict == verdict
    assert said.stream == b"".join(chunks) + b"\n"


@pytest.mark.parametrize(
    ("type", "chunks"),
    [
        ("claude-code", [CLAUDE_INIT[:-1], b"} Continue? (y/n) "]),
        ("claude-code", [b'{"type": ', b"word ", b"word "]),
        ("text", [b'{"a": ', b"word ", b"word "]),
        ("text", [b'{\n"a": ', b"word ", b"word "]),
        ("jsonl", [b'{"a"', b", word ", b"word "]),
    ],
)
def test_a_line_that_turns_out_to_hold_text_is_shown_while_it_is_not_finished(type: str, chunks: list[bytes]) -> None:
    said = Said(type)

    for chunk in chunks:
        said.feed(chunk, after_s=PARTIAL_AFTER_S)

    assert said.pieces[-1][0].endswith(chunks[-1].decode()[-5:])
    assert said.reader.due_in_s() is None


@pytest.mark.parametrize("type", ["codex", "text"])
def test_an_event_inside_of_a_damaged_object_is_none_though_it_comes_later(type: str) -> None:
    said = Said(type)

    said.feed(b'{"said": nothing ', after_s=PARTIAL_AFTER_S)
    said.feed(b'{"type":"turn.failed","error":"no"}', after_s=PARTIAL_AFTER_S)
    said.feed(b'{"type":"turn.failed","error":"no"}}\n')

    assert said.reader.parser.verdict is None
    assert len(said.pieces) == 3


BITS = [CLAUDE_INIT, CLAUDE_BAD, CLAUDE_BAD.replace(b",", b",\n"), EVENT, b'{"a":', b'{"a": b ', b'{"content":"x"}']
BITS += [b"\n", b"\r", b"\r\n", b"[", b"]", b",", b"{", b"}", b'"x"', b"text ", b"\x1b[2m", "é".encode(), b"\xff"]


@settings(deadline=None)
@given(
    type=st.sampled_from(["text", "claude-code", "codex", "gemini-cli", "jsonl", "kimi"]),
    data=st.lists(st.sampled_from(BITS), min_size=1, max_size=8).map(b"".join),
    cuts=st.lists(st.tuples(st.integers(1, 200), st.booleans()), max_size=5),
)
def test_what_is_said_rebuilds_what_was_printed_however_it_comes(
    type: str, data: bytes, cuts: list[tuple[int, bool]]
) -> None:
    said = Said(type)

    at = 0
    for size, waits in [*cuts, (len(data), True)]:
        said.feed(data[at : at + size], after_s=PARTIAL_AFTER_S * waits)
        at += size
    said.reader.end()

    assert said.stream.removesuffix(b"\n") == data.removesuffix(b"\n")


def test_a_long_unfinished_line_is_looked_at_less_often() -> None:
    said = Said("codex")

    said.feed(b'{"type":"' + b"x" * (4 * SCANNED_BYTES))

    patience_s = said.reader.due_in_s()
    assert patience_s is not None
    assert patience_s > 3.5 * PARTIAL_AFTER_S


def test_an_event_that_waits_for_its_end_is_not_shown_in_pieces() -> None:
    said = Said("codex")

    said.feed(EVENT[:10], after_s=PARTIAL_AFTER_S)
    said.feed(EVENT[10:20], after_s=PARTIAL_AFTER_S)
    said.feed(EVENT[20:] + b"\n")

    assert said.recorder.raw == [EVENT]
    assert said.reader.parser.verdict is not None


@pytest.mark.parametrize("type", ["codex", "text"])
def test_a_prompt_before_an_event_is_shown_and_the_event_still_understood(type: str) -> None:
    said = Said(type)

    said.feed(b"Password: ", after_s=PARTIAL_AFTER_S)
    said.feed(b'{"type":"turn.failed","error":"no"}\n')

    assert said.pieces[0] == ("Password: ", True, True)
    assert said.reader.parser.verdict is not None
    assert said.stream == b'Password: {"type":"turn.failed","error":"no"}\n'


def test_what_only_looks_like_an_event_is_said_at_the_end() -> None:
    said = Said("codex")

    said.feed(b'{"type": "turn.', after_s=PARTIAL_AFTER_S)
    said.reader.end()

    assert said.pieces == [('{"type": "turn.', False, False)]


def test_an_object_over_several_lines_is_said_when_it_is_complete_and_not_before() -> None:
    said = Said("codex")

    said.feed(b'{\n "type": "turn.completed",\n', after_s=PARTIAL_AFTER_S)
    before = list(said.pieces)
    said.feed(b' "usage": {}\n}\n')

    assert before == []
    assert said.recorder.raw == [b'{\n "type": "turn.completed",\n "usage": {}\n}']


def test_each_step_of_a_progress_bar_is_a_piece_that_says_it_overwrites() -> None:
    said = Said()

    said.feed(b"10%\r50%\r\r100%\ndone\r\n")

    assert [piece[0] for piece in said.pieces] == ["10%", "50%", "100%", "done"]
    assert [bool((draft.metadata or {}).get("overwrites")) for draft in said.recorder.drafts] == [
        False,
        True,
        True,
        False,
    ]
    assert said.stream == b"10%\r50%\r\r100%\ndone\r\n"


def test_a_step_that_ends_with_its_carriage_return_is_overwritten_by_the_next() -> None:
    said = Said()

    for step in (b"10%\r", b"20%\r", b"100%"):
        said.feed(step, after_s=PARTIAL_AFTER_S)
    said.feed(b"\r\nnext\n")

    assert [piece[0] for piece in said.pieces] == ["10%", "20%", "100%", "", "next"]
    marks = [bool((draft.metadata or {}).get("overwrites")) for draft in said.recorder.drafts]
    assert marks == [False, True, True, True, False]
    assert said.stream == b"10%\r20%\r100%\r\nnext\n"


def test_a_carriage_return_at_the_end_makes_no_message_of_its_own() -> None:
    said = Said()

    said.feed(b"half\r", after_s=PARTIAL_AFTER_S)
    said.reader.end()

    assert said.recorder.raw == [b"half\r"]


def test_carriage_returns_within_an_event_are_part_of_it() -> None:
    said = Said("codex")

    said.feed(b"\r" + EVENT + b"\r\n")

    assert said.recorder.raw == [b"\r" + EVENT + b"\r"]


# What shows that it is at work.


@pytest.mark.parametrize(
    "sign",
    [
        b'{"type":"keep_alive"}\n',
        b'{"type":"system","subtype":"heartbeat"}\n',
        b'{"type":"rate_limit_event"}\n',
        b'{"type":"stream_event","event":{"type":"ping"}}\n',
        b"Saving.\n",
        b"\n",
        b".",
        b"\x1b[2K",
        b'{"type":"half',
    ],
)
def test_signs_of_life_and_plain_text_are_idleness(sign: bytes) -> None:
    said = Said("claude-code")
    said.feed(CLAUDE_GOOD + b"\n")

    for _ in range(4):
        said.feed(sign, after_s=1)

    assert said.reader.idle_s() == 4


@pytest.mark.parametrize(
    "event",
    [
        CLAUDE_INIT,
        b'{"type":"system","subtype":"task_notification"}',
        b'{"type":"assistant","message":{"content":"more"}}',
        CLAUDE_GOOD,
    ],
)
def test_a_turn_that_begins_or_goes_on_is_work(event: bytes) -> None:
    said = Said("claude-code")
    said.feed(CLAUDE_GOOD + b"\n", after_s=3)

    said.feed(event + b"\n")

    assert said.reader.idle_s() == 0


def test_waiting_for_the_agent_is_not_the_programs_idleness() -> None:
    said = Said("claude-code")

    def wait(_: Draft) -> None:
        said.time_s += 9

    said.recorder.on_put = wait
    said.feed(CLAUDE_GOOD + b"\n")

    assert said.reader.idle_s() == 0


# Last words.


def test_last_words_are_what_was_read_and_not_delivered() -> None:
    said = Said()
    said.feed(b"one\ntwo\nhalf")

    assert [draft.content for draft in said.reader.last_words(2)] == ["half"]


def test_last_words_are_asked_while_the_source_waits_for_room() -> None:
    said, waits, ended = Said(), threading.Event(), threading.Event()

    def wait(_: Draft) -> None:
        waits.set()
        assert ended.wait(TIMEOUT_S)
        raise SourceCancelledError("agent-1")

    def feed() -> None:
        with pytest.raises(SourceCancelledError):
            said.feed(b"one\ntwo\nhalf")

    said.recorder.on_put = wait
    source = threading.Thread(target=feed)
    source.start()
    assert waits.wait(TIMEOUT_S)

    words = said.reader.last_words(1)  # it has got one, but not said so yet
    ended.set()
    source.join(TIMEOUT_S)

    assert [draft.content for draft in words] == ["two", "half"]


def test_an_object_that_is_open_is_among_the_last_words() -> None:
    said = Said("codex")
    said.feed(b'{\n"type": "turn.completed",\n')

    assert [draft.raw for draft in said.reader.last_words(0)] == [b"{", b'"type": "turn.completed",']


# A real program.


def test_words_without_a_newline_are_heard_while_the_program_runs(agent: Agent) -> None:
    heard = threading.Event()
    agent.recorder.on_put = lambda _: heard.set()

    agent.start(
        python(
            "import sys; sys.stdout.write('word '); sys.stdout.flush(); sys.stdin.read(); sys.stdin = None\n"
            "import time; time.sleep(60)"
        )
    )

    assert heard.wait(TIMEOUT_S)
    assert agent.recorder.contents == ["word "]
    agent.context.cancelled.set()
    assert agent.ending().status is AgentStatus.TERMINATED


@pytest.mark.parametrize("more", ["", "\n.", '\n{"type":"keep_alive"}\n'], ids=["silent", "dots", "keep-alives"])
def test_a_program_that_hangs_behind_its_result_is_ended_whatever_sign_of_life_it_gives(
    agent: Agent, more: str
) -> None:
    script = (
        "import os, time\n"
        f"os.write(1, {CLAUDE_GOOD!r})\n"
        "while not time.sleep(0.05):\n"
        f"    os.write(1, {more.encode()!r})"
    )
    source = python(script, type="claude-code", exit_timeout_s=0.2)

    ending = agent.run(source)

    assert (ending.status, agent.recorder.contents[0]) == (AgentStatus.COMPLETED, "done")
    assert ending.result is not None
    assert ending.result["exit_timed_out"]


SAYS_ITS_RESULT_WHEN_STOPPED = f"""
import os, signal, time
def stop(*_):
    os.write(1, {CLAUDE_GOOD.replace(b"false", b'false,"usage":{"output_tokens":5},"total_cost_usd":0.5')!r})
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"ready\\n")
time.sleep(60)
"""


def test_what_a_program_says_of_its_work_when_it_is_stopped_is_kept_and_not_shown(agent: Agent) -> None:
    ready = threading.Event()
    agent.recorder.on_put = lambda _: ready.set()
    agent.start(python(SAYS_ITS_RESULT_WHEN_STOPPED, type="claude-code"))
    assert ready.wait(TIMEOUT_S)

    agent.context.cancelled.set()
    ending = agent.ending()

    assert (ending.status, agent.recorder.contents) == (AgentStatus.TERMINATED, ["ready"])
    assert ending.result is not None
    assert (ending.result["usage"], ending.result["total_cost_usd"]) == ({"output_tokens": 5}, 0.5)


def test_what_is_said_behind_the_end_is_understood_and_not_kept() -> None:
    said = Said("codex")

    said.reader.mute()
    said.feed(b"word\n" + EVENT)
    said.reader.end()

    assert said.pieces == []
    assert said.reader.last_words(0) == []
    assert said.reader.parser.verdict is not None
