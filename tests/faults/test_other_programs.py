"""What others do to a runtime's file: readers beside it, changes in place, another journal mode, a lack of room."""

import asyncio
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from commitcast.actors import AgentRuntime, in_process
from commitcast.actors.errors import FutureTimeoutError
from commitcast.gateway.server.http import routes
from commitcast.persistence.errors import StoreLockedError, StoreUnavailableError, StoreUnknownError
from commitcast.persistence.sqlite import connections, watch
from commitcast.persistence.sqlite.batch import Batch
from commitcast.persistence.sqlite.journal import DELETE, WAL, log_of
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.sqlite.watch import FileWatch
from commitcast.persistence.store import Report
from modes import in_mode
from outside import outside, outside_reader
from stores import by_hand, commit, contents, new_agent, opened, problems, reader_value, text
from waiting import TIMEOUT_S, wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.both_modes,
    pytest.mark.sampled(12, of_file=True),
]


def look_by_verify(path: Path) -> None:
    verify(path)


def look_by_reading(path: Path) -> None:
    with opened(path, read_only=True) as store:
        store.agents()


def look_by_starting(path: Path) -> None:
    with pytest.raises(StoreLockedError):
        AgentRuntime(path).start()


class TestReaders:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("look", [look_by_verify, look_by_reading, look_by_starting])
    def test_a_look_from_inside_beside_a_reader_outside_harms_no_commit(
        self, path: Path, look: Callable[[Path], None]
    ) -> None:
        with AgentRuntime(path) as runtime, outside_reader(path), outside_reader(path):
            agent = runtime.launch(id="a")
            for number in range(100):
                future = agent.emit("x" * 3_000)
                look(path)

                assert future.get(TIMEOUT_S).sequence == number + 1
            assert runtime.failure is None
        assert problems(path) == []


def copy_by_hand(path: Path) -> None:
    """Copy the file and the log beside it, in another process."""

    def copy(path: Path) -> None:
        for file in (path, log_of(path)):
            if file.exists():
                shutil.copy(file, file.with_suffix(f"{file.suffix}.backup"))

    in_another_process(copy, path)


def put_a_backup_back(path: Path) -> None:
    for file in (path, log_of(path)):
        if file.exists():
            shutil.copy(file.with_suffix(f"{file.suffix}.backup"), file)


def delete_the_end(path: Path) -> None:
    with by_hand(path) as other:
        other.execute("DELETE FROM agent_messages WHERE sequence_number > 1; UPDATE agents SET head = 1;")
        other.execute("UPDATE positions SET last = 2")


def delete_messages(path: Path) -> None:
    with by_hand(path) as other:
        other.execute("DELETE FROM agent_messages WHERE sequence_number > 1")


def add_a_message(path: Path) -> None:
    with by_hand(path) as other:
        other.execute("INSERT INTO agent_deletions VALUES (4, 'b', ''); UPDATE positions SET last = 4")


def cut_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty_it(path: Path) -> None:
    os.truncate(path, 0)


def drop_a_table(path: Path) -> None:
    with by_hand(path) as other:
        other.execute("DROP TABLE positions")


def drop_a_column(path: Path) -> None:
    with by_hand(path) as other:
        other.execute("ALTER TABLE agent_messages DROP COLUMN metadata")


