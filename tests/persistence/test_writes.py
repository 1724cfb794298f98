"""What can be stored at all: what is accepted comes back equal, what is not is refused with one sentence."""

import datetime
import decimal
import json
import sys
import uuid
from enum import Enum, IntEnum, StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commitcast.persistence import writes
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.writes import (
    MAX_MESSAGE_BYTES,
    check_agent_id,
    check_name,
    encode_json,
    encode_text,
    new_message,
)
from examples import examples
from stores import AT, text


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


any_text = st.text(st.characters())  # lone surrogates too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, -(2**64), 2**70 + 1, 10**400 + 1, Level.HIGH, Word.YES])
    | st.floats()
    | any_text
)
strange = st.sampled_from(
    [
        b"bytes",
        {1, 2},
        object(),
        Colour.RED,
        decimal.Decimal("1.5"),
        datetime.datetime(2026, 1, 1),
        uuid.UUID(int=1),
        1j,
    ]
)
values = st.recursive(
    scalars | strange,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(any_text | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


def as_read(value: Any) -> Any:
    """What JSON makes of a value that it can carry: tuples are lists."""
    if isinstance(value, (list, tuple)):
        return [as_read(inner) for inner in value]
    if isinstance(value, dict):
        return {name: as_read(inner) for name, inner in value.items()}
    return value


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same kind: 1, 1.0 and True are three values."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    kinds = (bool, int, float, str, type(None))
    return bool(one == other) and [isinstance(one, kind) for kind in kinds] == [
        isinstance(other, kind) for kind in kinds
    ]


def named(name: str, levels: int) -> Any:
    value: Any = object()
    for _ in range(levels):
        value = {name: value}
    return value


def nested(levels: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind == "list" else {"a": value}
    return value


class TestJson:
    @settings(max_examples=examples(100, 400), deadline=None)
    @given(values)
    @example({"a\nb": float("nan")})
    @example({"a\nb": {"c\u2028d": (1, object())}})
    @example({"x" * 5_000: {"y" * 5_000: float("inf")}})
    @example(named("x" * 5_000, 50))
    @example({"\ud800": 1})
    @example({1: 2})
    @example([1.0, 1, True])
    @example([-0.0, 5e-324, 1.7976931348623157e308, 2**53 + 1, 1e400])
    @pytest.mark.sampled(1 / 2)
    def test_what_is_accepted_comes_back_equal_and_what_is_not_is_refused_with_one_sentence(self, value: Any) -> None:
        try:
            encoded = encode_json(value, "metadata")
        except InvalidValueError as error:
            sentence = str(error)
            assert sentence.isprintable() and len(sentence) < 1_000, sentence
            assert "metadata" in sentence
        else:
            for decoded in (msgspec.json.decode(encoded), json.loads(encoded)):
                assert same(decoded, as_read(value))

    @pytest.mark.parametrize("kind", ["list", "dict"])
    def test_two_hundred_levels_are_accepted_and_more_are_refused(self, kind: str) -> None:
        assert msgspec.json.decode(encode_json(nested(200, kind), "x")) == nested(200, kind)

        for levels in (201, 300, 900, 5_000):
            with pytest.raises(InvalidValueError, match="deeper than 200 levels"):
                encode_json(nested(levels, kind), "x")

    def test_many_values_side_by_side_are_not_deep(self) -> None:
        wide: list[dict[str, list[int]]] = [{"a": []} for _ in range(1_000)]

        assert msgspec.json.decode(encode_json(wide, "x")) == wide

    def test_a_number_that_python_does_not_read_is_refused(self) -> None:
        with pytest.raises(InvalidValueError, match="cannot be represented in JSON"):
            encode_json(10**5_000, "x")
        with pytest.raises(InvalidValueError, match="key of type int"):
            encode_json({10**5_000: 1}, "x")

    def test_a_value_that_holds_itself_is_refused(self) -> None:
        circle: list[Any] = []
        circle.append(circle)

        with pytest.raises(InvalidValueError, match="deeper than 200 levels"):
            encode_json(circle, "x")

    def test_what_is_accepted_can_be_read_with_little_stack_left(self) -> None:
        encoded = encode_json(nested(200), "x")

        def read(frames: int) -> Any:
            return msgspec.json.decode(encoded) if frames == 0 else read(frames - 1)

        frames_left = sys.getrecursionlimit() - 300 - depth()
        assert read(frames_left) == nested(200)

    def test_the_place_of_what_is_refused_is_named(self) -> None:
        with pytest.raises(InvalidValueError, match=r"metadata\.usage\[1\]\.cost is nan"):
            encode_json({"usage": [1, {"cost": float("nan")}]}, "metadata")


def depth() -> int:
    frame, count = sys._getframe(), 0
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


class TestMessages:
    @settings(deadline=None)
    @given(
        any_text,
        st.none() | any_text,
        st.none() | st.binary() | any_text,
        st.none() | st.dictionaries(any_text, scalars),
    )
    def test_a_message_is_made_or_refused_with_one_sentence(
        self, content: str, role: str | None, raw: bytes | str | None, metadata: dict[str, Any] | None
    ) -> None:
        try:
            made = text(content, role=role, raw=raw, metadata=metadata)
        except InvalidValueError as error:
            assert "\n" not in str(error)
            str(error).encode()
        else:
            texts = (content, made.metadata_json or "")
            assert made.content == content
            assert made.size == sum(len(part.encode()) for part in texts) + len(made.raw or b"")

    def test_text_that_looks_like_json_stays_text_and_a_dict_becomes_json(self) -> None:
        assert (text("42").content, text("42").content_type) == ("42", "text")
        assert (text({"a": [1]}).content, text({"a": [1]}).content_type) == ('{"a":[1]}', "json")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"content": 42}, "content must be text"),
            ({"content": None}, "content must be text"),
            ({"content": "x", "type": "whisper"}, "not a message type"),
            ({"content": "x", "metadata": [1]}, "metadata must be a dict"),
            ({"content": "x", "raw": 5}, "raw must be bytes or text"),
            ({"content": "x", "role": ""}, "role"),
            ({"content": "x", "role": "a\nb"}, "role"),
            ({"content": "x", "key": "k" * 129}, "key"),
            ({"content": "lone \ud800"}, "lone surrogate at character 5"),
        ],
    )
    def test_what_cannot_be_stored_is_refused(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidValueError, match=words):
            new_message(created_at=AT, **options)

    def test_the_size_of_a_message_is_bounded_over_content_raw_and_metadata(self) -> None:
        half = "x" * (MAX_MESSAGE_BYTES // 2)

        assert text(half, raw=half).size == MAX_MESSAGE_BYTES
        with pytest.raises(InvalidValueError, match="split it"):
            text(half, raw=half + "y")


class TestLimits:
    def test_what_is_kept_with_an_agent_has_the_limit_of_a_message_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that an agent's creation and its record fit into a frame between processes."""
        monkeypatch.setattr(writes, "MAX_MESSAGE_BYTES", 1_000)
        largest = "x" * 998

        assert len(encode_json(largest, "result")) == len(encode_text(largest + "yz", "reason")) == 1_000
        for encode in (encode_json, encode_text):
            with pytest.raises(InvalidValueError, match=r"result has 1,00\d bytes and the limit is 1,000: store a ref"):
                encode(largest + "yzü", "result")


class TestNames:
    @pytest.mark.parametrize("agent", ["a", "A.z_0:9-", "x" * 128])
    def test_an_id_of_the_allowed_characters_is_one(self, agent: str) -> None:
        assert check_agent_id(agent) == agent

    @pytest.mark.parametrize("agent", ["", "x" * 129, "a b", "a\n", "é", "a/b", "\ud800", None, 5])
    def test_an_id_of_anything_else_is_none(self, agent: Any) -> None:
        with pytest.raises(InvalidValueError) as caught:
            check_agent_id(agent)

        str(caught.value).encode()
        assert "\n" not in str(caught.value)

    @settings(deadline=None)
    @given(any_text)
    def test_a_name_is_accepted_as_it_is_or_refused(self, name: str) -> None:
        try:
            assert check_name(name, "role") == name
        except InvalidValueError as error:
            assert str(error).isprintable()
        else:
            assert name.encode() and len(name) <= 128 and not any(ord(character) < 32 for character in name)
