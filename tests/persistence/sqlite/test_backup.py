"""A copy that is made while the store is written to is whole, and nothing but whole copies is ever there."""

import threading
from pathlib import Path

import pytest

from commitcast.persistence.errors import StoreClosedError, StoreError, StorePathError
from commitcast.persistence.sqlite import backup
from commitcast.persistence.sqlite.journal import index_of, is_wal, log_of
from commitcast.persistence.sqlite.store import SqliteStore
from stores import commit, contents, new_agent, opened, problems, text
from waiting import TIMEOUT_S

pytestmark = pytest.mark.both_modes


@pytest.fixture
def target(path: Path) -> Path:
    return path.with_name("copy.db")


def test_it_holds_what_is_committed(path: Path, target: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first", "second"))

        store.backup(target)
        commit(store, "a", text("third"))

    assert problems(target) == []
    assert target.stat().st_mode & 0o777 == 0o600
    with opened(target) as copy:
        assert contents(copy, "a") == [(1, "first"), (2, "second")]


def test_commits_come_between_its_steps_and_the_copy_is_sound(
    path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    with opened(path) as store:
        commit(store, "a", new_agent(*("x" * 1_000 for _ in range(200))))
        is_done = threading.Event()
        seen: list[tuple[int, int]] = []

        def write() -> None:
            for number in range(500):  # it must not grow faster than it is copied
                commit(store, "a", text(str(number)))
                if is_done.is_set():
                    return

        writing = threading.Thread(target=write)
        writing.start()
        store.backup(target, lambda done, of: seen.append((done, of)))
        during = len(contents(store, "a"))
        is_done.set()
        writing.join(TIMEOUT_S)

        assert during > 201
        assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 50
    assert problems(target) == []
    with opened(target) as copy:
        assert 200 <= len(contents(copy, "a")) <= during + 1


def test_a_file_that_exists_is_left_as_it_is(path: Path, target: Path) -> None:
    target.write_bytes(b"mine")
    with opened(path) as store, pytest.raises(StorePathError, match="exists already"):
        store.backup(target)

    assert target.read_bytes() == b"mine"


def test_nothing_is_left_of_one_that_fails(path: Path, target: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("enough")

    with opened(path) as store:
        with pytest.raises(RuntimeError, match="enough"):
            store.backup(target, fail)
        with pytest.raises(StoreError):
            store.backup(path.with_name("missing") / "copy.db")
        left = {found.name for found in path.parent.iterdir()} - {log_of(path).name, index_of(path).name}
        assert left == {"agents.db", "agents.db.lock"}


@pytest.mark.parametrize("where", ["missing/copy.db", "file/copy.db"])
def test_a_name_that_is_in_no_folder_is_refused_as_such(path: Path, where: str) -> None:
    path.with_name("file").touch()
    with opened(path) as store, pytest.raises(StorePathError, match="there is no folder"):
        store.backup(path.parent / where)


@pytest.mark.parametrize(("leads_to", "why"), [("nothing", "dangling symbolic link"), ("agents.db", "exists already")])
def test_a_link_is_refused_and_left_as_it_is(path: Path, target: Path, leads_to: str, why: str) -> None:
    target.symlink_to(leads_to)
    with opened(path) as store, pytest.raises(StorePathError, match=why):
        store.backup(target)

    assert target.readlink() == Path(leads_to)
    assert not path.with_name("nothing").exists()


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_copy_in_memory_is_refused(
    path: Path, as_path: type[str] | type[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    with opened(path) as store, pytest.raises(StorePathError, match="in memory"):
        store.backup(as_path(":memory:"))

    assert not Path(":memory:").exists()


def test_a_store_in_memory_can_be_copied(target: Path) -> None:
    with opened(":memory:") as store:
        commit(store, "a", new_agent("first"))

        store.backup(target)

    assert problems(target) == []


@pytest.mark.parametrize("name", ["x" * 247, "ü" * 123])
def test_a_name_may_be_as_long_as_that_of_a_database(path: Path, name: str) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))

        store.backup(path.with_name(name))

    assert problems(path.with_name(name)) == []


def test_of_two_to_one_name_one_is_made_and_the_other_is_told_so(path: Path, target: Path) -> None:
    both_at_work = threading.Barrier(2)
    outcomes: list[object] = []

    def copy(store: SqliteStore) -> None:
        met = False

        def meet(*_: object) -> None:
            nonlocal met
            if not met:
                met = True
                both_at_work.wait(TIMEOUT_S)

        try:
            store.backup(target, meet)
            outcomes.append("made")
        except StorePathError as error:
            outcomes.append(error.why)

    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        copying = [threading.Thread(target=copy, args=(store,)) for _ in range(2)]
        for thread in copying:
            thread.start()
        for thread in copying:
            thread.join(TIMEOUT_S)

    assert sorted(map(str, outcomes)) == ["it exists already: choose another name for the copy", "made"]
    assert problems(target) == []
    assert not list(path.parent.glob("*.partial*"))


def test_a_file_left_behind_by_a_crash_does_not_hinder_a_backup(path: Path, target: Path) -> None:
    left = target.with_name("copy.db.partial")
    left.write_bytes(b"half")
    with opened(path) as store:
        store.backup(target)

    assert left.read_bytes() == b"half"


def test_a_closed_store_makes_none(path: Path, target: Path) -> None:
    with pytest.raises(StoreClosedError):
        SqliteStore(path).backup(target)


def test_a_copy_is_one_file_that_can_be_read_where_nothing_can_be_made(path: Path, target: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        store.backup(target)

        assert not log_of(target).exists() and not index_of(target).exists()
    assert not is_wal(target.read_bytes())
    assert problems(target) == []
