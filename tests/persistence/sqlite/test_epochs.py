"""Cursors over backups and copies of a file, files of the first schema, and a full disk."""

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from commitcast.persistence.errors import StaleEpochError
from commitcast.persistence.sqlite import epochs, opening
from commitcast.persistence.sqlite.store import SqliteStore
from stores import by_hand, commit, contents, new_agent, opened, problems, text

pytestmark = pytest.mark.both_modes


def cursor_of_a(store: SqliteStore) -> tuple[int, str]:
    """Where the log of agent a ends, as a subscriber would keep it."""
    standing = store.resolve_cursor("a", None)
    return standing.record.head, standing.epoch


def full_once(begin: Callable[[apsw.Connection], None]) -> Callable[[apsw.Connection], None]:
    """Find the disk full the first time."""
    full = iter([apsw.FullError("database or disk is full")])

    def begin_when_there_is_room(connection: apsw.Connection) -> None:
        for error in full:
            raise error
        begin(connection)

    return begin_when_there_is_room


class TestBackups:
    @pytest.mark.parametrize("live", [False, True])
    def test_a_cursor_beyond_the_backup_is_told_and_one_before_it_goes_on(self, path: Path, live: bool) -> None:
        backup = path.with_name("backup.db")
        with opened(path) as store:
            commit(store, "a", new_agent("first", "second"))
            before, all_before = cursor_of_a(store), store.position()
            if live:
                with by_hand(path) as source, by_hand(backup) as copy, copy.backup("main", source, "main") as steps:
                    steps.step()
                commit(store, "a", text("lost"))
                beyond, all_beyond = cursor_of_a(store), store.position()
        if not live:
            shutil.copy(path, backup)
            with opened(path) as store:
                commit(store, "a", text("lost"))
                beyond, all_beyond = cursor_of_a(store), store.position()
        shutil.copy(backup, path)

        with opened(path) as store:
            commit(store, "a", text("new"), text("newer"))

            assert store.resolve_cursor("a", *before).record.head == 4
            assert store.position(*all_before)[0] == 5
            with pytest.raises(StaleEpochError, match="start again after 0"):
                store.resolve_cursor("a", *beyond)
            with pytest.raises(StaleEpochError):
                store.position(*all_beyond)

    def test_two_copies_that_go_on_apart_do_not_take_each_others_cursors(self, path: Path) -> None:
        twin = path.with_name("twin.db")
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
        shutil.copy(path, twin)
        with opened(path) as store, opened(twin) as other:
            for one in (store, other):
                commit(one, "a", text("second"))

            with pytest.raises(StaleEpochError):
                other.resolve_cursor("a", *cursor_of_a(store))
            with pytest.raises(StaleEpochError):
                store.position(*other.position())


class TestOlderFiles:
    def test_a_file_of_the_first_schema_goes_on(self, path: Path) -> None:
        with by_hand(path) as connection:
            connection.pragma("auto_vacuum", 2)
            connection.execute(opening._script(1))
            connection.execute("INSERT INTO positions VALUES (1, 0, 'file')")
            connection.pragma("application_id", opening.APPLICATION_ID)
            connection.pragma("user_version", 1)

        with opened(path) as store:
            commit(store, "a", new_agent("first", epoch="e"))

            assert contents(store, "a") == [(1, "first")]
            assert store.position(0, "file")[0] == 2
        assert problems(path) == []

    def test_without_room_for_the_run_it_begins_with_the_first_commit(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            before = cursor_of_a(store)
        monkeypatch.setattr(epochs, "begin_run", full_once(epochs.begin_run))
        with opened(path) as store:
            assert cursor_of_a(store) == before
            commit(store, "a", text("second"))

            assert cursor_of_a(store)[1] != before[1]
            assert store.resolve_cursor("a", *before).record.head == 2
