"""What is refused at the start, with which one sentence, and that it is left exactly as it was."""

import errno
import fcntl
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commitcast.persistence.errors import (
    NotADatabaseError,
    SchemaTooNewError,
    StoreCorruptError,
    StoreLockedError,
    StoreOpenError,
    StorePathError,
    StoreReadOnlyError,
    StoreSettingError,
)
from commitcast.persistence.sqlite import lock, opening
from commitcast.persistence.sqlite.store import SqliteStore
from stores import by_hand, commit, contents, new_agent, opened, text
from users import ordinary_user

pytestmark = pytest.mark.both_modes

PAGE = 4096

HOLD = """
import sys
from commitcast.persistence.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.open()
print("open", flush=True)
sys.stdin.read()
"""


def foreign(path: Path, *statements: str) -> None:
    with by_hand(path) as connection:
        for statement in statements:
            connection.execute(statement)


def foreign_with_everything_in_its_log(path: Path) -> None:
    """One page in the file, the tables in the write-ahead log beside it."""
    live = path.with_name("live.db")
    with by_hand(live) as connection:
        connection.pragma("journal_mode", "wal")
        connection.execute("CREATE TABLE theirs (value); INSERT INTO theirs VALUES (1)")
        shutil.copy(live, path)
        shutil.copy(f"{live}-wal", f"{path}-wal")
    live.unlink()


def damaged(offset: int, *, of: Callable[[bytes], int] | None = None, length: int = 8) -> Callable[[Path, bytes], None]:
    def make(path: Path, sample: bytes) -> None:
        start = offset if of is None else of(sample)
        flipped = bytes(byte ^ 0xFF for byte in sample[start : start + length])
        path.write_bytes(sample[:start] + flipped + sample[start + length :])

    return make


