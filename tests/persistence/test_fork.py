"""A child that is forked from a process with an open store keeps nothing of it, and harms nothing."""

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from commitcast.persistence import fork
from commitcast.persistence.errors import StoreLockedError
from commitcast.persistence.sqlite.lock import FileLock
from commitcast.persistence.sqlite.store import SqliteStore
from forking import forked, refused
from repeating import repeating
from stores import commit, contents, new_agent, opened, problems, text
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.both_modes

FORKED = "ForkedRuntimeError"


def uses_of(store: SqliteStore) -> str:
    return refused(
        lambda: store.agent("a"),
        lambda: store.messages("a"),
        lambda: commit(store, "a", text("more")),
        lambda: store.backup("copy.db"),
        store.verify,
        store.open,
        store.close,
    )


def test_a_child_is_refused_every_use_and_the_parent_goes_on(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))

        with forked(lambda: uses_of(store)) as child:
            assert child.answer() == " ".join([FORKED] * 6 + ["-"])
            commit(store, "a", text("second"))

        assert contents(store, "a") == [(1, "first"), (2, "second")]
    assert problems(path) == []


def test_a_read_only_store_is_refused_in_a_child_too(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
    with opened(path, read_only=True) as store, forked(lambda: refused(lambda: store.agent("a"))) as child:
        assert child.answer() == FORKED
        assert contents(store, "a") == [(1, "first")]


def test_a_closed_store_can_be_opened_again_while_a_child_lives(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        living = forked()
        living.__enter__().answer()
    try:
        with opened(path) as again:
            assert contents(again, "a") == [(1, "first")]
    finally:
        living.__exit__(None, None, None)


def test_a_child_neither_gives_the_parents_lock_back_nor_takes_it_over(path: Path) -> None:
    def second() -> str:
        return refused(lambda: FileLock(path))

    with opened(path), forked(second) as child:
        assert child.answer() == "StoreLockedError"
        with pytest.raises(StoreLockedError, match=r"which is this one"):
            FileLock(path)


def test_a_child_has_no_copy_of_the_lock_which_would_outlive_a_killed_parent(path: Path) -> None:
    lock = os.path.realpath(f"{path}.lock")

    def copies() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{name}") == lock for name in os.listdir("/proc/self/fd"))

    with opened(path), forked(copies) as child:
        assert child.answer() == "0"
        assert copies() == 1


def test_a_lock_is_given_back_though_a_copy_of_it_is_open(path: Path) -> None:
    lock = FileLock(path)
    copy = os.dup(lock._file)  # as a fork makes one that Python does not see
    try:
        lock.close()
        FileLock(path).close()
    finally:
        os.close(copy)


def test_the_lock_of_a_process_that_is_gone_is_not_blamed_on_its_number(path: Path) -> None:
    lock = FileLock(path)
    try:
        path.with_name(path.name + ".lock").write_text(f"{2**22 + 1}\n")
        with pytest.raises(StoreLockedError, match="an unknown process has it open"):
            FileLock(path)
    finally:
        lock.close()


def writing(store: SqliteStore) -> AbstractContextManager[None]:
    """Commit without a pause, on another thread."""
    return repeating(lambda number: commit(store, "a", text(f"{number}")))


def wait_for_more(store: SqliteStore) -> None:
    stored = len(contents(store, "a"))
    wait_until(lambda: len(contents(store, "a")) > stored + 2, "commits to go on")


def test_forks_in_the_midst_of_commits_cost_nothing_and_the_children_can_use_sqlite(path: Path) -> None:
    def own_store() -> str:
        with opened(path.with_name(f"own-{os.getpid()}.db")) as own:
            commit(own, "b", new_agent("mine"))
            return str(contents(own, "b"))

    with opened(path) as store:
        commit(store, "a", new_agent("0"))
        with writing(store):
            for _ in range(3):
                with forked(own_store) as child:
                    assert child.answer() == "[(1, 'mine')]"
                    wait_for_more(store)
    assert problems(path) == []


def test_a_child_that_was_forked_while_sqlite_was_in_use_says_so_instead_of_hanging(path: Path) -> None:
    def own_store() -> str:
        return refused(SqliteStore(path.with_name("own.db")).open)

    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        answers: list[str] = []

        def fork_here(*_: int) -> None:
            with forked(own_store) as child:
                answers.append(child.answer())

        store.verify(progress=fork_here)
        store.backup(path.with_name("copy.db"), fork_here)

    assert answers and set(answers) == {FORKED}
    assert problems(path) == []


def test_a_commit_that_does_not_end_holds_a_fork_up_for_a_moment_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "REST_TIMEOUT_S", 0.05)
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        with store._committing, forked(lambda: uses_of(store)) as child:
            assert child.answer() == " ".join([FORKED] * 6 + ["-"])
        commit(store, "a", text("second"))


def test_two_threads_that_fork_at_once_do_not_wait_for_each_other(path: Path) -> None:
    def several() -> None:
        for _ in range(5):
            with forked() as child:
                child.answer()

    with opened(path) as one, opened(path.with_name("other.db")) as other:
        threads = [threading.Thread(target=several) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        commit(one, "a", new_agent("first"))
        commit(other, "a", new_agent("first"))
