"""What SQLite adds to the contract of reads: snapshots, damaged rows, and other programs that hold the file."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from commitcast.persistence.errors import StoreReadError, StoreReadTimeoutError
from commitcast.persistence.read_timeout import read_within
from commitcast.persistence.sqlite import connections
from commitcast.persistence.sqlite.store import SqliteStore
from databases import SqliteFile, fill
from stores import by_hand, commit, contents, opened, reader_value, text, told
from waiting import TIMEOUT_S

pytestmark = pytest.mark.both_modes


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> SqliteFile:
    """A file that `fill` has filled, to be copied."""
    database = SqliteFile(tmp_path_factory.mktemp("filled"))
    fill(database)
    return database


@pytest.fixture
def busy(path: Path, filled: SqliteFile) -> Iterator[SqliteStore]:
    """A store that `fill` has filled."""
    with opened(filled.copy(path.parent).path) as store:
        yield store


class TestSnapshots:
    def test_reads_beside_an_open_transaction_are_not_blocked_and_see_nothing_of_it(self, busy: SqliteStore) -> None:
        before = contents(busy, "a"), busy.position(), busy.heads("a"), busy.agent("a")
        assert busy._writer is not None
        is_inserted, may_commit = threading.Event(), threading.Event()

        def pause(*_: object) -> None:
            is_inserted.set()
            assert may_commit.wait(TIMEOUT_S)

        busy._writer.set_update_hook(pause)
        writer = threading.Thread(target=lambda: commit(busy, "a", text("new")))
        writer.start()
        try:
            assert is_inserted.wait(TIMEOUT_S)
            during = contents(busy, "a"), busy.position(), busy.heads("a"), busy.agent("a")
            feed = busy.feed(27).entries
        finally:
            may_commit.set()
            writer.join(TIMEOUT_S)

        assert during == before
        assert feed == []
        assert told(busy.feed(27).entries) == ["new"]


class TestFailures:
    @pytest.mark.parametrize("damage", ["content = 'other'", "content = CAST(x'ff' AS TEXT)", "metadata = '{}'"])
    def test_a_changed_message_is_never_given_out_and_those_before_it_are(
        self, path: Path, busy: SqliteStore, damage: str
    ) -> None:
        busy.close()
        with by_hand(path) as connection:
            connection.execute(f"UPDATE agent_messages SET {damage} WHERE content = 'b4'")
        with opened(path) as store:
            position = store.resolve_cursor("b", 3).position

            assert [told([*store.messages("b")]), told(store.entries("b", 0, 0).entries)[1:]] == [
                ["b1", "b2", "b3"]
            ] * 2
            assert told(store.feed(0).entries)[-3:] == ["b1", "b2", "b3"]
            for read in (
                lambda: store.messages("b", after=3),
                lambda: store.entries("b", 3, position),
                lambda: store.feed(position),
            ):
                with pytest.raises(StoreReadError, match="cannot be read"):
                    read()
            assert len(store.messages("b", after=4)) == 4

    @pytest.mark.delete_mode("with a log a writer keeps no reader out")
    def test_while_another_program_holds_the_file_a_runtime_waits(self, path: Path, busy: SqliteStore) -> None:
        with by_hand(path) as intruder:
            intruder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreReadTimeoutError), read_within(0.05):
                busy.agents()
            reading = ThreadPoolExecutor(1)
            agents = reading.submit(busy.agents)
            with pytest.raises(TimeoutError):
                agents.result(0.05)
            intruder.execute("ROLLBACK")

            assert len(agents.result(TIMEOUT_S)) == 3
        reading.shutdown()

    @pytest.mark.delete_mode("with a log a writer keeps no reader out")
    def test_while_another_program_holds_the_file_one_that_only_looks_says_so(
        self, path: Path, busy: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 0.02)
        with by_hand(path) as intruder, opened(path, read_only=True) as looker:
            intruder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreReadError) as caught:
                looker.agents()

        assert caught.value.retryable
        assert isinstance(caught.value.__cause__, apsw.BusyError)
        assert len(busy.agents()) == 3

    @pytest.mark.delete_mode("with a log a writer keeps no reader out")
    def test_a_lock_of_another_program_is_looked_at_a_thousand_times_a_second(
        self, path: Path, busy: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        with by_hand(path) as intruder:
            intruder.execute("BEGIN EXCLUSIVE")

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 3:
                    intruder.execute("ROLLBACK")

            monkeypatch.setattr(time, "sleep", pause)

            assert len(busy.agents()) == 3
        assert pauses == [0.001] * 3

    def test_a_page_that_fails_gives_its_connection_back(self, busy: SqliteStore) -> None:
        for _ in range(10):
            with pytest.raises(StoreReadError, match="no such table"):
                reader_value(busy, "SELECT * FROM elsewhere")

        assert len(busy.agents()) == 3
