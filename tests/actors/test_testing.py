"""The doubles that are shipped: they do what they say, also inside a host's pytest."""

import inspect
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentRuntime, testing
from commitcast.actors.messages import Notice
from commitcast.actors.testing import FailingStore, HeldStore, MockGateway, Probe, SeededDispatcher
from commitcast.persistence import Committed
from commitcast.persistence.errors import (
    CommitcastError,
    InvalidValueError,
    NotStoredError,
    StoreBusyError,
    StoreUnknownError,
)
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.store import Store
from stores import by_hand
from waiting import SLOWNESS

SECONDS = 10.0


def test_it_receives_committed_and_notices_in_order(agent_runtime: AgentRuntime, mock_gateway: MockGateway) -> None:
    agent = agent_runtime.launch(prompt="hi")
    agent.start().get(SECONDS)
    agent_runtime.emit("nobody", "x").exception(SECONDS)

    received = mock_gateway.wait_for(3)

    assert [type(told) for told in received] == [Committed, Committed, Notice]
    assert [message.content for message in mock_gateway.messages] == ["hi"]
    assert [change.status for change in mock_gateway.changes] == ["running"]


def test_waiting_in_vain_raises_and_shows_what_was_there(mock_gateway: MockGateway) -> None:
    for wait in (
        lambda: mock_gateway.wait_for(1, timeout=0),
        lambda: mock_gateway.wait_for_messages(1, timeout=0),
        lambda: mock_gateway.wait_for_status("a", "running", timeout=0),
    ):
        with pytest.raises(TimeoutError, match=r"received \[\]"):
            wait()


def test_waiting_for_a_status_that_there_is_not_is_refused_at_once(mock_gateway: MockGateway) -> None:
    with pytest.raises(InvalidValueError, match="'done' is not an agent status: use one of initializing, "):
        mock_gateway.wait_for_status("a", "done")


def test_waiting_in_vain_shows_the_texts_that_were_received(
    agent_runtime: AgentRuntime, mock_gateway: MockGateway
) -> None:
    agent = agent_runtime.launch(id="a", prompt="hi")
    agent.start().get(SECONDS)
    agent.emit("hello").get(SECONDS)
    agent_runtime.emit("nobody", "x").exception(SECONDS)

    with pytest.raises(TimeoutError) as raised:
        mock_gateway.wait_for(99, timeout=0.1)

    assert str(raised.value).startswith(
        "waited 0.1 s for 99 things; received [Committed('a': 1 'hi'), Committed('a': initializing -> running), "
        "Committed('a': 2 'hello'), Notice(agent='nobody', code='not_found', "
    )


def test_under_a_seeded_dispatcher_its_waits_run_the_actors() -> None:
    with SeededDispatcher(seed=3) as dispatcher:
        gateway = MockGateway(dispatcher=dispatcher)
        with AgentRuntime(":memory:", gateway=gateway, dispatcher=dispatcher) as runtime:
            runtime.launch().emit("hello")
            assert [message.content for message in gateway.wait_for_messages(1)] == ["hello"]
        gateway.stop()


@pytest.mark.parametrize(
    "wait",
    [
        lambda gateway: gateway.wait_for(1, timeout_s=0),
        lambda gateway: gateway.wait_for_messages(1, timeout_s=0),
        lambda gateway: gateway.wait_for_status("a", "running", timeout_s=0),
        lambda gateway: gateway.wait_until(lambda: False, "nothing", timeout_s=0),
    ],
)
def test_the_old_name_of_a_timeout_goes_on_working_and_warns(mock_gateway: MockGateway, wait: Any) -> None:
    with pytest.warns(DeprecationWarning, match="is now called 'timeout'"), pytest.raises(TimeoutError):
        wait(mock_gateway)


@pytest.mark.parametrize("double", [Probe, MockGateway, HeldStore, FailingStore, SeededDispatcher, testing])
def test_the_example_in_its_docstring_runs(double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"AgentRuntime": AgentRuntime, "NotStoredError": NotStoredError, "SqliteStore": SqliteStore}
    _, example = (inspect.getdoc(double) or "").split("Example:\n")

    exec(textwrap.dedent(example), {**vars(testing), **names})


