"""An agent's messages are found in a file where they lie in commit order, and files with an index become such files."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.persistence.errors import StoreReadError, StoreUnknownError
from commitcast.persistence.records import MessageRecord
from commitcast.persistence.sqlite import chain, opening
from commitcast.persistence.sqlite.rows import STEP
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from stores import by_hand, commit, new_agent, of, opened, problems, text

AGENTS = ["a", "b", "c"]


def tell(store: SqliteStore, batches: list[list[int]]) -> dict[str, list[MessageRecord]]:
    """In each batch let each agent say so many messages; return them all."""
    told: dict[str, list[MessageRecord]] = {agent: [] for agent in AGENTS}
    for agent in AGENTS:
        commit(store, agent, new_agent(epoch=agent))
    for batch in batches:
        work = [
            of(agent, *[text(f"{agent}{n}") for n in range(count)])
            for agent, count in zip(AGENTS, batch, strict=True)
            if count
        ]
        for writes, outcome in zip(work, store.commit(work) if work else [], strict=True):
            told[writes.agent] += [reply for reply in outcome.replies if isinstance(reply, MessageRecord)]
    return told


@given(st.lists(st.lists(st.integers(0, 90), min_size=3, max_size=3), max_size=12), st.data())
@pytest.mark.sampled(1 / 2)
def test_a_page_holds_what_follows_whatever_lies_between(batches: list[list[int]], data: st.DataObject) -> None:
    with opened(":memory:") as store:
        told = tell(store, batches)
        for agent, messages in told.items():
            after = data.draw(st.integers(0, len(messages) + 2))
            limit = data.draw(st.integers(1, len(messages) + 40))

            assert store.messages(agent, after, limit) == messages[after : after + limit]
            head = store.heads([agent])[agent]
            assert head.sequence == len(messages)
            for sequence in {1, STEP - 1, STEP, STEP + 1, len(messages)} & set(range(1, len(messages) + 1)):
                assert store.resolve_cursor(agent, sequence).position == messages[sequence - 1].position


def test_a_long_page_is_found_in_pieces_and_ends_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "CHUNK_ROWS", 7)
    with opened(":memory:") as store:
        told = tell(store, [[5, 1, 0]] * 40)["a"]

        assert store.messages("a", 0, 10**9) == told
        assert store.messages("a", 13, 150) == told[13:163]
        assert store.messages("a", 3, 100, max_bytes=1) == told[3:4]


def test_so_many_messages_have_a_step() -> None:
    with opened(":memory:") as store:
        told = tell(store, [[1, 90, 3]] * 2 * STEP)
        with store._between_commits() as connection:
            steps = list(connection.execute("SELECT agent_key, sequence_number, position FROM agent_steps"))

    ends = [(key, message) for key, agent in enumerate(AGENTS, 1) for message in told[agent][STEP - 1 :: STEP]]
    expected = [(key, message.sequence, message.position) for key, message in ends]
    assert steps == expected


def test_a_step_is_complete_also_if_its_first_messages_were_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    told = []
    with opened(path) as store:
        store.commit([of("b", new_agent()), of("a", new_agent())])
    for run, messages in enumerate((1, 1, STEP // 2, STEP // 2 - 3, 1, 1, 7)):
        with opened(path) as store:
            for number in range(messages):
                work = [of("b", text(f"b{run} {number}")), of("a", text(f"a{run} {number}"))]
                told += store.commit(work)[1].replies

    with opened(path) as store:
        assert store.messages("a", 0, 1_000) == told
    assert problems(path) == []


def test_verify_compares_a_step_with_the_messages(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    with opened(path) as store:
        tell(store, [[3, STEP, 3]] * 2)
    with by_hand(path) as connection:
        changed = "backs = '2' || substr(backs, 2)"
        connection.execute(f"UPDATE agent_steps SET {changed} WHERE sequence_number = {2 * STEP}")

    assert verify(path).problems == [f"agent 'b' has {2 * STEP} messages, but other steps"]


def older(path: Path, version: int, batches: list[list[int]]) -> dict[str, list[MessageRecord]]:
    """Make a file as an earlier version has left it."""
    newer = path.with_name("newer.db")
    with opened(newer) as store:
        told = tell(store, batches)
    with by_hand(path) as connection:
        connection.pragma("auto_vacuum", 2)
        for number in range(1, version + 1):
            connection.execute(opening._script(number))
        connection.pragma("application_id", opening.APPLICATION_ID)
        connection.pragma("user_version", version)
        connection.execute("ATTACH ? AS newer", (str(newer),))
        for table in ("positions", "agents", "agent_messages", *["runs"][: version - 1]):
            columns = ", ".join(
                name for _, name, *_ in connection.execute(f"SELECT * FROM pragma_table_info('{table}')")
            )
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}")
    return told


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_is_read_as_it_is_and_migrated_when_it_is_written(tmp_path: Path, version: int) -> None:
    path = tmp_path / "agents.db"
    told = older(path, version, [[1, 80, 3], [0, 1, 1]] * 5)
    reader = SqliteStore(path, read_only=True)
    reader.open()

    def found(store: SqliteStore) -> list[list[MessageRecord]]:
        if version > 1 or not store._read_only:
            assert store.resolve_cursor("b", 40).position == told["b"][39].position
        assert {agent: head.sequence for agent, head in store.heads(AGENTS).items()} == {
            agent: len(messages) for agent, messages in told.items()
        }
        return [store.messages(agent, 0, 1_000) for agent in AGENTS]

    assert verify(path).problems == []
    assert found(reader) == list(told.values())
    with opened(path) as store:
        assert found(store) == found(reader) == list(told.values())  # also where the file is migrated meanwhile
        with store._between_commits() as writer:
            assert writer.pragma("cache_spill") == 0  # which a migration needs, and page reads must not have
        commit(store, "a", text("later"))
        assert store.messages("a", 4)[-1].content == "later"
    reader.close()

    assert problems(path) == []
    with by_hand(path) as connection:
        assert connection.pragma("user_version") == opening.SCHEMA_VERSION


STATEMENTS = [part for part in opening._script(3).split(";\n") if part.strip()]

KILLED = """
import os, signal, sys
import apsw
from commitcast.persistence.sqlite import opening
from commitcast.persistence.sqlite.rows import STEP
from commitcast.persistence.sqlite.store import SqliteStore

