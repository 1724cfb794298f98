"""Records and pages as msgpack values, for the answers to reads. Pure.

The records themselves are encoded as a host would expect of them, with the names of their fields. Here those are left
out, because a page has a thousand records.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from commitcast.persistence.records import (
    AgentDeletion,
    AgentRecord,
    AgentStatus,
    Entry,
    MessageRecord,
    StatusChange,
)
from commitcast.persistence.store import AgentPage, FeedPage, Head, Report, ResolvedCursor

_KINDS: Final[tuple[type[Any], ...]] = (MessageRecord, AgentRecord, StatusChange, AgentDeletion)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}
_FIELDS: Final = tuple(kind.__struct_fields__ for kind in _KINDS)
_STATUSES: Final[tuple[dict[str, type[AgentStatus]], ...]] = (
    {},
    {"status": AgentStatus},
    {"status": AgentStatus, "previous": AgentStatus},
    {},
)


def pack_record(record: Entry | None) -> Any:
    """Return a record as a value."""
    return None if record is None else (_NUMBERS[type(record)], *astuple(record))


def unpack_record(value: Any) -> Any:
    """Return the record of a value."""
    if value is None:
        return None
    number = value[0]
    if not number:
        return MessageRecord(*value[1:])
    fields = dict(zip(_FIELDS[number], value[1:], strict=True))
    for name, convert in _STATUSES[number].items():
        fields[name] = convert(fields[name])
    return _KINDS[number](**fields)


def _pack_records(records: list[Any]) -> Any:
    return list(map(pack_record, records))


def _unpack_records(value: Any) -> list[Any]:
    return list(map(unpack_record, value))


class Codec(NamedTuple):
    """How the result of one kind of request is sent."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


_RECORD: Final = Codec(pack_record, unpack_record)
_RECORDS: Final = Codec(_pack_records, _unpack_records)

READS: Final[dict[str, Codec]] = {
    "agent": _RECORD,
    "launched": _RECORD,
    "keyed": _RECORD,
    "agents": _RECORDS,
    "messages": _RECORDS,
    "entries": Codec(
        lambda page: (_pack_records(page.entries), page.at_end, page.epoch),
        lambda value: AgentPage(_unpack_records(value[0]), *value[1:]),
    ),
    "feed": Codec(
        lambda page: (_pack_records(page.entries), page.last, page.at_end),
        lambda value: FeedPage(_unpack_records(value[0]), *value[1:]),
    ),
    "resolve_cursor": Codec(
        lambda cursor: (pack_record(cursor.record), cursor.position, cursor.epoch),
        lambda value: ResolvedCursor(unpack_record(value[0]), *value[1:]),
    ),
    "heads": Codec(_as_it_is, lambda value: {agent: Head(*head) for agent, head in value.items()}),
    "position": Codec(_as_it_is, tuple),
}
"""By method of `Reader`."""
LONG: Final[dict[str, Codec]] = {
    "verify": Codec(msgspec.to_builtins, lambda value: msgspec.convert(value, Report)),
    "backup": Codec(_as_it_is, _as_it_is),
}
"""By method of `Store`: what reports its progress."""
