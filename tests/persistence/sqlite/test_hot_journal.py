"""A process killed in the middle of a commit: what the next start finds, undoes, and makes durable before it reads."""

import os
import signal
import subprocess
import sys
from pathlib import Path, PosixPath

import pytest

import faulty_disk
from commitcast.persistence.errors import NotADatabaseError, StoreOpenError
from commitcast.persistence.sqlite import lock, opening
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import DATABASE, JOURNAL, FaultyDisk
from stores import commit, contents, new_agent, opened, problems, text

pytestmark = pytest.mark.sampled(3, of_file=True)

SUPPORT = Path(faulty_disk.__file__).parent

# Dies when the pages of a commit are in the file and the journal is still there. With no agent: during the creation.
DIES = """
import os, signal, sys
from faulty_disk import DATABASE, FaultyDisk
from commitcast.persistence.sqlite import SqliteStore
from stores import commit, text
disk = FaultyDisk()
store = SqliteStore(sys.argv[1], vfs=disk.name)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if not sys.argv[2]:
    disk.on("sync", DATABASE, die, after=int(sys.argv[3]))
store.open()
disk.on("sync", DATABASE, die)
commit(store, sys.argv[2], *(text("lost " * 1000) for _ in range(100)))
"""


def die_in_a_commit(path: Path, agent: str = "", after: int = 0) -> tuple[bytes, bytes]:
    """Leave a file and its journal behind, and return their bytes."""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    died = subprocess.run([sys.executable, "-c", DIES, str(path), agent, str(after)], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    return path.read_bytes(), journal_of(path).read_bytes()


def journal_of(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


@pytest.fixture(scope="session")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A file whose last commit was cut off, and its journal."""
    path = tmp_path_factory.mktemp("cut off") / "agents.db"
    with opened(path) as store:
        commit(store, "a", new_agent("kept"))
    return die_in_a_commit(path, "a")


@pytest.fixture(scope="session", params=[0, 1], ids=["blank", "schema"])
def cut_off_creation(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    """A file whose creation was cut off in its first or second transaction, and its journal."""
    return die_in_a_commit(tmp_path_factory.mktemp("creation") / "agents.db", after=request.param)


@pytest.fixture
def hot(path: Path, cut_off: tuple[bytes, bytes]) -> Path:
    return laid(path, cut_off)


def laid(path: Path, files: tuple[bytes, bytes]) -> Path:
    path.write_bytes(files[0])
    journal_of(path).write_bytes(files[1])
    return path


def test_a_commit_that_was_cut_off_is_rolled_back_at_the_next_start(hot: Path) -> None:
    with opened(hot) as store:
        assert contents(store, "a") == [(1, "kept")]
        assert commit(store, "a", text("next")).committed is not None
        assert contents(store, "a") == [(1, "kept"), (2, "next")]

    assert not journal_of(hot).exists()
    assert problems(hot) == []


def test_its_pages_were_in_the_file_so_without_its_journal_the_message_would_be_there(hot: Path) -> None:
    journal_of(hot).unlink()

    with opened(hot) as store:
        assert len(contents(store, "a")) == 101


def test_it_is_rolled_back_for_a_read_only_store(hot: Path) -> None:
    with opened(hot, read_only=True) as store:
        assert contents(store, "a") == [(1, "kept")]


def test_verify_finds_it_sound(hot: Path) -> None:
    assert problems(hot) == []


def test_what_was_recovered_is_durable_before_anything_is_read(
    hot: Path, monkeypatch: pytest.MonkeyPatch, disk: FaultyDisk
) -> None:
    sync = os.fsync

    def record(file: int) -> None:
        disk.operations.append(("sync", os.readlink(f"/proc/self/fd/{file}")))
        sync(file)

    monkeypatch.setattr(os, "fsync", record)

    with opened(hot, vfs=disk.name):
        done = disk.operations

        assert ("write", DATABASE) in done
        rolled_back, gone = done.index(("sync", DATABASE)), done.index(("delete", JOURNAL))
        assert rolled_back < gone < done.index(("sync", str(hot.parent)))


def test_a_creation_that_was_cut_off_begins_again(path: Path, cut_off_creation: tuple[bytes, bytes]) -> None:
    laid(path, cut_off_creation)

    with opened(path) as store:
        assert store.agents() == []
        commit(store, "a", new_agent("first"))
    assert problems(path) == []


def test_a_first_page_that_a_power_cut_left_unwritten_is_made_again(path: Path, cut_off: tuple[bytes, bytes]) -> None:
    file, journal = cut_off
    of_no_pages = journal[:16] + bytes(4) + journal[20:]  # the journal of a creation, as far as it is looked at
    laid(path, (bytes(len(file)), of_no_pages))  # zeros: what a file system may leave of pages that were not synced

    with opened(path) as store:
        assert store.agents() == []
    assert problems(path) == []


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        bytes(512),
        b"\x01" * 16 + bytes(4) + b"\x01" * 492,
        bytes.fromhex("d9d505f920a163d7") + bytes(8) + b"\x00\x00\x00\x05" + bytes(492),
    ],
    ids=["empty", "zeros", "of somebody else", "of five pages"],
)
def test_zeros_without_the_journal_of_a_creation_are_no_database(path: Path, journal: bytes) -> None:
    path.write_bytes(bytes(8192))
    journal_of(path).write_bytes(journal)

    with pytest.raises(NotADatabaseError):
        SqliteStore(path).open()

    assert path.read_bytes() == bytes(8192)
    assert journal_of(path).read_bytes() == journal


def test_an_inspection_while_a_commit_grows_the_file_sees_no_missing_tail(good: Path, path: Path) -> None:
    whole = good.read_bytes()

    class Racing(PosixPath):
        """The header was read from a commit that had not grown the file yet; now it has, and its journal is gone."""

        def exists(self) -> bool:
            good.write_bytes(whole)
            return super().exists()

    good.write_bytes(whole[:-4096])

    opening.inspect(Racing(path), write=False)


def test_a_recovery_that_fails_is_one_error_and_leaves_the_journal(hot: Path, disk: FaultyDisk) -> None:
    disk.arm(faulty_disk.Fault.WRITE_ERROR, DATABASE, times=faulty_disk.EVER)

    with pytest.raises(StoreOpenError):
        SqliteStore(hot, vfs=disk.name).open()

    disk.disarm()
    assert not lock.is_locked(hot)
    assert journal_of(hot).exists()
    with opened(hot) as store:
        assert contents(store, "a") == [(1, "kept")]
