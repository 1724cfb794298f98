"""A copy that is made while the store is written to is whole, and nothing but whole copies is ever there."""

import itertools
import threading
from pathlib import Path

import pytest

from commitcast.persistence import sqlite_backup
from commitcast.persistence.errors import StoreClosedError, StoreError, StorePathError
from commitcast.persistence.sqlite import SqliteStore
from stores import commit, contents, new_agent, opened, problems, text
from waiting import TIMEOUT_S


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
    monkeypatch.setattr(sqlite_backup, "STEP_PAGES", 1)
    with opened(path) as store:
        commit(store, "a", new_agent(*("x" * 1_000 for _ in range(200))))
        is_done = threading.Event()
        seen: list[tuple[int, int]] = []

        def write() -> None:
            for number in itertools.count():
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
        assert sorted(found.name for found in path.parent.iterdir()) == ["agents.db", "agents.db.lock"]


def test_a_closed_store_makes_none(path: Path, target: Path) -> None:
    with pytest.raises(StoreClosedError):
        SqliteStore(path).backup(target)
