"""Memory runs out: what is refused waits and is stored once there is some; what may be on disk is not tried again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from commitcast.actors import AgentRuntime, in_process
from commitcast.persistence.errors import NotStoredError, StoreUnavailableError, StoreUnknownError
from commitcast.persistence.sqlite.journal import DELETE, WAL
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import DATABASE, JOURNAL, LOG, FaultyDisk, faulty_disk
from modes import in_mode
from stores import commit, contents, new_agent, opened, problems, proof, text
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.both_modes]

LARGE = "x" * 4_000_000


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


@contextmanager
def scarce_memory() -> Iterator[None]:
    """Let SQLite have a megabyte more than it has, and no more."""
    apsw.hard_heap_limit(apsw.memory_used() + 1_000_000)
    try:
        yield
    finally:
        apsw.hard_heap_limit(0)


def no_memory() -> None:
    raise MemoryError


def test_a_transaction_for_which_there_is_no_memory_is_refused_and_the_same_store_goes_on(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent("first"))

        with scarce_memory(), pytest.raises(StoreUnavailableError, match="Cannot allocate memory") as caught:
            commit(store, "a", text("small"), text(LARGE))

        assert caught.value.retryable
        assert contents(store, "a") == [(1, "first")]
        assert proof(commit(store, "a", text("second"))).last == 2
    assert problems(path) == []


def test_agents_wait_until_there_is_memory_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_process, "RETRY_S", 0.01)
    with AgentRuntime(path) as runtime:
        agent = runtime.launch()
        agent.emit("first").get(TIMEOUT_S)
        with scarce_memory():
            large = agent.emit(LARGE)
            behind = agent.emit("behind")
            wait_until(lambda: "Cannot allocate memory" in caplog.text, "the commit to meet the end of memory")
            assert not large.done() and not behind.done()

        assert [large.get(TIMEOUT_S).sequence, behind.get(TIMEOUT_S).sequence] == [2, 3]
    assert problems(path) == []


class TestAtTheCommit:
    @pytest.fixture
    def store(self, path: Path, disk: FaultyDisk) -> Iterator[SqliteStore]:
        with opened(path, vfs=disk.name) as store:
            commit(store, "a", new_agent("first"))
            disk.operations.clear()
            yield store

    def test_whichever_kind_of_operation_has_none_the_answer_is_true_after_a_restart(
        self, path: Path, disk: FaultyDisk, store: SqliteStore
    ) -> None:
        commit(store, "a", text("second"))
        points = list(dict.fromkeys(disk.operations))
        store.close()
        before = path.read_bytes()
        answers: set[type[Exception] | None] = set()

        for point in points:
            path.write_bytes(before)
            with opened(path, vfs=disk.name) as store:
                disk.on(*point, no_memory)
                answer = self._answer_of(store)
            answers.add(answer)
            assert not disk.is_armed
            with opened(path) as store:
                found = [content for _, content in contents(store, "a")]
            assert problems(path) == []
            if answer is StoreUnknownError:
                assert found in (["first", "second"], ["first", "second", "third"])
            else:
                assert found == ["first", "second", *(["third"] if answer is None else [])]
        assert StoreUnknownError in answers

    def _answer_of(self, store: SqliteStore) -> type[Exception] | None:
        """Commit; return with which error that ended, None for none. What was refused must be as if never tried."""
        try:
            commit(store, "a", text("third"))
        except (NotStoredError, StoreUnknownError) as error:
            if isinstance(error, NotStoredError):
                assert contents(store, "a") == [(1, "first"), (2, "second")]
            return type(error)
        return None

    @pytest.mark.parametrize(
        ("journal_mode", "point"),
        [in_mode(DELETE, ("sync", DATABASE)), in_mode(DELETE, ("deleted", JOURNAL)), in_mode(WAL, ("sync", LOG))],
        indirect=["journal_mode"],
    )
    def test_what_may_be_on_disk_is_unknown_and_nothing_more_is_written(
        self, disk: FaultyDisk, store: SqliteStore, point: tuple[str, str]
    ) -> None:
        disk.on(*point, no_memory)

        with pytest.raises(StoreUnknownError, match="may or may not be stored"):
            commit(store, "a", text("second"))

        with pytest.raises(StoreUnknownError):
            commit(store, "a", text("second"))
