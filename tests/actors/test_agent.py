"""One agent's actor: it costs no caller an answer, whatever its gateway, its database or a defect does."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from by_hand import HandDispatcher, Listener, Office
from commitcast.actors import AgentContext, AgentRuntime, AgentStatus
from commitcast.actors.kernel.future import Future
from commitcast.actors.messages import Complete, Patch, Terminate
from commitcast.persistence import verify
from commitcast.persistence.errors import CommitcastError, NotOwnerError, StoreReadError
from commitcast.persistence.records import MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentPatch
from stores import INITIALIZING, RUNNING, change, new_agent, of, opened
from waiting import TIMEOUT_S, wait_until


class Bounded(Listener):
    mailbox_limit_messages = 2


def bounded_gateway(dispatcher: HandDispatcher) -> Bounded:
    gateway = Bounded("gateway", dispatcher)
    gateway.begin()
    return gateway


def test_a_full_gateway_mailbox_costs_neither_the_agents_actor_nor_its_futures(tmp_path: Path) -> None:
    dispatcher = HandDispatcher()
    gateway = bounded_gateway(dispatcher)
    with AgentRuntime(tmp_path / "a.db", gateway=gateway.actor_ref) as runtime:
        dispatcher.run()  # it takes note that the runtime watches it
        agent = runtime.launch()

        sequences = [agent.emit(str(number)).get(TIMEOUT_S).sequence for number in range(5)]

        assert sequences == [1, 2, 3, 4, 5]
        assert runtime.stats().unacknowledged_messages == 0
        assert runtime.stats().dead_letters == 4  # of six: the creation and one message found their place


def test_a_launch_beside_a_full_gateway_mailbox_gives_a_handle(tmp_path: Path) -> None:
    dispatcher = HandDispatcher()
    gateway = bounded_gateway(dispatcher)
    with AgentRuntime(tmp_path / "a.db", gateway=gateway.actor_ref) as runtime:
        ids = [runtime.launch(id=f"agent-{number}").id for number in range(4)]

        assert ids == [f"agent-{number}" for number in range(4)]


def test_acknowledgements_of_an_earlier_actor_in_the_same_batch_are_not_taken_by_the_later_one() -> None:
    office = Office()
    office.add("a")
    office.emit("a", "of the first")
    office.run()
    office.crash("a")
    office.run()
    of_the_second = office.emit("a", "of the second")
    office.run()

    office.commit()
    office.run()

    assert of_the_second.get(0).content == "of the second"


def test_a_change_that_the_dead_database_refused_keeps_no_other_future_waiting() -> None:
    with opened(":memory:") as store:
        store.commit([of("a", new_agent())])
        office = Office(store)
        first = office.emit("a", "first")
        office.writer.stop(block=False)
        office.run()
        completed = office.directory.ask("a", Complete())
        office.run()
        second = office.emit("a", "second")
        office.run()

    assert [future.done() for future in (first, completed, second)] == [True, True, True]
    assert office.credit.messages == 0


def test_an_end_that_an_earlier_actor_asked_for_ends_the_later_one_too() -> None:
    with opened(":memory:") as store:
        store.commit([of("a", new_agent(), change(INITIALIZING, RUNNING))])
        office = Office(store)
        hold = office.dispatcher
        office.directory.ask("a", Complete())
        hold.run_one()  # the agent: the change is on its way to the database, which has no turn yet
        office.crash("a")
        office.directory.ask("a", Patch(AgentPatch(pid=1)))
        while len(office.made) < 2 or not office.made[1]._is_loaded:
            hold.run_one(len(hold.ready) - 1)  # the newest first, so that the database comes last
        assert office.directory.last_sequence("a") == 0

        office.run()

        assert office.directory.last_sequence("a") is None
        assert not office.directory.is_at_work("a") and len(office.directory) == 0


def test_an_agent_whose_actor_met_a_defect_ends_failed_instead_of_running_for_ever(tmp_path: Path) -> None:
    def source(context: AgentContext) -> Iterator[str]:
        yield "before"
        context.cancelled.wait(TIMEOUT_S)

    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch(source)
        next(iter(agent.follow()))

        runtime._running.directory.tell(agent.id, RuntimeError("a defect"))  # type: ignore[arg-type]

        assert agent.wait(2).status is AgentStatus.FAILED


def test_a_stop_asks_nothing_of_a_store_that_is_closed_for_an_agent_that_was_never_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    office = Office(SqliteStore(":memory:"))
    asked = office.emit("a", "x")
    office.directory.end_all(Terminate(), deadline=0.0)

    office.run()

    assert isinstance(asked.exception(0), StoreReadError)
    assert len(office.directory) == 0
    assert "Unhandled exception" not in caplog.text


def test_an_agent_of_another_runtime_that_ends_in_the_midst_of_a_turn_is_written_to_in_the_rest_of_it() -> None:
    office = Office()
    office.add("a")
    office.foreign.add("a")
    early, late = office.emit("a", "early"), office.emit("a", "late")
    early.add_done_callback(lambda _: office.add("a", AgentStatus.COMPLETED))

    office.run()

    assert isinstance(early.exception(0), NotOwnerError)
    assert [[message.content for message in append.messages] for append in office.database.heard] == [["late"]]
    assert not late.done()


def test_no_turn_is_taken_on_the_main_thread_where_an_interrupt_could_tear_it(
    agent_runtime: AgentRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_runtime.launch()
    database: Any = agent_runtime._running._database
    tell, on_threads = type(database).tell, set()

    def noted(ref: Any, message: Any) -> None:
        if ref is database:
            on_threads.add(threading.current_thread())
        tell(ref, message)

    monkeypatch.setattr(type(database), "tell", noted)

    for number in range(20):
        agent.emit(str(number)).get(TIMEOUT_S)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: agent.emit("from another thread").get(TIMEOUT_S)).result(TIMEOUT_S)

    assert on_threads and threading.main_thread() not in on_threads


@pytest.mark.parametrize("defect", [RuntimeError("a defect"), SystemExit(3)], ids=["error", "exit"])
def test_emits_that_race_with_crashing_actors_are_all_answered_and_leave_no_hole(
    tmp_path: Path, defect: BaseException
) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch()
        over = threading.Event()

        def crash() -> None:
            while not over.wait(0.002):
                runtime._running.directory.ask(agent.id, defect)  # type: ignore[arg-type]  # that is the defect
                runtime._running.directory.tell(agent.id, defect)  # type: ignore[arg-type]

        def send(sender: int) -> list[Future[MessageRecord]]:
            return [agent.emit(f"{sender}:{number}") for number in range(300)]

        crashing = threading.Thread(target=crash)
        crashing.start()
        with ThreadPoolExecutor(3) as pool:
            sent = [future for futures in pool.map(send, range(3)) for future in futures]
        over.set()
        crashing.join(TIMEOUT_S)
        errors = [future.exception(TIMEOUT_S) for future in sent]

        assert all(error is None or isinstance(error, CommitcastError) for error in errors)
        kept = {number: future.get(0).content for number, future in enumerate(sent) if errors[number] is None}
        assert kept == {number: f"{number // 300}:{number % 300}" for number in kept}
        wait_until(lambda: runtime.stats().unacknowledged_messages == 0, "every place to be given back")
        assert agent.emit("still here").get(TIMEOUT_S).sequence == agent.record().head
    assert verify(tmp_path / "a.db").is_sound
