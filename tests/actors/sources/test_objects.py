"""Events wherever they stand: behind marks, banners, glued, in arrays, over lines; and text that is left in peace."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.actors.sources.parsers import PARSERS, event_parser
from commitcast.actors.sources.parsers.objects import is_noise, objects_in, without_codes
from commitcast.persistence.records import AgentStatus
from growth import is_linear
from transcripts import encode, hear

ONE = b'{"type":"item.completed","item":{"type":"agent_message","text":"Here it is."}}'
TWO = b'{"type":"turn.completed","usage":{}}'
SHOWN = [("assistant", "Here it is."), ("response", "")]


def spread(line: bytes) -> bytes:
    return json.dumps(json.loads(line), indent=2).encode()


PLACES: dict[str, bytes] = {
    "a line each": ONE + b"\n" + TWO,
    "Windows lines": ONE + b"\r\n" + TWO + b"\r",
    "a byte order mark": b"\xef\xbb\xbf" + ONE + b"\n" + TWO,
    "NULs before": b"\0\0" + ONE + b"\n\0" + TWO,
    "terminal codes around": b"\x1b]0;a title\x07" + ONE + b"\x1b[0m\n\x1b[?25h\x1b[2K\r" + TWO + b"\x1b[K",
    "a title with an object in it": b'\x1b]0;{"type":"turn.failed"}\x07' + ONE + b"\n" + TWO,
    "spaces around": b"  " + ONE + b"  \n\t" + TWO,
    "glued": ONE + TWO,
    "glued with a space": ONE + b" " + TWO,
    "an array": b"[" + ONE + b"," + TWO + b"]",
    "an array over lines": b"[\n" + ONE + b",\n" + TWO + b"\n]",
    "an array of spread objects": b"[\n" + spread(ONE) + b",\n" + spread(TWO) + b"\n]",
    "spread": spread(ONE) + b"\n" + spread(TWO),
    "spread and glued": spread(ONE) + spread(TWO),
    "spread behind an event": ONE + spread(TWO),
    "spread before an event": spread(ONE) + TWO,
    "spread behind a byte order mark": b"\xef\xbb\xbf" + spread(ONE) + b"\n" + TWO,
    "spread with blank lines": spread(ONE).replace(b"\n", b"\n\n") + b"\n" + TWO,
    "a brace alone": b'{\n"type":"turn.started"}\n' + ONE + b"\n" + TWO,
}


@pytest.mark.parametrize("place", PLACES)
def test_events_are_found_wherever_they_stand(place: str) -> None:
    lines = PLACES[place].split(b"\n")

    heard = hear(lines, "codex")

    readable = [(kind, said) for kind, said in heard.shown if without_codes(said).strip("[], \n")]
    assert readable == SHOWN[:1]
    assert ("response", "") in heard.shown
    assert heard.ending.status is AgentStatus.COMPLETED
    assert b"\n".join(raw for raw in heard.raw if isinstance(raw, bytes)) == PLACES[place]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"Warning: old node. " + TWO, [("system", "Warning: old node. "), ("response", "")]),
        (TWO + b" (done)", [("response", ""), ("system", " (done)")]),
        (b"{not json} " + TWO, [("system", "{not json} "), ("response", "")]),
        (ONE + b" and " + TWO, [SHOWN[0], ("system", " and "), SHOWN[1]]),
    ],
)
def test_what_stands_around_an_event_and_can_be_read_is_a_message(line: bytes, shown: list[tuple[str, str]]) -> None:
    heard = hear([line], "codex")

    assert heard.shown == shown
    assert heard.raw == [line]
    assert heard.ending.status is AgentStatus.COMPLETED


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"item.completed","item":{"type":"agent_message","text":"{\\"type\\":\\"turn.failed\\"}"}}',
        b'{"note":"x","inner":{"type":"turn.failed","error":"no"}}',
        b'{"broken":1 oops {"type":"turn.failed","error":"no"}',
        b'{"broken":"a\x01" {"type":"turn.failed","error":"no"}}',
        b'[[{"a":{"type":"turn.failed"}}]]',
    ],
)
def test_an_object_inside_of_another_is_never_an_event(line: bytes) -> None:
    heard = hear([line, TWO], "codex")

    assert heard.parser.verdict is not None
    assert heard.parser.verdict.ok
    assert heard.raw == [line, TWO]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"turn.failed","error":"no"',
        b'{"type":"turn.failed","error":"n',
        b'{\n  "a": 1,\nand then it crashed'.replace(b"\n", b" "),
        b"void main() {",
        b"{",
        b"{{{{",
        b"{ }",
        b'{"a"',
        b"say {} and {x}",
    ],
)
def test_what_only_begins_like_an_event_is_text_and_takes_nothing_with_it(line: bytes) -> None:
    heard = hear([line, ONE, TWO], "codex")

    assert heard.raw == [line, ONE, TWO]
    assert heard.shown == [("system", line.decode()), *SHOWN]


def test_an_object_that_never_ends_is_its_lines() -> None:
    lines = [b"{", b'"type": "turn.failed",', b'"error": [']

    heard = hear(lines, "codex")

    assert heard.shown == [("system", line.decode()) for line in lines]


def test_an_object_over_too_many_bytes_is_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_parser, "MAX_KEPT_BYTES", 100)
    lines = [b"{", *[b'"key %05d": 1,' % number for number in range(20)], TWO]

    heard = hear(lines, "codex")

    assert heard.raw == lines
    assert heard.ending.status is AgentStatus.COMPLETED


def test_jsonl_is_found_in_the_same_places() -> None:
    said = encode({"content": "a"}, {"text": "b"})

    heard = hear([b"\xef\xbb\xbf" + said[0] + said[1], *spread(said[0]).split(b"\n")], "jsonl")

    assert heard.shown == [("assistant", "a"), ("assistant", "b"), ("assistant", "a")]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=4), values, min_size=1, max_size=3)
between = st.sampled_from([b"", b" ", b"\n", b"text", b"[", b"],", b"\x1b[1m", b"a {b} ", b"\xff"])


@settings(deadline=None)
@given(
    found=st.lists(objects, max_size=4),
    gaps=st.lists(between, min_size=5, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    is_ascii=st.booleans(),
)
def test_every_object_is_found_whole_and_nothing_else(
    found: list[dict[str, Any]], gaps: list[bytes], indent: int | None, is_ascii: bool
) -> None:
    written = [json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode(errors="replace") for value in found]
    data = gaps[0] + b"".join(text + gap for text, gap in zip(written, gaps[1:], strict=False))

    located = objects_in(data).located

    assert [data[one.start : one.end] for one in located] == written
    assert all(before.end <= after.start for before, after in pairwise(located))


@settings(deadline=None)
@given(value=objects, cut=st.integers(0, 200))
def test_an_object_that_is_cut_anywhere_is_open(value: dict[str, Any], cut: int) -> None:
    whole = json.dumps(value).encode()
    cut = 1 + cut % (len(whole) - 1)

    found = objects_in(whole[:cut])

    assert found.located == []
    assert found.open_at == 0


@settings(deadline=None)
@given(data=st.text(st.sampled_from('{}[]":, \\\n\x1bat1-.eu0'), max_size=60).map(str.encode))
def test_any_bytes_are_cut_into_lines_and_lost_by_no_parser(data: bytes) -> None:
    lines = data.split(b"\n")

    for make in PARSERS.values():
        parser = make()
        drafts = [draft for line in lines for draft in parser.feed(line)] + parser.flush()
        assert b"\n".join(draft.raw for draft in drafts if isinstance(draft.raw, bytes)) == data


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "unit",
    ["{", '{"', '{"a":', "[", '{"a":1}', "\x1b[", "\x1b]", '{"a":"\\', '"', "{}", '{"a":[1,', "\x1bP"],
)
def test_any_line_is_looked_through_in_linear_time(unit: str) -> None:
    assert is_linear(lambda text: objects_in(text.encode()), unit, 32_000)


@pytest.mark.parametrize(
    "data", [b"", b"\x1b[31m\x1b[0m", b"[ ,\r\n]", b"\xef\xbb\xbf", b"\x1b]8;;http://x\x1b\\", b"\x1b(B\x1b7"]
)
def test_terminal_codes_and_punctuation_say_nothing(data: bytes) -> None:
    assert is_noise(data)
    assert not is_noise(data + b"x")
