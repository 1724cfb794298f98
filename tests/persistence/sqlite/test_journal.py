"""The switch between journal modes: with data, beside others, cut off at any point, and what is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commitcast.persistence.errors import InvalidValueError, StoreCorruptError, StoreLockedError, StorePathError
from commitcast.persistence.sqlite import journal
from commitcast.persistence.sqlite.journal import DELETE, WAL, index_of, log_of
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from faulty_disk import DATABASE, JOURNAL, LOG, FaultyDisk
from forking import in_a_child
from stores import by_hand, commit, contents, new_agent, opened, problems, reader_value, text
from users import ordinary_user

OTHER = {DELETE: WAL, WAL: DELETE}


@pytest.fixture(params=[DELETE, WAL])
def mode(request: pytest.FixtureRequest) -> str:
    """The mode that a file is put into; before, it is in the other."""
    found: str = request.param
    return found


@pytest.fixture
def other(path: Path, mode: str) -> Path:
    """A file in the other mode, with one message."""
    with opened(path, journal_mode=OTHER[mode]) as store:
        commit(store, "a", new_agent("first"))
    return path


def leave_a_log(path: Path) -> None:
    """Leave the file as a crash of its runtime does, with one message in it and one in its log."""

    def die() -> None:
        store = SqliteStore(path, journal_mode=WAL)
        store.open()
        commit(store, "a", new_agent("first"))
        commit(store, "a", text("second"))
        os._exit(0)

    in_a_child(die)
    assert log_of(path).stat().st_size > 0
    with path.open("rb") as file:
        assert b"second" not in file.read()


def mode_of(path: Path) -> str:
    with path.open("rb") as file:
        return WAL if journal.is_wal(file.read(100)) else DELETE


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix != ".lock"}


class TestSwitching:
    def test_a_file_in_the_other_mode_is_switched_with_all_that_it_has(self, other: Path, mode: str) -> None:
        assert mode_of(other) == OTHER[mode]

        with opened(other, journal_mode=mode) as store:
            assert reader_value(store, "PRAGMA journal_mode") == mode
            assert contents(store, "a") == [(1, "first")]
            commit(store, "a", text("second"))

        assert mode_of(other) == mode
        assert names(other.parent) == {other.name}
        assert problems(other) == []
        with opened(other, read_only=True) as store:
            assert contents(store, "a") == [(1, "first"), (2, "second")]

    @pytest.mark.parametrize("mode", [DELETE, WAL])
    def test_a_log_that_a_crash_left_is_recovered_in_each_mode(self, path: Path, mode: str) -> None:
        leave_a_log(path)

        with opened(path, journal_mode=mode) as store:
            assert contents(store, "a") == [(1, "first"), (2, "second")]
            commit(store, "a", text("third"))

        assert problems(path) == []
        assert names(path.parent) == {path.name}

    def test_a_log_that_a_crash_left_is_read_by_commands(self, path: Path) -> None:
        leave_a_log(path)

        assert verify(path).messages == 2
        with opened(path, read_only=True) as store:
            assert contents(store, "a") == [(1, "first"), (2, "second")]

    def test_a_log_that_a_crash_left_is_neither_changed_by_a_verification_nor_by_a_refused_start(
        self, path: Path
    ) -> None:
        leave_a_log(path)
        before = log_of(path).read_bytes()

        assert verify(path).is_sound
        assert log_of(path).read_bytes() == before

        content = path.read_bytes()
        path.write_bytes(content[:100] + b"\xff" * 8 + content[108:])
        for mode in (DELETE, WAL):
            with pytest.raises(StoreCorruptError, match="it is damaged"):
                SqliteStore(path, journal_mode=mode).open()
        assert log_of(path).read_bytes() == before

    def test_it_is_refused_while_another_connection_reads_and_nothing_changes(
        self, other: Path, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("commitcast.persistence.sqlite.connections.BUSY_TIMEOUT_S", 0.02)
        with by_hand(other) as reader:
            reader.execute("BEGIN; SELECT count(*) FROM agents")

            with pytest.raises(StoreLockedError) as caught:
                SqliteStore(other, journal_mode=mode).open()

            assert f"cannot be switched to journal mode {mode!r}: close that program" in str(caught.value)
            assert reader.execute("SELECT count(*) FROM agents").get == 1
        assert mode_of(other) == OTHER[mode]
        with opened(other, journal_mode=mode) as store:
            assert contents(store, "a") == [(1, "first")]

    @pytest.mark.sampled(1 / 4)
    @pytest.mark.parametrize("again", [DELETE, WAL])
    def test_one_that_is_cut_off_anywhere_loses_nothing(
        self, path: Path, disk: FaultyDisk, mode: str, again: str
    ) -> None:
        saved = path.with_name("saved.db")
        if mode == DELETE:
            leave_a_log(path)
        else:
            with opened(path) as store:
                commit(store, "a", new_agent("first"))
                commit(store, "a", text("second"))
        for file in (path, log_of(path)):
            if file.exists():
                shutil.move(file, saved.with_name(file.name.replace(path.name, saved.name)))
        operations = ("write", "half write", "sync", "delete", "deleted")
        points = [(operation, file) for operation in operations for file in (DATABASE, JOURNAL, LOG)]
        cut_off = 0

        for operation, which in points:
            for after in range(20):
                for beside in (log_of(path), index_of(path), path.with_name(f"{path.name}-journal")):
                    beside.unlink(missing_ok=True)
                shutil.copy(saved, path)
                if log_of(saved).exists():
                    shutil.copy(log_of(saved), log_of(path))
                disk.on(operation, which, lambda: os._exit(9), after=after)
                store = SqliteStore(path, journal_mode=mode, vfs=disk.name)
                died = in_a_child(store.open) != 0
                disk.disarm()
                if not died:
                    break
                cut_off += 1
                with opened(path, journal_mode=again) as store:
                    assert contents(store, "a") == [(1, "first"), (2, "second")]
                assert problems(path) == []

        assert cut_off > 10


class TestRefusals:
    @pytest.mark.parametrize("value", ["off", "WAL", "memory", ""])
    def test_another_mode_is_refused(self, path: Path, value: str) -> None:
        with pytest.raises(InvalidValueError, match="must be 'delete' or 'wal'"):
            SqliteStore(path, journal_mode=value)

    @pytest.mark.parametrize("read_only", [False, True])
    def test_a_log_of_another_database_is_not_written_into_the_file(self, path: Path, read_only: bool) -> None:
        leave_a_log(path)
        path.unlink()
        with opened(path.with_name("backup.db")) as store:
            commit(store, "b", new_agent("other"))
        path.with_name("backup.db").rename(path)
        before = path.read_bytes(), log_of(path).read_bytes()

        with pytest.raises(StorePathError, match="a log of another database lies beside it"):
            SqliteStore(path, read_only=read_only).open()

        assert (path.read_bytes(), log_of(path).read_bytes()) == before

    def test_a_log_without_its_file_is_kept(self, path: Path) -> None:
        leave_a_log(path)
        path.unlink()

        with pytest.raises(StorePathError, match="a log of another database lies beside it"):
            SqliteStore(path, journal_mode=WAL).open()

        assert log_of(path).stat().st_size > 0

    @pytest.mark.parametrize("beside", [log_of, index_of])
    @pytest.mark.parametrize("is_soft", [True, False])
    def test_a_link_in_the_place_of_a_log_is_refused(
        self, path: Path, beside: Callable[[Path], Path], is_soft: bool
    ) -> None:
        with opened(path, journal_mode=WAL):
            pass
        elsewhere = path.with_name("elsewhere")
        elsewhere.touch()
        (beside(path).symlink_to if is_soft else beside(path).hardlink_to)(elsewhere)

        with pytest.raises(StorePathError, match="is not a regular file, or has hard links"):
            SqliteStore(path, journal_mode=WAL).open()


class TestReadOnlyMedia:
    def test_a_file_in_wal_mode_can_be_read_and_verified(self) -> None:
        with ordinary_user() as folder:
            path = folder / "agents.db"
            with opened(path, journal_mode=WAL) as store:
                commit(store, "a", new_agent("first"))
            path.chmod(0o400)
            folder.chmod(0o500)

            with opened(path, read_only=True) as store:
                assert contents(store, "a") == [(1, "first")]
            assert verify(path).is_sound

            assert names(folder) == {path.name}
