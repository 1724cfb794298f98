"""The checksum of a message stands for every field of it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.persistence.records import MessageRecord
from commitcast.persistence.sqlite.rows import checked_message, message_row

RECORD = MessageRecord(
    "agent", 7, 11, "tool", "role", "content", "json", "2026-01-01T00:00:00.000000Z", '{"a":1}', b"raw", "key"
)
OTHER: dict[str, Any] = {
    "agent": "agenT",
    "sequence": 8,
    "position": 12,
    "type": "user",
    "role": None,
    "content": "Content",
    "content_type": "text",
    "created_at": "2026-01-01T00:00:00.000001Z",
    "metadata_json": None,
    "raw": b"raW",
    "key": "kez",
}


def checksum(record: MessageRecord) -> int:
    value: int = message_row(1, 0, record)[-1]
    return value


def test_every_field_is_tried() -> None:
    assert set(OTHER) == set(MessageRecord.__struct_fields__)


@pytest.mark.parametrize("field", OTHER)
def test_another_value_in_a_field_gives_another_checksum(field: str) -> None:
    assert checksum(msgspec.structs.replace(RECORD, **{field: OTHER[field]})) != checksum(RECORD)


@pytest.mark.parametrize("field", ["role", "metadata_json", "raw", "key"])
def test_nothing_and_empty_are_told_apart(field: str) -> None:
    nothing = msgspec.structs.replace(RECORD, **{field: None})
    empty = msgspec.structs.replace(RECORD, **{field: b"" if field == "raw" else ""})

    assert checksum(nothing) != checksum(empty)


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 4))
def test_text_that_moves_from_one_field_to_the_next_is_noticed(one: str, other: str, by: int) -> None:
    before = msgspec.structs.replace(RECORD, type=one, role=other)
    whole = one + other
    after = msgspec.structs.replace(RECORD, type=whole[:by], role=whole[by:])

    assert (checksum(before) == checksum(after)) == (before == after)


def test_the_checksum_stays_what_it_was_when_it_was_first_released() -> None:
    assert checksum(RECORD) == 2928767421


def test_a_row_that_is_not_what_was_stored_is_refused() -> None:
    row = (7, 11, "tool", "role", "content", "json", RECORD.created_at, '{"a":1}', b"raw", "key")

    assert checked_message("agent", (*row, checksum(RECORD))) == RECORD
    with pytest.raises(ValueError, match="message 7 of agent 'agent' was changed"):
        checked_message("agent", (*row, checksum(RECORD) ^ 1))