migrate, left = opening.migrate, [int(sys.argv[2])]

def trace(cursor, sql, bindings):
    if "messages_in_order" in sql or "agent_messages" in sql or "agent_steps" in sql or "tail" in sql:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return True

def traced(connection, name):
    connection.exec_trace = trace
    migrate(connection, name)

opening.migrate = traced
SqliteStore(sys.argv[1]).open()
"""


@pytest.mark.parametrize("statement", range(len(STATEMENTS)))
def test_a_migration_that_is_killed_loses_nothing(tmp_path: Path, statement: int) -> None:
    path = tmp_path / "agents.db"
    told = older(path, 2, [[90, 130, 3]] * 3)

    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(statement)], timeout=60)

    assert killed.returncode == -signal.SIGKILL
    assert verify(path).problems == []
    with opened(path) as store:
        assert [store.messages(agent, 0, 1_000) for agent in AGENTS] == list(told.values())
    assert problems(path) == []


@pytest.mark.parametrize(
    ("further", "why"), [(1, "message 4 of the agent is missing"), (-2, "was changed since it was stored")]
)
def test_a_way_that_leads_elsewhere_is_damage_and_hides_no_message(tmp_path: Path, further: int, why: str) -> None:
    path = tmp_path / "agents.db"
    with opened(path) as store:
        tell(store, [[2, 2, 2]] * 3)
    with by_hand(path) as connection:
        connection.execute(
            f"UPDATE agent_messages SET back = back + {further} WHERE agent_key = 1 AND sequence_number = 5"
        )

    with opened(path) as store, pytest.raises(StoreReadError, match=why):
        store.messages("a", 3, 10)


@pytest.mark.parametrize("field", ["content", "raw", "metadata"])
def test_large_messages_are_read_one_by_one_when_they_are_asked_for(tmp_path: Path, field: str) -> None:
    of_field: dict[str, dict[str, Any]] = {"raw": {"raw": b"x" * 20_000}, "metadata": {"metadata": {"x": "x" * 20_000}}}
    large = of_field.get(field, {})
    content = "x" * 20_000 if field == "content" else "x"
    path = tmp_path / "agents.db"
    with opened(path) as store:
        commit(store, "a", new_agent())
        told = [
            commit(store, "a", text("small") if number % 3 else text(content, **large)).replies[0]
            for number in range(40)
        ]

        assert store.messages("a", 0, 100) == told
    read: list[int] = []

    def note(_: object, row: tuple[Any, ...]) -> tuple[Any, ...]:
        read.append(sum(len(str(value)) > 9_000 for value in row))
        return row

    with by_hand(path) as connection:
        rows = chain._rows_at(connection, [message.position for message in told if isinstance(message, MessageRecord)])
        connection.row_trace = note
        for _ in range(4):
            next(rows)
    assert sum(read) == 2  # of the fourteen: those among the first four


def test_a_broken_way_back_is_never_continued(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    with opened(path) as store:
        tell(store, [[2, 2, 2]] * 3)
    with by_hand(path) as connection:
        connection.execute("UPDATE agent_messages SET back = 0 WHERE agent_key = 1 AND sequence_number = 5")

    with opened(path) as store:
        assert commit(store, "b", text("sound")).refused is False
        with pytest.raises(StoreUnknownError, match="the way back from message 6 of an agent is broken"):
            commit(store, "a", text("later"))
