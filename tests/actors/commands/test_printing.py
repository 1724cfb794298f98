"""What a person reads at a terminal: texts once and whole, and whole messages apart."""

import re
from pathlib import Path
from typing import Any

import pytest

from commands import run, running
from commitcast.actors.commands.output import note, say
from commitcast.actors.commands.printing import Printer
from commitcast.gateway.protocol.frames import Item
from growth import is_linear
from texts import CASES, Case
from transcripts import encode

pytestmark = pytest.mark.sampled(14, of_file=True)

Read = pytest.CaptureFixture[str]


def item(sequence: int, content: str, *, type: str = "assistant", agent: str | None = None, **metadata: Any) -> Item:
    return Item(sequence, type, None, content, "text", metadata or None, "", agent=agent)


def shown(printed: str) -> list[tuple[int, str]]:
    """The texts that were printed, each with its number."""
    texts: list[tuple[int, str]] = []
    for line in printed.split("\n"):
        start = re.match(r" *(\d+)  (\w+) +(?=\S|$)", line)
        if start:
            texts.append((int(start[1]), line[start.end() :]))
        elif texts:
            texts[-1] = (texts[-1][0], f"{texts[-1][1]}\n{line.removeprefix(' ' * 19)}")
    return [(sequence, text.strip()) for sequence, text in texts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_person_reads(case: Case, capsys: Read) -> None:
    printer = Printer(as_json=False)

    for each in case.items:
        printer.item(each)
    printer.end()

    printed = shown(capsys.readouterr().out)
    assert [(number, "" if text.startswith("(") else text) for number, text in printed] == case.shown


def test_a_piece_is_printed_when_it_comes(capsys: Read) -> None:
    printer = Printer(as_json=False)

    for piece in ("The answer ", "is", " 42."):
        printer.item(item(1, piece, delta=True))
        assert capsys.readouterr().out.endswith(piece)
    printer.end()

    assert capsys.readouterr().out == "\n"


def test_a_line_is_ended_as_soon_as_nothing_can_be_added(capsys: Read) -> None:
    printer = Printer(as_json=False)

    printer.item(item(1, "whole"))
    assert capsys.readouterr().out.endswith("whole\n")
    printer.item(item(2, "a piece", delta=True))
    assert capsys.readouterr().out.endswith("a piece")
    printer.item(item(3, "a piece", repeats_deltas=True))
    assert capsys.readouterr().out == "\n"
    printer.item(item(4, "the end of ", partial=True, continues=True))
    printer.item(item(5, "a long line", partial=True))
    assert capsys.readouterr().out.endswith("the end of a long line\n")
    printer.end()
    assert capsys.readouterr().out == ""


def test_all_prints_every_message_on_a_line_of_its_own(capsys: Read) -> None:
    printer = Printer(as_json=False, all=True)

    for each in CASES[0].items:
        printer.item(each)
    printer.end()

    assert [sequence for sequence, _ in shown(capsys.readouterr().out)] == list(range(1, len(CASES[0].items) + 1))
    assert printer.account() == ""


def test_how_many_were_left_out_is_said(capsys: Read) -> None:
    printer = Printer(as_json=False)

    printer.item(item(1, "a", delta=True))
    printer.item(item(2, "a", repeats_deltas=True))

    assert printer.account() == " (1 not shown: --all)"


def test_of_several_agents_each_line_says_whose_it_is(capsys: Read) -> None:
    printer = Printer(as_json=False, names_agents=True)

    for agent, text in (("a", "one "), ("b", "eins "), ("b", "zwei"), ("a", "two")):
        printer.item(item(1, text, agent=agent, delta=True))
    printer.end()

    lines = capsys.readouterr().out.splitlines()
    assert [(line.split()[0], line.split("assistant  ")[1]) for line in lines] == [
        ("a", "one "),
        ("b", "eins zwei"),
        ("a", "two"),
    ]


def test_no_control_character_reaches_the_terminal_also_when_pieces_part_it(capsys: Read) -> None:
    printer = Printer(as_json=False)
    harmful = "\x1b[31m\x9b2J\r\b\u202e\u2066\ufeff\U000e0041\x7f\0"

    for character in harmful:
        printer.item(item(1, character, delta=True))
    printer.item(item(2, harmful, type=harmful))
    printer.end()

    assert not set(capsys.readouterr().out) & (set(harmful) - set("[31m2J"))


def event(kind: str, **inner: Any) -> dict[str, Any]:
    return {"type": "stream_event", "event": {"type": kind, **inner}}


def piece(text: str) -> dict[str, Any]:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


STREAM = encode(
    {"type": "system", "subtype": "init", "session_id": "s"},
    event("message_start"),
    event("content_block_start", index=0),
    piece("The answer "),
    piece("is 42."),
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "The answer is 42."}]}},
    event("content_block_stop", index=0),
    event("message_stop"),
    {"type": "result", "subtype": "success", "is_error": False, "result": "The answer is 42."},
)


def test_run_messages_and_tail_show_a_streamed_answer_once(tmp_path: Path) -> None:
    db, recording = str(tmp_path / "x.db"), tmp_path / "recording"
    recording.write_bytes(b"\n".join(STREAM))

    ran = run("run", "--type", "claude-code", "--id", "a1", "--db", db, "--", "cat", str(recording))
    read = run("messages", "a1", "--db", db)
    with running("serve", "--db", db, "--listen", "127.0.0.1:0") as server:
        tailed = run("tail", "a1", "--url", server.url)

    for done in (ran, read, tailed):
        assert [text for text in shown(done.stdout) if text[1][:1] != "{"] == [(4, "The answer is 42.")]
        assert "a1 completed after 9 messages (7 not shown: --all)" in done.stderr


def test_a_long_line_takes_time_in_proportion(capsys: Read) -> None:
    def print_line(line: str) -> None:
        Printer(as_json=False).item(item(1, line))
        capsys.readouterr()

    assert is_linear(print_line, "W\u00f6rter, \u8a00\u8449, \x1b[0m ", 40_000)


def test_colours_are_for_terminals_unless_the_environment_says_otherwise(
    capsys: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(**environment: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        say("sound", "green")
        printer = Printer(as_json=False)
        printer.item(item(1, "no", type="error"))
        printer.end()
        return capsys.readouterr().out

    plain = "sound\n     1  error      no\n"
    assert printed() == printed(NO_COLOR="1", FORCE_COLOR="1") == printed(TERM="dumb", FORCE_COLOR="1") == plain
    assert printed(FORCE_COLOR="1") == ("\x1b[32msound\x1b[0m\n\x1b[31m     1  error      \x1b[0m\x1b[31mno\x1b[0m\n")


def test_a_note_is_written_as_it_is_but_for_control_characters(capsys: Read) -> None:
    note("failed: :fire: [bold] is \x1b[31mred")

    assert capsys.readouterr().err == "failed: :fire: [bold] is �[31mred\n"
