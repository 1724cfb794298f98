"""The settings that durability rests on, the migrations, and that the schema and the Python rules say the same."""

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commitcast.actors.lifecycle import TRANSITIONS
from commitcast.persistence.errors import InvalidValueError, StoreSettingError
from commitcast.persistence.records import CONTENT_TYPES, MESSAGE_TYPES, AgentStatus
from commitcast.persistence.sqlite import connections, lock, opening
from commitcast.persistence.sqlite.journal import DELETE, WAL
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import check_agent_id
from examples import examples
from stores import AT, by_hand, opened, problems, reader_value

WANTED = {
    "journal_mode": "delete",
    "synchronous": 3,  # EXTRA
    "foreign_keys": 1,
    "auto_vacuum": 2,  # INCREMENTAL
    "cache_spill": 0,
    "temp_store": 2,  # MEMORY
}
WITH_LOG = {"journal_mode": "wal", "synchronous": 2}  # FULL
MESSAGE = {
    "position": 1,
    "agent_key": 1,
    "sequence_number": 1,
    "type": "user",
    "content": "",
    "content_type": "text",
    "created_at": AT,
    "checksum": 0,
}


@pytest.mark.both_modes
class TestSettings:
    @pytest.mark.parametrize("pragma", WANTED)
    def test_the_writer_and_the_readers_have_every_setting(self, path: Path, pragma: str, journal_mode: str) -> None:
        value = {**WANTED, **(WITH_LOG if journal_mode == WAL else {})}[pragma]
        with opened(path) as store:
            assert store._writer is not None
            assert store._writer.pragma(pragma) == value
            assert reader_value(store, f"PRAGMA {pragma}") == value

    def test_readers_cannot_write(self, path: Path) -> None:
        with opened(path) as store:
            assert reader_value(store, "PRAGMA query_only") == 1

    def test_in_memory_only_the_journal_differs(self) -> None:
        with opened(MEMORY) as store:
            found = {pragma: reader_value(store, f"PRAGMA {pragma}") for pragma in WANTED}

        assert found == {**WANTED, "journal_mode": "memory"}

    @pytest.mark.parametrize("pragma", ["synchronous", "foreign_keys", "auto_vacuum", "cache_spill", "temp_store"])
    def test_a_setting_that_does_not_take_refuses_to_start(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str
    ) -> None:
        monkeypatch.setattr(apsw, "Connection", deaf_to(pragma))

        with pytest.raises(StoreSettingError, match=f"PRAGMA {pragma} is"):
            SqliteStore(path).open()

        assert path.read_bytes() == b""
        assert not lock.is_locked(path)

    def test_a_journal_mode_that_does_not_take_refuses_to_start(
        self, good: Path, monkeypatch: pytest.MonkeyPatch, journal_mode: str
    ) -> None:
        other = DELETE if journal_mode == WAL else WAL
        with by_hand(good) as connection:
            connection.pragma("journal_mode", other)
        monkeypatch.setattr(apsw, "Connection", deaf_to("journal_mode"))

        with pytest.raises(StoreSettingError, match=f"PRAGMA journal_mode is '{other}'"):
            SqliteStore(good).open()

    def test_a_setting_that_does_not_take_on_a_reader_refuses_the_read(
        self, good: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(good) as store:
            monkeypatch.setattr(apsw, "Connection", deaf_to("foreign_keys"))
            with store._pool.exclusive():
                pass  # the readers are opened anew

            with pytest.raises(StoreSettingError):
                store.agents()


def deaf_to(ignored: str) -> type[apsw.Connection]:
    """A connection on which one pragma cannot be set."""

    class Deaf(apsw.Connection):
        def pragma(self, name: str, *values: Any, **options: Any) -> Any:
            return None if name == ignored and values else super().pragma(name, *values, **options)

    return Deaf


@pytest.mark.both_modes
class TestNewFiles:
    def test_a_file_and_its_lock_are_made_for_their_owner_only(self, path: Path, journal_mode: str) -> None:
        before = os.umask(0)
        try:
            with opened(path):
                modes = {found.name: found.stat().st_mode & 0o777 for found in path.parent.iterdir()}
        finally:
            os.umask(before)

        names = {"agents.db", "agents.db.lock", *(("agents.db-wal", "agents.db-shm") if journal_mode == WAL else ())}
        assert modes == dict.fromkeys(names, 0o600)

    def test_an_empty_file_is_a_creation_that_was_cut_off(self, path: Path) -> None:
        path.touch()

        with opened(path) as store:
            assert store.agents() == []
        assert problems(path) == []

    @pytest.mark.parametrize("application_id", [0, opening.APPLICATION_ID])
    def test_a_file_of_version_0_is_brought_to_the_newest(self, path: Path, application_id: int) -> None:
        with by_hand(path) as connection:
            connection.pragma("auto_vacuum", 2)
            connection.pragma("application_id", application_id)
            connection.execute("VACUUM")
        assert path.stat().st_size > 0

        with opened(path) as store:
            assert store.agents() == []
            _, epoch = store.position()

        header = path.read_bytes()[:100]
        assert int.from_bytes(header[68:72], "big") == opening.APPLICATION_ID
        assert int.from_bytes(header[60:64], "big") == opening.SCHEMA_VERSION
        with opened(path) as store:
            assert store.position(0, epoch)[0] == 0

    def test_two_files_have_two_epochs(self, path: Path) -> None:
        epochs = set()
        for name in ("one.db", "two.db"):
            with opened(path.with_name(name)) as store:
                epochs.add(store.position()[1])

        assert len(epochs) == 2


@pytest.fixture(scope="module")
def schema() -> Iterator[apsw.Connection]:
    """The newest schema with one agent, to be rolled back after each try."""
    connection = connections.connect("file:/schema-of-the-tests?vfs=memdb", create=True)
    opening.migrate(connection, "the schema")
    assert takes(connection, "agents", agent_row("a"), keep=True)
    yield connection
    connection.close()


def agent_row(agent: str, status: str = "running") -> dict[str, object]:
    names = ("epoch", "type", "created_at", "configuration", "prompt")
    return {"id": agent, "status": status, "head": 0, **dict.fromkeys(names, "")}


def takes(connection: apsw.Connection, table: str, row: dict[str, object], keep: bool = False) -> bool:
    """Whether the schema takes a row."""
    columns = ", ".join(f'"{name}"' for name in row)
    connection.execute("SAVEPOINT try")
    try:
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        return True
    except apsw.ConstraintError:
        return False
    finally:
        connection.execute(f"{'' if keep else 'ROLLBACK TO try;'} RELEASE try")


class TestSchemaAndPythonSayTheSame:
    def test_the_statuses(self, schema: apsw.Connection) -> None:
        tried = [*AgentStatus, "", "Running", "RUNNING", "done", "initialising"]

        assert {status for status in tried if takes(schema, "agents", agent_row("b", status))} == set(AgentStatus)

    def test_the_transitions(self, schema: apsw.Connection) -> None:
        step = {"position": 1, "agent_key": 1, "after_sequence": 0, "at": AT}
        allowed = {(one, other) for one, others in TRANSITIONS.items() for other in others}

        found = {
            pair
            for pair in product(AgentStatus, repeat=2)
            if takes(schema, "agent_transitions", {**step, "from": pair[0], "to": pair[1]})
        }

        assert found == allowed

    def test_the_types_of_messages_and_of_content(self, schema: apsw.Connection) -> None:
        tried = (*MESSAGE_TYPES, "", "User", "whisper")
        types = {type for type in tried if takes(schema, "agent_messages", {**MESSAGE, "type": type})}
        contents = {
            type
            for type in (*CONTENT_TYPES, "", "html")
            if takes(schema, "agent_messages", {**MESSAGE, "content_type": type})
        }

        assert types == set(MESSAGE_TYPES)
        assert contents == set(CONTENT_TYPES)

    @settings(deadline=None, max_examples=examples(100, 300))
    @example("a\x00b")
    @example("")
    @example("a" * 128)
    @example("a" * 129)
    @example("a\n")
    @example("^")
    @example("é")
    @example("]")
    @given(
        st.text(max_size=6)
        | st.text("azAZ09._:-", max_size=140)
        | st.text("az AZ/@[`{09._:-;,\x00\n\u00e9\uff21", max_size=5)
    )
    def test_the_ids_of_agents(self, schema: apsw.Connection, agent: str) -> None:
        try:
            check_agent_id(agent)
            is_id = True
        except InvalidValueError:
            is_id = False

        assert takes(schema, "agents", agent_row(agent)) == (is_id and agent != "a")


class TestConstraints:
    @pytest.mark.parametrize(
        "row",
        [
            {**MESSAGE, "agent_key": 2},
            {**MESSAGE, "content": b"bytes"},
            {**MESSAGE, "content": None},
            {**MESSAGE, "sequence_number": None},
        ],
        ids=["unknown agent", "content is bytes", "no content", "no sequence"],
    )
    def test_a_message_that_is_none_is_refused(self, schema: apsw.Connection, row: dict[str, object]) -> None:
        assert takes(schema, "agent_messages", MESSAGE)
        assert not takes(schema, "agent_messages", row)

    def test_there_is_one_counter_of_positions(self, schema: apsw.Connection) -> None:
        assert not takes(schema, "positions", {"id": 2, "last": 0, "epoch": ""})
