"""Lines out of a byte stream: nothing lost, nothing changed, whatever the chunks and however long a line."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.actors.sources.lines import Line, LineSplitter


def split(chunks: Iterable[bytes], max_line_bytes: int = 1024) -> list[Line]:
    splitter = LineSplitter(max_line_bytes)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()


def rebuild(chunks: Iterable[bytes], max_line_bytes: int) -> bytes:
    splitter = LineSplitter(max_line_bytes)
    fed = [line for chunk in chunks for line in splitter.feed(chunk)]
    ended = b"".join(line.data + (b"" if line.continues else b"\n") for line in fed)
    return ended + b"".join(line.data for line in splitter.end())


stream = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\0", b"a", b"bcd", "é".encode(), "€".encode(), "😀".encode(), b"\x80\xff"])
    | st.binary(max_size=12),
    max_size=40,
)


@settings(deadline=None)
@given(chunks=stream, max_line_bytes=st.integers(4, 20))
def test_the_lines_rebuild_any_stream_in_any_chunks(chunks: list[bytes], max_line_bytes: int) -> None:
    assert rebuild(chunks, max_line_bytes) == b"".join(chunks)


@settings(deadline=None)
@given(chunks=stream, max_line_bytes=st.integers(4, 20))
def test_the_chunks_make_no_difference(chunks: list[bytes], max_line_bytes: int) -> None:
    whole = b"".join(chunks)

    assert split(chunks, max_line_bytes) == split([whole], max_line_bytes)
    assert split(chunks, max_line_bytes) == split([bytes([byte]) for byte in whole], max_line_bytes)


@settings(deadline=None)
@given(chunks=stream, max_line_bytes=st.integers(4, 20))
def test_no_line_or_piece_is_longer_than_the_limit_and_none_holds_a_newline(
    chunks: list[bytes], max_line_bytes: int
) -> None:
    for line in split(chunks, max_line_bytes):
        assert len(line.data) <= max_line_bytes
        assert b"\n" not in line.data


@settings(deadline=None)
@given(
    text=st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"])),
    limit=st.integers(4, 9),
)
def test_pieces_are_cut_between_characters(text: str, limit: int) -> None:
    pieces = split([text.encode()], limit)

    assert "".join(piece.data.decode() for piece in pieces) == text


def test_carriage_returns_and_other_line_ends_are_part_of_the_line() -> None:
    lines = split(["a\r\nb\u2028c\u0085d\r\n".encode()])

    assert [line.data for line in lines] == [b"a\r", "b\u2028c\u0085d\r".encode()]


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert split([b"abcd\n", b"efgh"], 4) == [Line(b"abcd"), Line(b"efgh")]


def test_every_piece_of_a_long_line_is_marked_and_all_but_the_last_continue() -> None:
    lines = split([b"x\nabcdefghij\ny\n"], 4)

    assert lines == [
        Line(b"x"),
        Line(b"abcd", partial=True, continues=True),
        Line(b"efgh", partial=True, continues=True),
        Line(b"ij", partial=True),
        Line(b"y"),
    ]


def test_the_last_piece_of_a_long_line_without_newline_comes_at_the_end() -> None:
    splitter = LineSplitter(4)

    assert splitter.feed(b"abcdef") == [Line(b"abcd", partial=True, continues=True)]
    assert splitter.end() == [Line(b"ef", partial=True)]
    assert splitter.end() == []


def test_pieces_come_before_the_line_is_complete() -> None:
    splitter = LineSplitter(1024)

    pieces = [line for _ in range(100) for line in splitter.feed(b"x" * 1000)]

    assert len(pieces) == 97


def test_empty_lines_are_lines() -> None:
    assert split([b"\n\na\n", b"", b"\n"]) == [Line(b""), Line(b""), Line(b"a"), Line(b"")]


def test_a_limit_that_would_cut_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        LineSplitter(3)


def test_a_long_line_in_small_chunks_takes_linear_time() -> None:
    """Quadratic work on these 16 MiB would copy 2 TiB: the test would run into its timeout."""
    chunk = b"x" * 64

    lines = split((chunk for _ in range(16 * 1024 * 1024 // 64)), 16 * 1024 * 1024)

    assert [len(line.data) for line in lines] == [16 * 1024 * 1024]


@settings(deadline=None)
@given(chunks=stream, sizes=st.lists(st.integers(0, 8), max_size=40))
def test_pieces_that_are_asked_for_rebuild_the_stream_and_cut_no_character(
    chunks: list[bytes], sizes: list[int]
) -> None:
    splitter = LineSplitter(1024)
    lines: list[Line] = []
    for chunk, size in zip(chunks, [*sizes, *[3] * len(chunks)], strict=False):
        lines += splitter.feed(chunk)
        lines += splitter.give(size)
    rest = splitter.end()

    ended = b"".join(line.data + (b"" if line.continues else b"\n") for line in lines)
    assert ended + b"".join(line.data for line in rest) == b"".join(chunks)
    assert all(line.data for line in lines if line.continues)


def test_a_piece_waits_for_the_rest_of_its_last_character_and_for_more_than_the_lines_end() -> None:
    splitter = LineSplitter()
    splitter.feed("a😀".encode()[:-1])

    assert [line.data for line in splitter.give(100)] == [b"a"]
    assert splitter.held == "😀".encode()[:-1]
    splitter.feed("😀".encode()[-1:] + b"\r")
    assert [line.data for line in splitter.give(100)] == ["😀\r".encode()]
    splitter.feed(b"\r")
    assert splitter.give(100) == []
    assert splitter.held == b"\r"


def test_the_steps_of_a_line_rebuild_it_and_the_last_one_ends_it() -> None:
    line = Line(b"\r10%\r\r50%\rdone\r")

    steps = line.steps()

    assert [step.data for step in steps] == [b"\r10%", b"\r\r50%", b"\rdone\r"]
    assert [step.continues for step in steps] == [True, True, False]
    assert all(step.overwrites for step in steps)
    assert Line(b"plain\r").steps() == [Line(b"plain\r")]
    many = Line(b"x\r" * 20_000)
    assert many.steps() == [many]
