"""The result of every read, and of every long request, is the same at the other end."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from commitcast.persistence.records import AgentDeletion, AgentRecord, AgentStatus, MessageRecord, StatusChange
from commitcast.persistence.remote.frames import Answer, pack, unpack
from commitcast.persistence.remote.values import LONG, READS, pack_record, unpack_record
from commitcast.persistence.store import Head, Reader, Report, Store
from databases import SqliteFile, fill
from stores import FAILED, INITIALIZING, change, new_agent, of, text

CALLS: dict[str, list[tuple[Any, ...]]] = {
    "agent": [("a",), ("ghost",)],
    "launched": [("key",), ("ghost",)],
    "agents": [(), (AgentStatus.FAILED,), (None, 0, 1)],
    "messages": [("a",), ("a", 7), ("raw",)],
    "keyed": [("raw", "of it"), ("raw", "ghost")],
    "resolve_cursor": [("a", 3), ("a", None)],
    "entries": [("a", 0, 0), ("a", 2, 0, 1), ("raw", 0, 0)],
    "feed": [(0,), (5, 2), (10_000,)],
    "heads": [(["a", "b", "ghost"],), ([],)],
    "position": [()],
}
"""Arguments of each method of `Reader`."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with entries of every kind, and with every field used."""
    database = SqliteFile(tmp_path_factory.mktemp("values"))
    fill(database)
    with database.opened() as store:
        facts = {"reason": "r", "error_name": "E", "error_message": "m", "result_json": "{}"}
        message = text({"a": ["ü"]}, type="tool", role="r", metadata={"n": 1.5}, raw=b"\xff\x00", key="of it")
        created = new_agent("p", prompt="p", idempotency_key="key", configuration_json='{"c":1}')
        store.commit([of("raw", created, message, change(INITIALIZING, FAILED, **facts))])
        yield store


def crossed(value: Any) -> Any:
    """A value as the other end receives it."""
    answer = unpack(pack(Answer(1, value))[4:])
    assert isinstance(answer, Answer)
    return answer.value


def types(value: Any) -> Any:
    """The type of a value and of everything in it."""
    if isinstance(value, (list, tuple)):
        return type(value), [types(inner) for inner in value]
    if isinstance(value, dict):
        return {key: types(inner) for key, inner in value.items()}
    fields = getattr(value, "__struct_fields__", ())
    return type(value), [types(getattr(value, name)) for name in fields]


def test_every_method_of_a_reader_has_its_way_to_be_sent() -> None:
    methods = {name for name, _ in inspect.getmembers(Reader, inspect.isfunction) if not name.startswith("_")}

    assert set(READS) == set(CALLS) == methods


@pytest.mark.parametrize("method", READS)
def test_the_result_of_a_read_survives(store: Store, method: str) -> None:
    for arguments in CALLS[method]:
        result = getattr(store, method)(*arguments)

        other = READS[method].unpack(crossed(READS[method].pack(result)))

        assert other == result
        assert types(other) == types(result)


def test_the_sample_has_every_kind_of_entry(store: Store) -> None:
    kinds = {type(entry) for entry in store.feed(0).entries}

    assert kinds == {AgentRecord, MessageRecord, StatusChange, AgentDeletion}


def test_a_deletion_and_nothing_survive() -> None:
    deletion = AgentDeletion(agent="a", position=3, at="t")

    assert unpack_record(crossed(pack_record(deletion))) == deletion
    assert unpack_record(crossed(pack_record(None))) is None


def test_a_report_survives(store: Store) -> None:
    report = store.verify()
    report.add("a problem")
    report.notes.append("a note")

    other = LONG["verify"].unpack(crossed(LONG["verify"].pack(report)))

    assert other == report and type(other) is Report and not other.is_sound


def test_a_head_has_its_names_again(store: Store) -> None:
    heads = READS["heads"].unpack(crossed(READS["heads"].pack(store.heads(["a"]))))

    assert type(heads["a"]) is Head and heads["a"].sequence == 7


def test_a_backup_returns_nothing() -> None:
    assert LONG["backup"].unpack(crossed(LONG["backup"].pack(None))) is None
