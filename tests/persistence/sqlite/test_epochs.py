"""A cursor is good for what it was given out of, over restarts, and for nothing that a backup has taken back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from commitcast.persistence.errors import StaleEpochError
from commitcast.persistence.sqlite import opening
from commitcast.persistence.sqlite.store import SqliteStore
from stores import by_hand, commit, contents, new_agent, opened, problems, text


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


class TestRestarts:
    def test_a_cursor_is_good_in_the_run_that_gave_it_out_and_in_all_later_ones(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first", "second"))
            of_one, of_all = cursor_of_a(store), store.position()

        for _ in range(3):
            with opened(path) as store:
                commit(store, "a", text("more"))

                assert store.resolve_cursor("a", *of_one).record.id == "a"
                assert store.position(*of_all)[0] > of_all[0]

    def test_each_run_gives_out_an_epoch_of_its_own(self, path: Path) -> None:
        seen = set()
        for number in range(3):
            with opened(path) as store:
                if number == 0:
                    commit(store, "a", new_agent())
                seen |= {cursor_of_a(store)[1], store.position()[1]}

        assert len(seen) == 6

    def test_a_cursor_beyond_what_its_run_reached_is_of_another_history(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            _, epoch = cursor_of_a(store)
            _, epoch_of_all = store.position()
        with opened(path) as store:
            commit(store, "a", text("second"))

            with pytest.raises(StaleEpochError):
                store.resolve_cursor("a", 2, epoch)
            with pytest.raises(StaleEpochError):
                store.position(3, epoch_of_all)


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


class TestEpochs:
    def test_the_tail_is_there_whatever_the_run(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            log, _, _ = cursor_of_a(store)[1].partition("-")

            assert store.resolve_cursor("a", None, f"{log}-unknown").position == 2

    @pytest.mark.parametrize("epoch", ["", "other", "other-run", "-", "e-unknown"])
    def test_one_that_was_never_given_out_is_refused(self, path: Path, epoch: str) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first", epoch="e"))

            with pytest.raises(StaleEpochError):
                store.resolve_cursor("a", 1, epoch)

    def test_one_that_names_the_agent_alone_proves_the_agent(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first", epoch="e"))

            assert store.resolve_cursor("a", 1, "e").position == 2


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
        monkeypatch.setattr(opening, "begin_run", full_once(opening.begin_run))
        with opened(path) as store:
            assert cursor_of_a(store) == before
            commit(store, "a", text("second"))

            assert cursor_of_a(store)[1] != before[1]
            assert store.resolve_cursor("a", *before).record.head == 2
