"""The disk fails: what is refused, what is unknown, and that nobody ever hears of what is not certainly stored."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from commitcast.actors import AgentRuntime, in_process
from commitcast.actors.messages import Fail
from commitcast.actors.testing import MockGateway
from commitcast.persistence.errors import (
    CommitcastError,
    InvalidValueError,
    NotStoredError,
    RowRefusedError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnknownError,
)
from commitcast.persistence.sqlite import lock
from commitcast.persistence.sqlite.journal import DELETE, WAL
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import Outcome
from faulty_disk import DATABASE, EVER, JOURNAL, LOG, Fault, FaultyDisk, faulty_disk
from modes import in_mode
from stores import by_hand, commit, contents, new_agent, opened, problems, proof, text
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.both_modes]

HALF_WAY = pytest.mark.parametrize(
    ("journal_mode", "fault", "file"),
    [
        in_mode(DELETE, Fault.WRITE_ERROR, DATABASE),
        in_mode(DELETE, Fault.TORN_WRITE, DATABASE),
        in_mode(DELETE, Fault.SYNC_ERROR, DATABASE),
        in_mode(DELETE, Fault.SYNC_ERROR, JOURNAL),
        in_mode(DELETE, Fault.DELETE_ERROR, JOURNAL),
        in_mode(DELETE, Fault.FOLDER_SYNC_ERROR, JOURNAL),
        in_mode(WAL, Fault.WRITE_ERROR, LOG),
        in_mode(WAL, Fault.TORN_WRITE, LOG),
        in_mode(WAL, Fault.SYNC_ERROR, LOG),
    ],
    indirect=["journal_mode"],
)
"""What makes a COMMIT fail without telling what became of it."""
WRITTEN = {DELETE: DATABASE, WAL: LOG}
"""The file that a commit writes its pages to."""


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def store(path: Path, disk: FaultyDisk) -> Iterator[SqliteStore]:
    """A store on the disk that fails, with one agent of one message."""
    with opened(path, vfs=disk.name) as store:
        commit(store, "a", new_agent("first"))
        disk.operations.clear()
        yield store


def after_a_restart(path: Path) -> list[str]:
    """What a new store finds on an ordinary disk; it is sound and has no hole."""
    with opened(path) as store:
        found = contents(store, "a")
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
    assert problems(path) == []
    return [content for _, content in found]


class InThread:
    """A call in a thread of its own, and its answer."""

    def __init__(self, call: Callable[[], object], *, begun: bool = True) -> None:
        self._call = call
        self._answer: object = None
        self._thread = threading.Thread(target=self._run)
        if begun:
            self.begin()

    def begin(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except CommitcastError as error:
            self._answer = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def get(self) -> object:
        self._thread.join(TIMEOUT_S)
        assert self.is_done
        return self._answer


class TestFullDisk:
    @pytest.mark.parametrize(
        ("journal_mode", "file"),
        [in_mode(DELETE, DATABASE), in_mode(DELETE, JOURNAL), in_mode(WAL, LOG)],
        indirect=["journal_mode"],
    )
    @pytest.mark.parametrize("times", [1, EVER])
    def test_it_is_rolled_back_and_the_same_store_works_when_there_is_space(
        self, path: Path, disk: FaultyDisk, store: SqliteStore, file: str, times: int
    ) -> None:
        disk.arm(Fault.DISK_FULL, file, times=times)

        with pytest.raises(StoreFullError) as caught:
            commit(store, "a", text("second"))
        disk.disarm()

        assert caught.value.retryable
        assert contents(store, "a") == [(1, "first")]
        assert proof(commit(store, "a", text("second"))).last == 2
        store.close()
        assert after_a_restart(path) == ["first", "second"]

    def test_it_is_not_there_after_a_restart(
        self, path: Path, disk: FaultyDisk, store: SqliteStore, journal_mode: str
    ) -> None:
        disk.arm(Fault.DISK_FULL, WRITTEN[journal_mode], times=EVER)

        with pytest.raises(StoreFullError):
            commit(store, "a", text("second"))
        store.close()
        disk.disarm()

        assert after_a_restart(path) == ["first"]


class TestInserting:
    @pytest.mark.delete_mode("with a log nothing is written before the commit")
    def test_an_error_before_the_commit_is_a_refusal_and_nothing_is_there(
        self, path: Path, disk: FaultyDisk, store: SqliteStore
    ) -> None:
        disk.arm(Fault.WRITE_ERROR, JOURNAL)

        with pytest.raises(NotStoredError) as caught:
            commit(store, "a", text("lost"))

        assert type(caught.value) is NotStoredError
        assert isinstance(caught.value.__cause__, apsw.IOError)
        assert proof(commit(store, "a", text("second"))).last == 2
        store.close()
        assert after_a_restart(path) == ["first", "second"]

    def test_a_transaction_that_cannot_be_rolled_back_is_unknown(self, path: Path, store: SqliteStore) -> None:
        assert store._writer is not None
        store._writer.authorizer = lambda operation, name, *_: (
            apsw.SQLITE_DENY
            if operation in (apsw.SQLITE_UPDATE, apsw.SQLITE_TRANSACTION) and name in ("positions", "ROLLBACK")
            else apsw.SQLITE_OK
        )

        with pytest.raises(StoreUnknownError, match="its rollback failed"):
            commit(store, "a", text("second"))

        store.close()
        assert after_a_restart(path) == ["first"]


class TestHalfWay:
    @HALF_WAY
    @pytest.mark.parametrize("times", [1, EVER])
    def test_it_is_unknown_and_nothing_more_is_written_or_read_before_the_next_start(
        self, path: Path, disk: FaultyDisk, store: SqliteStore, fault: Fault, file: str, times: int
    ) -> None:
        disk.arm(fault, file, times=times)

        with pytest.raises(StoreUnknownError, match="may or may not be stored") as caught:
            commit(store, "a", text("second"), text("third"))
        disk.disarm()

        assert not caught.value.retryable
        for read in (store.agents, store.position, lambda: store.messages("a"), lambda: store.feed(0)):
            with pytest.raises(StoreUnknownError):
                read()
        with pytest.raises(StoreUnknownError):
            commit(store, "a", text("fourth"))
        store.close()
        assert not lock.is_locked(path)
        assert after_a_restart(path) in (["first"], ["first", "second", "third"])

    @pytest.mark.delete_mode("with a log nobody sees what was not synced")
    def test_a_message_whose_commit_was_not_synced_can_be_seen_in_the_file_so_reads_must_be_refused(
        self, path: Path, disk: FaultyDisk, store: SqliteStore
    ) -> None:
        disk.arm(Fault.FOLDER_SYNC_ERROR, JOURNAL)

        with pytest.raises(StoreUnknownError):
            commit(store, "a", text("second"))

        with by_hand(path) as other:
            assert other.execute("SELECT count(*) FROM agent_messages").get == 2

    @pytest.mark.delete_mode("with a log no reader waits for a commit")
    def test_a_reader_that_waits_for_a_failing_commit_does_not_see_it(
        self, disk: FaultyDisk, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse = store._pool.refuse
        reading = InThread(lambda: store.messages("a"), begun=False)

        def fail() -> None:
            reading.begin()
            wait_until(lambda: store._pool.gate._queue, "the reader to queue")
            raise apsw.exception_for(apsw.SQLITE_IOERR_DIR_FSYNC)

        def refuse_late(error: StoreError) -> StoreError:
            wait_until(lambda: store._pool.gate._queue or reading.is_done, "the reader to read if it can")
            return refuse(error)

        disk.on("deleted", JOURNAL, fail)
        monkeypatch.setattr(store._pool, "refuse", refuse_late)

        with pytest.raises(StoreUnknownError):
            commit(store, "a", text("second"))

        assert isinstance(reading.get(), StoreUnknownError)

    @pytest.mark.parametrize(
        ("journal_mode", "fault", "times"),
        [
            *(in_mode(DELETE, fault, 1) for fault in Fault if fault is not Fault.TORN_WRITE),
            *(in_mode(WAL, fault, 1) for fault in (Fault.WRITE_ERROR, Fault.DISK_FULL, Fault.SYNC_ERROR)),
            *(in_mode(mode, fault, EVER) for mode in (DELETE, WAL) for fault in (Fault.TORN_WRITE, Fault.SYNC_ERROR)),
        ],
        indirect=["journal_mode"],
    )
    def test_whichever_operation_of_a_commit_fails_the_answer_is_true_after_a_restart(
        self, path: Path, disk: FaultyDisk, store: SqliteStore, fault: Fault, times: int
    ) -> None:
        commit(store, "a", text("second"))
        points = [point for point in disk.operations if point[0] == fault.value[0]]
        store.close()
        before = path.read_bytes()
        assert points

        for number, (_, file) in enumerate(points):
            path.write_bytes(before)
            with opened(path, vfs=disk.name) as store:
                disk.arm(fault, file, after=[other for _, other in points[:number]].count(file), times=times)
                try:
                    answer = commit(store, "a", text("third")).replies[0]
                except CommitcastError as error:
                    answer = error
            assert times == EVER or not disk.is_armed
            disk.disarm()
            found = after_a_restart(path)
            if isinstance(answer, NotStoredError):
                assert found == ["first", "second"]
            elif isinstance(answer, StoreUnknownError):
                assert found in (["first", "second"], ["first", "second", "third"])
            else:
                assert found == ["first", "second", "third"]


class TestOtherPrograms:
    @pytest.mark.delete_mode("with a log no commit waits for a reader")
    def test_a_commit_that_meets_a_reader_is_repeated_until_the_reader_leaves(
        self, path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert store._writer is not None
        store._writer.set_busy_timeout(10)
        with by_hand(path) as reader:
            reader.execute("BEGIN; SELECT count(*) FROM agents")
            committing = InThread(lambda: commit(store, "a", text("second")))
            wait_until(lambda: caplog.text.count("the commit waits for it") > 1, "the commit to be repeated")

            assert not committing.is_done
            reader.execute("ROLLBACK")
            answer = committing.get()

        assert isinstance(answer, Outcome)
        assert proof(answer).last == 2
        store.close()
        assert after_a_restart(path) == ["first", "second"]

    @pytest.mark.delete_mode("with a log no commit waits for a reader")
    def test_a_store_that_is_closing_waits_for_no_reader(
        self, path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert store._writer is not None
        store._writer.set_busy_timeout(10)
        with by_hand(path) as reader:
            reader.execute("BEGIN; SELECT count(*) FROM agents")
            committing = InThread(lambda: commit(store, "a", text("lost")))
            wait_until(lambda: "the commit waits for it" in caplog.text, "the commit to meet the reader")

            store.close()

            assert isinstance(committing.get(), StoreBusyError)
        assert after_a_restart(path) == ["first"]

    def test_a_transaction_that_meets_a_writer_is_refused_and_works_again(self, path: Path, store: SqliteStore) -> None:
        assert store._writer is not None
        store._writer.set_busy_timeout(10)
        with by_hand(path) as writer:
            writer.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusyError) as caught:
                commit(store, "a", text("second"))

        assert caught.value.retryable
        assert proof(commit(store, "a", text("second"))).last == 2


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.replace(path)


class TestVanishingFile:
    @pytest.mark.parametrize("harm", [delete, replace])
    @pytest.mark.parametrize(
        ("journal_mode", "suffix"),
        [in_mode(DELETE, ""), in_mode(WAL, ""), in_mode(WAL, "-wal"), in_mode(WAL, "-shm")],
        indirect=["journal_mode"],
    )
    def test_a_file_that_is_gone_is_noticed_before_anything_is_written(
        self, path: Path, disk: FaultyDisk, store: SqliteStore, suffix: str, harm: Callable[[Path], None]
    ) -> None:
        harm(path.with_name(path.name + suffix))

        with pytest.raises(StoreUnknownError, match="was deleted or replaced"):
            commit(store, "a", text("second"))

        assert disk.operations == []

    @pytest.mark.parametrize("harm", [delete, replace])
    @pytest.mark.parametrize(
        ("journal_mode", "moment", "suffix"),
        [
            in_mode(DELETE, ("write", DATABASE), ""),
            in_mode(DELETE, ("delete", JOURNAL), ""),
            *(in_mode(WAL, (operation, LOG), file) for operation in ("write", "sync") for file in ("", "-wal", "-shm")),
        ],
        indirect=["journal_mode"],
    )
    def test_a_file_that_goes_during_the_commit_is_noticed_before_anything_is_acknowledged(
        self,
        path: Path,
        disk: FaultyDisk,
        store: SqliteStore,
        moment: tuple[str, str],
        suffix: str,
        harm: Callable[[Path], None],
    ) -> None:
        disk.on(*moment, lambda: harm(path.with_name(path.name + suffix)))

        with pytest.raises(StoreUnknownError):
            commit(store, "a", text("second"))

        assert not disk.is_armed


def test_eight_mebibytes_reach_the_file_only_in_the_commit_and_block_no_reader(
    path: Path, disk: FaultyDisk, store: SqliteStore, journal_mode: str
) -> None:
    assert store._writer is not None
    digest = hashlib.sha256(path.read_bytes()).digest()
    rows, count = 0, 2_048
    during: list[object] = []

    def look(*_: object) -> None:
        nonlocal rows
        rows += 1
        if rows == count:
            reading.start()
            reading.join(TIMEOUT_S)

    def read() -> None:
        during.extend((contents(store, "a"), ("write", WRITTEN[journal_mode]) in disk.operations))
        during.append(hashlib.sha256(path.read_bytes()).digest() == digest)

    reading = threading.Thread(target=read)
    store._writer.set_update_hook(look)

    committed = proof(commit(store, "a", *(text("x" * 4_096) for _ in range(count))))

    assert during == [[(1, "first")], False, True]
    assert committed.last == count + 1


@pytest.fixture
def gateway() -> Iterator[MockGateway]:
    gateway = MockGateway()
    yield gateway
    gateway.stop()


@pytest.fixture
def runtime(path: Path, disk: FaultyDisk, gateway: MockGateway) -> Iterator[AgentRuntime]:
    with AgentRuntime(SqliteStore(path, vfs=disk.name), gateway=gateway.ref) as runtime:
        yield runtime


class TestRuntime:
    def test_a_full_disk_keeps_everything_waiting_and_loses_nothing(
        self,
        path: Path,
        disk: FaultyDisk,
        runtime: AgentRuntime,
        gateway: MockGateway,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        journal_mode: str,
    ) -> None:
        monkeypatch.setattr(in_process, "RETRY_S", 0.01)
        agent = runtime.launch(id="a")
        disk.arm(Fault.DISK_FULL, WRITTEN[journal_mode], times=EVER)

        futures = [agent.emit(str(number)) for number in range(20)]
        wait_until(
            lambda: "it is retried, and agents wait until it succeeds" in caplog.text, "the store to meet the full disk"
        )
        assert not any(future.done() for future in futures)
        assert gateway.messages == ()
        disk.disarm()

        assert [future.get(TIMEOUT_S).sequence for future in futures] == list(range(1, 21))
        assert [message.content for message in gateway.wait_for_messages(20)] == [str(number) for number in range(20)]
        assert runtime.failure is None

    @pytest.mark.delete_mode("with a log nothing is written before the commit")
    def test_an_error_before_the_commit_refuses_the_message_and_the_next_takes_its_number(
        self, disk: FaultyDisk, runtime: AgentRuntime, gateway: MockGateway
    ) -> None:
        agent = runtime.launch(id="a")
        disk.arm(Fault.WRITE_ERROR, JOURNAL)

        error = agent.emit("lost").exception(TIMEOUT_S)

        assert type(error) is NotStoredError
        assert agent.emit("stored").get(TIMEOUT_S).sequence == 1
        assert [message.content for message in gateway.wait_for_messages(1)] == ["stored"]
        assert runtime.failure is None

    @HALF_WAY
    def test_an_unknown_commit_is_not_published_and_the_runtime_stops_by_itself(
        self, path: Path, disk: FaultyDisk, runtime: AgentRuntime, gateway: MockGateway, fault: Fault, file: str
    ) -> None:
        agent = runtime.launch(id="a")
        agent.emit("first").get(TIMEOUT_S)
        gateway.wait_for_messages(1)
        disk.arm(fault, file, times=EVER)

        error = agent.emit("unknown").exception(TIMEOUT_S)
        wait_until(lambda: not lock.is_locked(path), "the runtime to stop by itself")
        disk.disarm()

        assert isinstance(error, StoreUnknownError)
        assert isinstance(runtime.failure, StoreUnknownError)
        assert [message.content for message in gateway.messages] == ["first"]
        assert after_a_restart(path) in (["first"], ["first", "unknown"])

    def test_a_file_that_is_deleted_stops_the_runtime_before_anything_is_acknowledged(
        self, path: Path, runtime: AgentRuntime, gateway: MockGateway
    ) -> None:
        agent = runtime.launch(id="a")
        path.unlink()

        error = agent.emit("lost").exception(TIMEOUT_S)
        wait_until(lambda: not lock.is_locked(path), "the runtime to stop by itself")

        assert isinstance(error, StoreUnknownError)
        assert gateway.messages == ()

    def test_a_value_that_the_database_cannot_hold_is_refused_alone(self, runtime: AgentRuntime) -> None:
        agent, other = runtime.launch(id="a"), runtime.launch(id="b")

        refused = agent.fail("text", name="lone \ud800").exception(TIMEOUT_S)
        unchecked = agent._system.directory.ask("a", Fail("lone \ud800", "text")).exception(TIMEOUT_S)

        assert isinstance(refused, InvalidValueError)
        assert isinstance(unchecked, RowRefusedError)
        assert other.emit("goes on").get(TIMEOUT_S).sequence == 1
        assert runtime.failure is None