def zero_its_tail(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


def flip_a_word(path: Path) -> None:
    with (log_of(path) if log_of(path).exists() else path).open("r+b") as file:
        at = file.read().rindex(b"first")  # in a log: of the newest version of its page
        file.seek(at)
        file.write(b"FIRST")


WITHOUT_SQLITE = [put_a_backup_back, cut_it, empty_it, zero_its_tail, flip_a_word]
WITH_SQLITE = [delete_the_end, delete_messages, add_a_message, drop_a_table, drop_a_column]


class TestChangesInPlace:
    @pytest.mark.parametrize("harm", [*WITHOUT_SQLITE, *WITH_SQLITE])
    def test_it_is_noticed_before_anything_is_acknowledged(self, path: Path, harm: Callable[[Path], None]) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            copy_by_hand(path)
            commit(store, "a", text("second"))
            size = path.stat().st_size
            in_another_process(harm, path)

            with pytest.raises(StoreUnknownError, match=r"has changed|is damaged"):
                commit(store, "a", text("third"))

            assert path.stat().st_size <= size
            with pytest.raises(StoreUnknownError):
                store.agents()

    def test_times_that_change_alone_stop_nothing_and_what_changes_then_is_noticed(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            for number in range(5):
                os.utime(path)

                assert commit(store, "a", text(str(number))).refused is False

            in_another_process(flip_a_word, path)
            with pytest.raises(StoreUnknownError, match="has changed"):
                commit(store, "a", text("later"))

    def test_a_file_whose_times_change_all_the_time_is_read_a_tenth_of_the_time(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checks: list[float] = []

        def check(*arguments: Any, **options: Any) -> Report:
            checks.append(clock[0])
            clock[0] += 1  # second, which it takes
            return Report("")

        clock = [1_000.0]
        monkeypatch.setattr(watch, "verify", check)
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            monkeypatch.setattr(time, "monotonic", lambda: clock[0])
            for number in range(300):
                os.utime(path)
                commit(store, "a", text(str(number)))
                clock[0] += 1

        assert checks[:3] == [1_000, 1_002, 1_004]  # by the credit
        assert 30 <= len(checks) <= 40

    @pytest.mark.parametrize("harm", WITHOUT_SQLITE)
    def test_it_is_noticed_in_the_midst_of_a_commit_too(
        self, path: Path, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        committed = FileWatch.note_commit

        def harmed(file: FileWatch) -> None:
            monkeypatch.undo()
            in_another_process(harm, path)
            committed(file)

        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            copy_by_hand(path)
            commit(store, "a", text("second"))
            monkeypatch.setattr(FileWatch, "note_commit", harmed)

            with pytest.raises(StoreUnknownError, match=r"has changed|is damaged"):
                commit(store, "a", text("third"))

    @pytest.mark.delete_mode("the header of the file does not count the commits in a log")
    def test_a_commit_of_another_program_after_this_one_s_is_told_by_its_number(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        committed = FileWatch.note_commit

        def write(path: Path) -> None:
            with by_hand(path) as connection:
                connection.execute("UPDATE agents SET type = 'tampered'")

        def harmed(file: FileWatch) -> None:
            monkeypatch.undo()
            in_another_process(write, path)
            committed(file)

        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            monkeypatch.setattr(FileWatch, "note_commit", harmed)

            with pytest.raises(StoreUnknownError, match="its header counts 2 commits since") as raised:
                commit(store, "a", text("second"))

        assert "bytes" not in str(raised.value)

    def test_programs_that_only_look_stop_nothing(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            for number in range(3):
                in_another_process(lambda path: path.open("r+b").close(), path)
                commit(store, "a", text(str(number)))

            assert len(contents(store, "a")) == 4

    def test_where_the_system_tells_nothing_the_file_is_watched_all_the_same(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch._libc, "inotify_init1", lambda _: -1)
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            commit(store, "a", text("second"))
            in_another_process(flip_a_word, path)

            with pytest.raises(StoreUnknownError, match="has changed"):
                commit(store, "a", text("third"))

    @pytest.mark.parametrize("harm", WITHOUT_SQLITE)
    def test_it_is_noticed_in_the_midst_of_a_transaction_too(
        self, path: Path, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Batch.write

        def harmed(batch: Batch, work: Any, **options: Any) -> Any:
            outcomes = write(batch, work, **options)
            monkeypatch.undo()
            in_another_process(harm, path)
            return outcomes

        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            copy_by_hand(path)
            commit(store, "a", text("second"))
            monkeypatch.setattr(Batch, "write", harmed)

            with pytest.raises(StoreUnknownError, match=r"has changed|is damaged"):
                commit(store, "a", text("third"))

    def test_what_numbers_do_not_rest_on_is_only_warned_of(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            with by_hand(path) as other:
                other.execute("CREATE VIEW theirs AS SELECT id FROM agents")

            commit(store, "a", text("second"))
            commit(store, "a", text("third"))

            assert contents(store, "a") == [(1, "first"), (2, "second"), (3, "third")]
            assert caplog.text.count("another program has written to") == 1


def in_another_process(harm: Callable[[Path], None], path: Path) -> None:
    """Fork for it: whatever this process opens and closes would drop the locks of the store under test."""
    child = os.fork()
    if child == 0:
        try:
            harm(path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.delete_mode("a file in WAL mode cannot be switched while a runtime has it open")
class TestJournalMode:
    TURN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
connection.execute("SELECT count(*) FROM agent_messages").fetchone()
print(mode, flush=True)
sys.stdin.read()
"""

    def test_another_one_is_noticed_and_left_again(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent("first"))
            assert contents(store, "a")
            with outside(self.TURN, str(path)):
                pass

            commit(store, "a", text("second"))

            assert reader_value(store, "PRAGMA journal_mode") == "delete"
            assert "it was switched back" in caplog.text
            assert contents(store, "a") == [(1, "first"), (2, "second")]

    def test_while_the_other_keeps_it_open_everything_waits(
        self, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_process, "RETRY_S", 0.01)
        with AgentRuntime(path) as runtime:
            assert isinstance(runtime.store, SqliteStore)
            assert runtime.store._writer is not None
            runtime.store._writer.set_busy_timeout(10)
            agent = runtime.launch(id="a")
            with outside(self.TURN, str(path)) as other:
                future = agent.emit("waits")
                wait_until(lambda: "to another journal mode and has it open" in caplog.text, "the switch to be noticed")
                assert not future.done()
                other.communicate("")

                assert future.get(TIMEOUT_S).sequence == 1
            assert runtime.failure is None


NO_ROOM = """
import logging, os, resource, signal, sys
from commitcast.actors import AgentRuntime, in_process

class Told(logging.Handler):
    def emit(self, record):
        print(record.getMessage().split(": ", 1)[1], flush=True)

logging.getLogger().addHandler(Told())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
what, path, mode = sys.argv[1:]
limit = {"files": resource.RLIMIT_NOFILE, "size": resource.RLIMIT_FSIZE}[what]
with AgentRuntime(path, journal_mode=mode, server="in_process") as runtime:
    agent = runtime.launch(id="a")
    agent.emit("first").get(10)
    print("ready", flush=True)
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, ({"files": 3, "size": os.path.getsize(path)}[what], hard))
    future = agent.emit("x" * 100_000)
    sys.stdin.readline()
    assert not future.done()
    resource.setrlimit(limit, (soft, hard))
    print(future.get(10).sequence, runtime.failure, flush=True)
    sys.stdin.read()
"""


HOLD = {
    "exclusive": """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
""",
    "writer": """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
""",
    "reader": """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM agents").fetchone()
print("held", flush=True)
sys.stdin.read()
""",
}


HELD = pytest.mark.parametrize(
    ("journal_mode", "kind"),
    [*(in_mode(DELETE, kind) for kind in HOLD), in_mode(WAL, "exclusive"), in_mode(WAL, "writer")],
    indirect=["journal_mode"],
)
"""In WAL mode a reader holds nothing up."""


class TestHeld:
    """Another program has the file open in a transaction and does not end it."""

    @HELD
    def test_everything_waits_and_says_so_and_goes_on_afterwards(
        self, path: Path, kind: str, journal_mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_process, "RETRY_S", 0.01)
        monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 0.02)
        monkeypatch.setattr(routes, "READ_TIMEOUT_S", 0.1)
        with AgentRuntime(path, listen="127.0.0.1:0") as runtime:
            agent = runtime.launch(id="a")
            agent.start().get(TIMEOUT_S)
            assert status_of(runtime, "/readyz") == 200
            with outside(HOLD[kind], str(path)) as holder:
                future = agent.emit("waits")
                wait_until(lambda: runtime.stats().waits_for, "the commit to be kept waiting")

                assert status_of(runtime, "/readyz") == 503
                assert status_of(runtime, "/healthz") == 200
                assert "commitcast_commit_waiting 1.0" in body_of(runtime, "/metrics")
                if journal_mode == DELETE and kind != "writer":  # a commit that waits keeps other readers out too
                    assert status_of(runtime, "/v1/agents") == 503
                assert not future.done()
                holder.communicate("")

                assert future.get(TIMEOUT_S).sequence == 1
            assert status_of(runtime, "/readyz") == 200
            assert runtime.stats().waits_for is None
            assert runtime.failure is None

    @HELD
    def test_a_store_tells_what_a_commit_waits_for_and_when_that_is_over(
        self, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 0.02)
        told: SimpleQueue[str | None] = SimpleQueue()
        with opened(path) as store:
            store.on_waiting = told.put

            def commit_until_stored() -> None:
                with suppress(StoreUnavailableError):
                    commit(store, "a", new_agent())
                    return
                commit_until_stored()

            with outside(HOLD[kind], str(path)) as holder:
                committing = threading.Thread(target=commit_until_stored)
                committing.start()
                reason = told.get(timeout=TIMEOUT_S)
                holder.communicate("")
                committing.join(TIMEOUT_S)

            assert reason is not None and "another program" in reason
            while (latest := told.get(timeout=TIMEOUT_S)) is not None:
                assert "another program" in latest
            assert told.empty()

    @HELD
    def test_the_time_that_a_caller_gives_holds(self, path: Path, kind: str) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch(id="a")
            agent.start().get(TIMEOUT_S)
            with outside(HOLD[kind], str(path)) as holder:
                agent.emit("waits")

                waits: list[Callable[[], object]] = [
                    lambda: agent.wait(timeout=0.2),
                    lambda: asyncio.run(agent.await_(timeout=0.2)),
                ]
                for wait in waits:
                    began = time.monotonic()
                    with pytest.raises(FutureTimeoutError, match=r"within 0\.2 seconds"):
                        wait()
                    assert time.monotonic() - began < connections.BUSY_TIMEOUT_S / 2
                holder.communicate("")

    @HELD
    @pytest.mark.both_forms
    def test_a_stop_is_not_held_up(self, path: Path, kind: str) -> None:
        runtime = AgentRuntime(path, stop_timeout_s=0.5).start()
        agent = runtime.launch(id="a")
        agent.start().get(TIMEOUT_S)
        with outside(HOLD[kind], str(path)) as holder:
            agent.emit("waits")
            began = time.monotonic()

            runtime.stop()

            assert time.monotonic() - began < connections.BUSY_TIMEOUT_S / 2
            holder.communicate("")
        with AgentRuntime(path) as again:
            assert again.agent("a").record().error_name == "Interrupted"


def status_of(runtime: AgentRuntime, path: str) -> int:
    """What an HTTP read is answered with."""
    try:
        with urllib.request.urlopen(f"http://{runtime.address}{path}", timeout=TIMEOUT_S) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def body_of(runtime: AgentRuntime, path: str) -> str:
    with urllib.request.urlopen(f"http://{runtime.address}{path}", timeout=TIMEOUT_S) as response:
        body: bytes = response.read()
        return body.decode()


class TestRoom:
    @pytest.mark.parametrize(
        ("journal_mode", "what", "why"),
        [
            in_mode(DELETE, "files", "Too many open files"),
            in_mode(DELETE, "size", "File too large"),
            in_mode(WAL, "size", "File too large"),  # a commit opens no file
        ],
        indirect=["journal_mode"],
    )
    def test_what_the_system_refuses_for_the_moment_is_kept_and_stored_when_it_can_be(
        self, path: Path, what: str, why: str, journal_mode: str
    ) -> None:
        with outside(NO_ROOM, what, str(path), journal_mode) as child:
            assert child.stdin is not None and child.stdout is not None
            assert why in child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()

            assert child.stdout.readline() == "2 None\n"
            child.communicate("")
        assert problems(path) == []
