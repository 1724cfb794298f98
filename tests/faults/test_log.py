"""The write-ahead log: it stays short, a power cut takes nothing from it, and what others and the disk do to it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from commitcast.persistence.errors import StoreBusyError, StoreFullError, StoreUnknownError
from commitcast.persistence.sqlite import connections, log
from commitcast.persistence.sqlite.journal import WAL, log_of
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import DATABASE, EVER, LOG, Fault, faulty_disk
from forking import in_a_child
from stores import by_hand, commit, contents, new_agent, opened, problems, proof, text
from waiting import TIMEOUT_S

pytestmark = [pytest.mark.fault, pytest.mark.sampled(12, of_file=True)]

FRAMES = 20
"""After which the log is copied here, so that it is copied often."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is copied into the file after a few commits."""
    monkeypatch.setattr(log, "CHECKPOINT_FRAMES", FRAMES)


def log_size(path: Path) -> int:
    return log_of(path).stat().st_size


def fill(store: SqliteStore, count: int) -> None:
    """Commit one message after another."""
    for number in range(count):
        commit(store, "a", text(f"{number} ".ljust(2_000, "x")))


class TestLength:
    def test_it_stays_short_while_this_process_reads_all_the_time(self, path: Path, short: None) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            is_over = threading.Event()

            def read() -> None:
                while not is_over.is_set():
                    store.messages("a")

            readers = [threading.Thread(target=read) for _ in range(2)]
            for reader in readers:
                reader.start()
            sizes = []
            for _ in range(20):
                fill(store, 10)
                sizes.append(log_size(path))
            is_over.set()
            for reader in readers:
                reader.join(TIMEOUT_S)

            assert max(sizes) < 3 * FRAMES * 4_120
            assert store.resolve_cursor("a", None).record.head == 201

    def test_a_large_transaction_leaves_no_large_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "KEPT_BYTES", 64 * 1024)
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            commit(store, "a", *(text("x" * 4_000) for _ in range(1_200)))
            assert log_size(path) > 4_000_000
            commit(store, "a", text("next"))

            assert log_size(path) <= 64 * 1024

    def test_for_a_reader_elsewhere_it_grows_to_its_limit_and_then_commits_wait(
        self, path: Path, short: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log, "MAX_BYTES", 1_000_000)
        monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 60)  # is not waited for
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            with by_hand(path) as reader:
                reader.execute("BEGIN; SELECT count(*) FROM agents")
                with pytest.raises(StoreBusyError, match="another program is reading") as caught:
                    fill(store, 1_000)
                assert store.waits_for == str(caught.value)
                assert 1_000_000 <= log_size(path) < 1_200_000
                head = store.resolve_cursor("a", None).record.head
                assert reader.execute("SELECT count(*) FROM agent_messages").get == 1
                reader.execute("ROLLBACK")

            assert proof(commit(store, "a", text("next"))).last == head + 1
            assert store.waits_for is None
            store.close()
        assert problems(path) == []

    def test_at_the_end_there_is_one_file(self, path: Path) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))

        assert {file.name for file in path.parent.iterdir()} == {"agents.db", "agents.db.lock"}

    def test_a_program_that_has_it_open_at_the_end_keeps_an_empty_one(self, path: Path) -> None:
        with by_hand(path.with_name("agents.db")) as other, opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            other.execute("SELECT count(*) FROM agents").get  # noqa: B018
            store.close()

            assert log_size(path) == 0
            assert b"first" in path.read_bytes()