def test_fail_on_raises_at_that_message_and_it_is_not_kept(tmp_path: Path) -> None:
    gateway = MockGateway()
    gateway.fail_on(3)
    with AgentRuntime(tmp_path / "a.db", gateway=gateway.ref) as runtime:
        agent = runtime.launch()
        for number in range(4):
            agent.emit(str(number)).get(SECONDS)

    assert len(gateway.received) == 2
    gateway.stop()


def test_nothing_but_a_store_can_make_a_committed() -> None:
    with pytest.raises(TypeError, match="Committed cannot be created directly"):
        Committed()


@pytest.mark.sampled(1 / 2)
def test_the_fixtures_are_found_by_a_hosts_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_host.py").write_text(
        "def test_host(agent_runtime, mock_gateway):\n"
        "    agent = agent_runtime.launch(lambda context: ['a', 'b'])\n"
        "    agent.wait(timeout=5)\n"
        "    assert [m.content for m in mock_gateway.wait_for_messages(2)] == ['a', 'b']\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert "1 passed" in done.stdout, done.stdout


class TestHeldStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> HeldStore:
        return HeldStore(SqliteStore(tmp_path / "a.db"))

    @pytest.fixture
    def runtime(self, store: HeldStore) -> Iterator[AgentRuntime]:
        with AgentRuntime(store) as runtime:
            yield runtime

    def test_held_commits_wait_and_are_stored_when_they_are_released(
        self, store: HeldStore, runtime: AgentRuntime
    ) -> None:
        agent = runtime.launch()
        store.hold()

        futures = [agent.emit("first")]
        store.wait_until_held()
        futures.append(agent.emit("second"))
        assert not any(future.done() for future in futures)
        assert agent.messages() == []
        store.release()

        assert [future.get(SECONDS).sequence for future in futures] == [1, 2]
        assert agent.emit("third").get(SECONDS).sequence == 3

    def test_only_those_commits_are_held_that_concern_it(self, store: HeldStore, runtime: AgentRuntime) -> None:
        held, free = runtime.launch(id="held"), runtime.launch(id="free")
        store.hold(lambda work: any(writes.agent == "held" for writes in work))

        assert free.emit("goes on").get(SECONDS).sequence == 1
        future = held.emit("waits")
        store.wait_until_held()
        assert not future.done()
        store.release()

        assert future.get(SECONDS).sequence == 1

    def test_waiting_for_a_commit_that_nobody_begins_raises(self, store: HeldStore, runtime: AgentRuntime) -> None:
        store.hold()

        with pytest.raises(TimeoutError, match="none began"):
            store.wait_until_held(timeout=0)

    def test_one_that_is_never_released_is_an_error_that_says_so(
        self, store: HeldStore, runtime: AgentRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(testing, "HOLD_S", 0.01)
        agent = runtime.launch()
        store.hold()

        assert "did not call `release`" in str(agent.emit("forgotten").exception(SECONDS))
        store.release()

    def test_it_is_a_store_in_every_other_way(self, tmp_path: Path, store: HeldStore, runtime: AgentRuntime) -> None:
        runtime.launch(id="a").emit("x").get(SECONDS)

        assert store.name == str(tmp_path / "a.db")
        assert [record.content for record in store.messages("a")] == ["x"]
        runtime.backup(tmp_path / "copy.db")
        assert verify(tmp_path / "copy.db").messages == 1


@pytest.mark.parametrize("double", [HeldStore, FailingStore])
class TestWhatIsWrapped:
    def test_a_path_stands_for_the_sqlite_store_in_it(self, tmp_path: Path, double: Any) -> None:
        for database in (":memory:", tmp_path / "a.db", str(tmp_path / "b.db")):
            with AgentRuntime(double(database)) as runtime:
                assert runtime.launch(id="a").emit("stored").get(SECONDS).sequence == 1

        assert verify(tmp_path / "a.db").messages == verify(tmp_path / "b.db").messages == 1

    @pytest.mark.parametrize("database", [None, 5, b"a.db", object(), SqliteStore])
    def test_anything_else_is_refused_at_once_as_it_is_by_the_runtime(self, double: Any, database: Any) -> None:
        for take in (double, AgentRuntime):
            with pytest.raises(InvalidValueError, match=r"^a database is given as a path or as a Store, not as .+$"):
                take(database)


class TestFailingStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> FailingStore:
        return FailingStore(SqliteStore(tmp_path / "a.db"))

    @pytest.fixture
    def runtime(self, store: FailingStore) -> Iterator[AgentRuntime]:
        with AgentRuntime(store) as runtime:
            yield runtime

    def test_the_next_commit_fails_and_the_one_after_it_does_not(
        self, store: FailingStore, runtime: AgentRuntime
    ) -> None:
        agent = runtime.launch()
        store.fail(NotStoredError("the disk said no"))

        assert str(agent.emit("lost").exception(SECONDS)) == "the disk said no"
        assert agent.emit("kept").get(SECONDS).sequence == 1
        assert [message.content for message in agent.messages()] == ["kept"]

    def test_as_many_fail_as_were_ordered(self, store: FailingStore, runtime: AgentRuntime) -> None:
        agent = runtime.launch()
        store.fail(NotStoredError("no"), times=3)

        errors = [agent.emit(str(number)).exception(SECONDS) for number in range(5)]

        assert [error is None for error in errors] == [False, False, False, True, True]
        assert len(store.commits) == 6
        assert [len(work[0].writes) for work in store.commits] == [1] * 6

    def test_every_commit_that_concerns_it_fails(self, store: FailingStore, runtime: AgentRuntime) -> None:
        failing, free = runtime.launch(id="failing"), runtime.launch(id="free")
        store.fail(NotStoredError("no"), times=None, when=lambda work: any(w.agent == "failing" for w in work))

        for _ in range(3):
            assert failing.emit("lost").exception(SECONDS) is not None
            assert free.emit("kept").exception(SECONDS) is None

    def test_each_failure_is_an_error_of_its_own(self, store: FailingStore) -> None:
        with closing(store):
            store.fail(StoreBusyError("busy"), times=None)
            raised: list[StoreBusyError] = []
            for _ in range(3):
                with pytest.raises(StoreBusyError, match="busy") as info:
                    store.commit([])
                raised.append(info.value)

        assert len(set(map(id, raised))) == 3
        assert len({len(traceback.extract_tb(error.__traceback__)) for error in raised}) == 1

    def test_an_unknown_outcome_stops_the_runtime(self, store: FailingStore, runtime: AgentRuntime) -> None:
        agent = runtime.launch()
        store.fail(StoreUnknownError("the fsync failed"))

        assert isinstance(agent.emit("maybe").exception(SECONDS), StoreUnknownError)
        assert isinstance(runtime.failure, StoreUnknownError)

    def test_what_is_held_may_fail_then(self, tmp_path: Path) -> None:
        failing = FailingStore(SqliteStore(tmp_path / "b.db"))
        held = HeldStore(failing)
        with AgentRuntime(held) as runtime:
            agent = runtime.launch()
            held.hold()
            future = agent.emit("lost")
            held.wait_until_held()
            failing.fail(NotStoredError("no"))
            held.release()

            assert isinstance(future.exception(SECONDS), NotStoredError)


@pytest.mark.parametrize(
    "wrapped",
    [lambda store: store, FailingStore, HeldStore, lambda store: HeldStore(FailingStore(store))],
    ids=["none", "FailingStore", "HeldStore", "both"],
)
def test_a_stop_does_not_wait_for_another_program_s_lock_with_any_double(
    tmp_path: Path, wrapped: Callable[[SqliteStore], Store]
) -> None:
    runtime = AgentRuntime(wrapped(SqliteStore(tmp_path / "a.db")))
    threads = set(threading.enumerate())
    runtime.start()
    agent = runtime.launch()
    with by_hand(tmp_path / "a.db") as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        future = agent.emit("waits")
        runtime.stop(timeout=SLOWNESS)

        assert {thread.name for thread in set(threading.enumerate()) - threads} == set()
        assert isinstance(future.exception(SECONDS), CommitcastError)
