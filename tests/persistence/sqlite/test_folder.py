"""The folder is synced for every commit, with or without a descriptor to be had, and a sync that fails is known."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commitcast.persistence.errors import StoreOpenError, StoreUnknownError
from commitcast.persistence.sqlite.folder import Folder
from commitcast.persistence.sqlite.journal import WAL
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import LOG, FaultyDisk
from stores import by_hand, commit, contents, new_agent, opened, text

WITH_ONE_DESCRIPTOR = """
import os, resource, sys
from commitcast.persistence.sqlite.folder import Folder
from stores import commit, new_agent, opened, text

sync, synced = Folder.sync, []
Folder.sync = lambda folder: (synced.append(folder), sync(folder))
with opened(sys.argv[1]) as store:
    commit(store, "a", new_agent("first"))
    limit = 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        os.close(held.pop())  # for the journal, and nothing else
    synced.clear()
    for number in range(5):
        commit(store, "a", text(str(number)))
    print(len(synced))
"""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Folder]:
    """The folders that were synced, in order."""
    found: list[Folder] = []
    sync = Folder.sync

    def sync_and_tell(folder: Folder) -> None:
        sync(folder)
        found.append(folder)

    monkeypatch.setattr(Folder, "sync", sync_and_tell)
    return found


def test_each_commit_syncs_it_after_the_journal_was_made_and_after_it_was_removed(
    path: Path, synced: list[Folder]
) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        synced.clear()

        commit(store, "a", text("second"))

        assert len(synced) == 2


def test_it_is_synced_when_no_descriptor_is_left_to_open_it_with(path: Path) -> None:
    script = [sys.executable, "-c", WITH_ONE_DESCRIPTOR, str(path)]

    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "tests/support"})

    assert (done.stdout, done.stderr) == ("10\n", "")


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), ValueError("closed")])
def test_a_sync_that_fails_makes_the_commit_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(_: Folder) -> None:
        raise failure

    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        monkeypatch.setattr(Folder, "sync", fail)

        with pytest.raises(StoreUnknownError, match="may or may not be stored"):
            commit(store, "a", text("second"))


def test_a_second_store_in_the_folder_that_closes_leaves_the_first_its_syncs(path: Path, synced: list[Folder]) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))
        with opened(path.with_name("other.db")):
            pass
        synced.clear()

        commit(store, "a", text("second"))

        assert len(synced) == 2
        assert contents(store, "a") == [(1, "first"), (2, "second")]


def test_databases_of_others_are_synced_by_sqlite_itself_while_a_store_is_open_and_after(
    path: Path, tmp_path_factory: pytest.TempPathFactory, synced: list[Folder]
) -> None:
    theirs = tmp_path_factory.mktemp("theirs") / "theirs.db"
    with by_hand(theirs) as connection:
        connection.pragma("synchronous", "extra")
        with opened(path):
            synced.clear()
            connection.execute("CREATE TABLE theirs (value)")
            assert synced == []
        connection.execute("INSERT INTO theirs VALUES (1)")

        assert connection.execute("SELECT count(*) FROM theirs").get == 1


class TestWithALog:
    def test_it_is_synced_after_the_log_was_created_and_not_by_later_commits(
        self, path: Path, synced: list[Folder], disk: FaultyDisk
    ) -> None:
        with opened(path, journal_mode=WAL, vfs=disk.name) as store:
            assert ("sync", LOG) in disk.operations
            assert len(synced) > 0
            synced.clear()

            commit(store, "a", new_agent("first"))
            commit(store, "a", text("second"))

            assert synced == []

    def test_a_sync_that_fails_then_refuses_to_start(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))

        def fail(_: Folder) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Folder, "sync", fail)

        with pytest.raises(StoreOpenError, match="Input/output error"):
            SqliteStore(path, journal_mode=WAL).open()