class TestPowerCut:
    def test_after_one_at_any_moment_everything_acknowledged_is_there(self, path: Path, short: None) -> None:
        cut = path.with_name("cut")
        cut.mkdir()
        acknowledged = 0
        with faulty_disk() as disk:
            kept: dict[str, bytes] = {}
            disk.kept = kept

            def cut_power(file: bytes) -> None:
                (cut / path.name).write_bytes(file)
                log_of(cut / path.name).write_bytes(kept.get(str(log_of(path)), b""))
                with opened(cut / path.name, read_only=True) as after:
                    assert after.resolve_cursor("a", None).record.head >= acknowledged

            def cut_power_in_checkpoint() -> None:
                file = path.read_bytes()  # all of it reaches the disk, or half, or nothing
                for half in (len(file), len(file) // 2, 0):
                    cut_power(file[:half] + kept[str(path)][half:])

            with opened(path, journal_mode=WAL, vfs=disk.name) as store:
                commit(store, "a", new_agent("first"))
                disk.on("sync", DATABASE, cut_power_in_checkpoint, times=EVER)
                for number in range(2, 60):
                    commit(store, "a", text(str(number)))
                    acknowledged = number
                    cut_power(kept[str(path)])
                disk.disarm()
            assert disk.operations.count(("sync", DATABASE)) > 3

    def test_each_commit_syncs_the_log_once_and_nothing_else(self, path: Path) -> None:
        with faulty_disk() as disk, opened(path, journal_mode=WAL, vfs=disk.name) as store:
            commit(store, "a", new_agent("first"))
            for number in range(20):
                disk.operations.clear()
                commit(store, "a", text(str(number)))

                assert [point for point in disk.operations if point[0] != "write" and point[0] != "half write"] == [
                    ("sync", LOG)
                ]
                assert disk.operations[-1] == ("sync", LOG)

    def test_nothing_is_seen_before_it_is_synced_and_no_reader_waits(self, path: Path) -> None:
        seen: list[object] = []
        with faulty_disk() as disk, opened(path, journal_mode=WAL, vfs=disk.name) as store:
            commit(store, "a", new_agent("first"))

            def read() -> None:
                reading = threading.Thread(target=lambda: seen.append(contents(store, "a")))
                reading.start()
                reading.join(TIMEOUT_S)

            disk.on("sync", LOG, read)
            commit(store, "a", text("second"))

            assert seen == [[(1, "first")]]
            assert contents(store, "a") == [(1, "first"), (2, "second")]


class TestCheckpoint:
    def test_a_full_disk_at_the_start_leaves_the_log_for_later(self, path: Path, short: None) -> None:
        def die() -> None:
            store = SqliteStore(path, journal_mode=WAL)
            store.open()
            commit(store, "a", new_agent("first"))
            os._exit(0)

        in_a_child(die)
        with faulty_disk() as disk:
            disk.arm(Fault.DISK_FULL, DATABASE, times=EVER)
            with opened(path, journal_mode=WAL, vfs=disk.name) as store:
                assert contents(store, "a") == [(1, "first")]
                assert proof(commit(store, "a", text("second"))).last == 2
                disk.disarm()
                fill(store, 30)
            assert len(found(path)) == 32

    def test_a_full_disk_keeps_commits_waiting_and_loses_nothing(self, path: Path, short: None) -> None:
        with faulty_disk() as disk:
            with opened(path, journal_mode=WAL, vfs=disk.name) as store:
                commit(store, "a", new_agent("first"))
                disk.arm(Fault.DISK_FULL, DATABASE, times=EVER)
                with pytest.raises(StoreFullError):
                    fill(store, 100)
                head = store.resolve_cursor("a", None).record.head
                with pytest.raises(StoreFullError):
                    fill(store, 1)
                disk.disarm()

                assert proof(commit(store, "a", text("next"))).last == head + 1
            assert len(found(path)) == head + 1

    @pytest.mark.parametrize("fault", [Fault.SYNC_ERROR, Fault.WRITE_ERROR, Fault.TORN_WRITE])
    @pytest.mark.parametrize("times", [1, EVER])
    def test_a_disk_that_fails_stops_everything_and_everything_acknowledged_is_in_the_log(
        self, path: Path, short: None, fault: Fault, times: int
    ) -> None:
        with faulty_disk() as disk:
            with opened(path, journal_mode=WAL, vfs=disk.name) as store:
                commit(store, "a", new_agent("first"))
                disk.arm(fault, DATABASE, times=times)
                acknowledged = 1
                with pytest.raises(StoreUnknownError, match="could not be copied into it"):
                    for number in range(100):
                        commit(store, "a", text(f"{number} ".ljust(2_000, "x")))
                        acknowledged += 1
                with pytest.raises(StoreUnknownError):
                    store.messages("a")
            assert log_size(path) > 0
            disk.disarm()
            assert len(found(path)) == acknowledged


def found(path: Path) -> list[tuple[int, str]]:
    """What a new store finds; it is sound."""
    with opened(path, journal_mode=WAL) as store:
        messages = contents(store, "a")
    assert problems(path) == []
    return messages


def empty(path: Path) -> None:
    os.truncate(log_of(path), 0)


def cut(path: Path) -> None:
    os.truncate(log_of(path), log_size(path) - 1)


def cut_the_file(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4_096)


CHECKPOINT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print(connection.execute(f"PRAGMA wal_checkpoint({sys.argv[2]})").fetchone()[0])
"""


class TestOthers:
    @pytest.mark.parametrize("harm", [empty, cut, cut_the_file])
    def test_a_log_or_a_file_that_was_cut_is_noticed_before_anything_is_acknowledged(
        self, path: Path, harm: Callable[[Path], None]
    ) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            in_a_child(lambda: harm(path))

            with pytest.raises(StoreUnknownError, match="has changed"):
                commit(store, "a", text("second"))

            with pytest.raises(StoreUnknownError):
                store.agents()

    @pytest.mark.parametrize("kind", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
    def test_another_program_may_copy_it_into_the_file(self, path: Path, kind: str) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            for number in range(3):
                commit(store, "a", text(str(number)))
                other = subprocess.run(
                    [sys.executable, "-c", CHECKPOINT, str(path), kind], capture_output=True, text=True, check=True
                )
                assert other.stdout == "0\n"

            assert proof(commit(store, "a", text("last"))).last == 5
            assert len(contents(store, "a")) == 5
        assert len(found(path)) == 5

    def test_another_program_cannot_switch_the_mode(self, path: Path) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            with by_hand(path) as other, pytest.raises(Exception, match="locked"):
                other.pragma("journal_mode", "delete")

            assert proof(commit(store, "a", text("second"))).last == 2

    def test_a_commit_of_another_program_is_noticed(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            with by_hand(path) as other:
                other.execute("CREATE VIEW theirs AS SELECT id FROM agents")
            commit(store, "a", text("second"))

            assert caplog.text.count("another program has written to") == 1
            with by_hand(path) as other:
                other.execute("UPDATE positions SET last = 2")
            with pytest.raises(StoreUnknownError, match="has changed"):
                commit(store, "a", text("third"))

    def test_commands_read_it_while_it_is_written(self, path: Path) -> None:
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            for command in (["messages", "a"], ["agents"], ["verify", "--deep"]):
                done = subprocess.run(
                    [sys.executable, "-m", "commitcast", *command, "--db", str(path)], capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                assert commit(store, "a", text("next")).refused is False

            with opened(path, read_only=True) as reader:
                assert len(contents(reader, "a")) == 4
            assert store.verify(deep=True).is_sound
            assert len(contents(store, "a")) == 4

    def test_a_copy_that_another_program_makes_with_sqlite_is_whole(self, path: Path) -> None:
        copy = path.with_name("copy.db")
        with opened(path, journal_mode=WAL) as store:
            commit(store, "a", new_agent("first"))
            with by_hand(path) as other:
                other.execute("VACUUM INTO ?", (str(copy),))
            commit(store, "a", text("second"))

        with opened(copy, read_only=True) as store:
            assert contents(store, "a") == [(1, "first")]