def middle_leaf(sample: bytes) -> int:
    """Where a leaf page of a table begins, in the middle of the file."""
    leaves = [page for page in range(PAGE, len(sample), PAGE) if sample[page] == 0x0D]
    return leaves[len(leaves) // 2]


def cut(count: int) -> Callable[[Path, bytes], object]:
    return lambda path, sample: path.write_bytes(sample[:-count])


def edited(*statements: str) -> Callable[[Path, bytes], None]:
    def make(path: Path, sample: bytes) -> None:
        path.write_bytes(sample)
        foreign(path, *statements)

    return make


REFUSED: dict[str, tuple[Callable[[Path, bytes], object], type[StoreOpenError], str]] = {
    "text": (lambda path, _: path.write_text("hello\n" * 100), NotADatabaseError, "not a SQLite database"),
    "random bytes": (
        lambda path, _: path.write_bytes(random.Random(1).randbytes(3 * PAGE)),
        NotADatabaseError,
        "not a SQLite database",
    ),
    "fifty bytes": (lambda path, sample: path.write_bytes(sample[:50]), NotADatabaseError, "not a SQLite database"),
    "another program's": (
        lambda path, _: foreign(path, "CREATE TABLE theirs (value)"),
        NotADatabaseError,
        "another program",
    ),
    "another program's with an application id": (
        lambda path, _: foreign(path, "PRAGMA application_id = 7; CREATE TABLE theirs (value)"),
        NotADatabaseError,
        "another program",
    ),
    "another program's of one page": (
        lambda path, _: foreign(path, "CREATE VIEW theirs AS SELECT 1"),
        NotADatabaseError,
        "another program",
    ),
    "another program's with everything in its log": (
        lambda path, _: foreign_with_everything_in_its_log(path),
        NotADatabaseError,
        "another program",
    ),
    "newer schema": (
        edited(f"PRAGMA user_version = {opening.SCHEMA_VERSION + 1}"),
        SchemaTooNewError,
        "upgrade commitcast",
    ),
    "tail missing by a page": (cut(PAGE), StoreCorruptError, "it is truncated"),
    "tail missing by a byte": (cut(1), StoreCorruptError, "it is truncated"),
    "flipped page header in the middle": (damaged(0, of=middle_leaf), StoreCorruptError, "restore a backup"),
    "flipped first page": (damaged(100), StoreCorruptError, "restore a backup"),
    "flipped page size": (damaged(16, length=2), StoreCorruptError, "restore a backup"),
    "flipped magic": (damaged(0), NotADatabaseError, "not a SQLite database"),
    "one page that cannot be vacuumed": (
        lambda path, _: foreign(path, "PRAGMA auto_vacuum = 0; VACUUM"),
        StoreSettingError,
        "auto_vacuum",
    ),
}


def refusal(path: Path, *, read_only: bool = False) -> StoreOpenError:
    """The error of opening; it is one sentence and nothing is held afterwards."""
    with pytest.raises(StoreOpenError) as caught:
        SqliteStore(path, read_only=read_only).open()
    error = caught.value
    assert str(error) == f"cannot open {error.path}: {error.why}"
    assert "\n" not in str(error)
    assert type(error) is not StoreOpenError
    return error


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Every file keeps its bytes and its time, and none is added but the lock."""

    def look() -> dict[str, tuple[str, int]]:
        return {
            found.name: (hashlib.sha256(found.read_bytes()).hexdigest(), found.stat().st_mtime_ns)
            for found in folder.iterdir()
            if found.suffix != ".lock" and found.is_file()
        }

    before = look()
    yield
    assert look() == before


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_cannot_be_ours_is_refused_and_left_as_it_is(path: Path, sample: bytes, what: str) -> None:
    make, expected, words = REFUSED[what]
    make(path, sample)

    with untouched(path.parent):
        error = refusal(path)

    assert type(error) is expected
    assert words in str(error)
    assert not lock.is_locked(path)


@pytest.mark.parametrize("what", sorted(set(REFUSED) - {"flipped page header in the middle"}))
def test_it_is_refused_for_reading_too(path: Path, sample: bytes, what: str) -> None:
    make, expected, words = REFUSED[what]
    make(path, sample)

    with untouched(path.parent):
        error = refusal(path, read_only=True)

    assert type(error) in (expected, NotADatabaseError)
    if words == "another program" and "one page" not in what:
        assert words in str(error)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_folder_or_a_pipe_in_the_files_place_is_refused(path: Path, read_only: bool) -> None:
    (path.parent / "folder.db").mkdir()
    os.mkfifo(path.parent / "pipe.db")

    for name in ("folder.db", "pipe.db"):
        assert "not a regular file" in str(refusal(path.parent / name, read_only=read_only))


def test_a_missing_folder_is_named(path: Path) -> None:
    error = refusal(path.parent / "missing" / "agents.db")

    assert type(error) is StoreReadOnlyError
    assert f"there is no folder {path.parent / 'missing'}" in str(error)


def test_reading_a_missing_or_an_empty_file_is_refused_and_makes_nothing(path: Path) -> None:
    empty = path.with_name("empty.db")
    empty.touch()

    with untouched(path.parent):
        assert "there is no such file" in str(refusal(path, read_only=True))
        assert "it is empty" in str(refusal(empty, read_only=True))


def test_a_link_that_leads_to_itself_is_refused(path: Path) -> None:
    path.symlink_to(path)

    assert type(refusal(path)) is NotADatabaseError


def test_a_file_without_permission_to_write_is_refused_also_to_the_superuser(good: Path) -> None:
    good.chmod(0o444)

    with untouched(good.parent):
        error = refusal(good)

    assert type(error) is StoreReadOnlyError
    assert "the file is read-only" in str(error)


def test_a_file_without_permission_to_write_can_be_read(good: Path) -> None:
    good.chmod(0o444)

    with untouched(good.parent), opened(good, read_only=True) as store:
        assert [record.id for record in store.agents()] == ["first", "second", "third"]


def test_a_lock_that_cannot_be_made_is_refused(good: Path) -> None:
    good.with_name(good.name + ".lock").mkdir()

    with untouched(good.parent):
        error = refusal(good)

    assert type(error) is StoreReadOnlyError
    assert ".lock cannot be used (Is a directory)" in str(error)


def link_the_lock_softly(good: Path) -> None:
    good.with_name(good.name + ".lock").symlink_to(good.with_name("elsewhere"))


def link_the_lock_hard(good: Path) -> None:
    other = good.with_name("other.db.lock")
    other.touch()
    good.with_name(good.name + ".lock").hardlink_to(other)


def link_the_file_hard(good: Path) -> None:
    good.with_name("second.db").hardlink_to(good)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (link_the_lock_softly, "is a symbolic link"),
        (link_the_lock_hard, "not a regular file, or has hard links"),
        (link_the_file_hard, "2 hard links"),
    ],
)
def test_a_link_through_which_two_runtimes_could_have_one_file_is_refused(
    good: Path, link: Callable[[Path], None], why: str
) -> None:
    link(good)

    with untouched(good.parent):
        assert why in str(refusal(good))


@pytest.mark.parametrize("name", ["x" * 245 + ".db", os.fsdecode(b"latin-\xe9.db"), "nul\0.db"])
def test_a_name_that_sqlite_cannot_use_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path / name)

    assert type(error) is StorePathError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o000])
def test_a_folder_without_permission_is_refused(sample: bytes, mode: int) -> None:
    with ordinary_user() as folder:
        path = folder / "agents.db"
        path.write_bytes(sample)
        folder.chmod(mode)

        error = refusal(path)

        assert type(error) is StoreReadOnlyError
        assert f"the folder {folder} is not writable" in str(error)
        folder.chmod(0o700)
        assert list(folder.iterdir()) == [path]
        assert path.read_bytes() == sample


def test_a_file_without_permission_to_read_is_refused(sample: bytes) -> None:
    with ordinary_user() as folder:
        path = folder / "agents.db"
        path.write_bytes(sample)
        path.chmod(0o200)

        assert "Permission denied" in str(refusal(path))
        assert "Permission denied" in str(refusal(path, read_only=True))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602, 0o660])
def test_a_file_of_which_others_may_read_or_write_is_warned_of_once(
    good: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    good.chmod(mode)

    with opened(good) as store:
        commit(store, "first", text("more"))

    assert [
        (record.levelname, f"mode {mode:04o}): chmod 600 {good}" in record.message) for record in caplog.records
    ] == [("WARNING", True)]
    assert stat.S_IMODE(good.stat().st_mode) == mode


def test_a_file_that_is_only_read_or_is_its_owners_alone_is_not_warned_of(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(good), opened(tmp_path / "new.db"):
        pass
    good.chmod(0o644)
    with opened(good, read_only=True):
        pass

    assert caplog.records == []


class TestOneRuntimeForAFile:
    def test_the_lock_is_asked_before_the_file_is_looked_at(self, path: Path) -> None:
        path.write_bytes(b"in the middle of something" * 100)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

            assert type(refusal(path)) is StoreLockedError

    def test_a_second_store_is_refused_and_the_first_unharmed(self, path: Path) -> None:
        with opened(path) as first:
            error = refusal(path)

            assert type(error) is StoreLockedError
            assert f"process {os.getpid()}" in str(error)
            commit(first, "a", new_agent("kept"))
            assert contents(first, "a") == [(1, "kept")]

    def test_a_second_store_through_a_link_is_refused(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        link = tmp_path / "elsewhere" / "link.db"
        link.symlink_to(path)

        with opened(link) as store:
            assert store.name == str(path)
            assert type(refusal(path)) is StoreLockedError
        with opened(path):
            assert type(refusal(link)) is StoreLockedError
        assert list(link.parent.iterdir()) == [link]

    def test_the_lock_is_free_once_the_first_is_closed(self, path: Path) -> None:
        with opened(path):
            assert lock.is_locked(path)

        assert not lock.is_locked(path)
        with opened(path):
            pass

    def test_the_lock_of_a_killed_process_is_free(self, path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "open\n"
            error = refusal(path)
            holder.kill()

        assert f"process {holder.pid}" in str(error)
        with opened(path) as store:
            assert store.agents() == []

    def test_a_probe_of_the_lock_does_not_keep_a_runtime_out(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looker = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CREAT)
        fcntl.flock(looker, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: os.close(looker))  # gone when it is looked again

        with opened(path):
            assert lock.is_locked(path)

    def test_an_endless_probe_counts_as_a_holder(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "SHARED_LOCK_WAIT_S", 0)
        looker = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CREAT)
        fcntl.flock(looker, fcntl.LOCK_SH)

        assert type(refusal(path)) is StoreLockedError
        os.close(looker)

    def test_a_full_disk_does_not_keep_the_lock_from_being_taken(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", refuse)

        with opened(path):
            assert lock.is_locked(path)
