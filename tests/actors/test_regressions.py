"""Defects that were found by reading the actor layer as its enemy. Each failed when it was written."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pykka
import pytest

from by_hand import HandDispatcher, Listener, Office
from commitcast.actors import AgentContext, AgentRuntime, AgentStatus
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.ref import ActorStopped
from commitcast.actors.kernel.supervision import ChildSpec, RestartPolicy, Restarts, Supervisor
from commitcast.actors.launching import Launch
from commitcast.actors.messages import Append, Complete, Terminate
from commitcast.actors.testing import FailingStore, HeldStore
from commitcast.persistence import AgentExistsError, InvalidValueError, SqliteStore, verify
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.records import MessageRecord
from stores import contents, new_agent, of, opened, text
from waiting import TIMEOUT_S, wait_until


class Bounded(Listener):
    mailbox_limit_messages = 2


def started(actor: Any) -> Any:
    actor.begin()
    return actor


class TestTheGatewaysBound:
    def test_a_full_gateway_mailbox_costs_neither_the_agents_actor_nor_its_futures(self, tmp_path: Path) -> None:
        dispatcher = HandDispatcher()
        gateway = started(Bounded("gateway", dispatcher))
        with AgentRuntime(tmp_path / "a.db", gateway=gateway.actor_ref) as runtime:
            dispatcher.run()  # it takes note that the runtime watches it
            agent = runtime.launch()

            sequences = [agent.emit(str(number)).get(TIMEOUT_S).sequence for number in range(5)]

            assert sequences == [1, 2, 3, 4, 5]
            assert runtime.stats().unacknowledged_messages == 0
            assert runtime.stats().dead_letters == 4  # of six: the creation and one message found their place

    def test_a_launch_beside_a_full_gateway_mailbox_gives_a_handle(self, tmp_path: Path) -> None:
        dispatcher = HandDispatcher()
        gateway = started(Bounded("gateway", dispatcher))
        with AgentRuntime(tmp_path / "a.db", gateway=gateway.actor_ref) as runtime:
            ids = [runtime.launch(id=f"agent-{number}").id for number in range(4)]

            assert ids == [f"agent-{number}" for number in range(4)]


class TestCancelling:
    def test_a_cancelled_ask_does_not_keep_those_behind_it_from_their_answers(self) -> None:
        dispatcher = HandDispatcher()
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.watch(told.append)
        actor.actor_ref.tell(ValueError("a defect"))
        cancelled = actor.actor_ref.ask("taken back", block=False)
        behind = actor.actor_ref.ask("behind it", block=False)
        cancelled.cancel()

        dispatcher.run()

        assert isinstance(behind.exception(0), pykka.ActorDeadError)
        assert len(told) == 1

    def test_a_cancelled_emit_does_not_keep_those_behind_it_from_being_refused_at_the_stop(self) -> None:
        office = Office()
        office.add("a")
        office.emit("a", "before")
        office.run()
        office.crash("a")
        cancelled, behind = office.emit("a", "taken back"), office.emit("a", "behind it")
        cancelled.cancel()
        office.directory.end_all(Terminate(), deadline=0)

        office.run()

        assert behind.done()
        assert office.credit.messages == 0

    def test_a_cancelled_stop_leaves_no_traceback_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        dispatcher = HandDispatcher()
        actor = started(Listener("a", dispatcher))
        stopping = actor.actor_ref.stop(block=False)
        stopping.cancel()

        dispatcher.run()

        assert "callback failed" not in caplog.text


class TestTheEnd:
    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
    def test_a_watcher_that_raises_anything_ends_no_thread(self, error: BaseException) -> None:
        dispatcher = HandDispatcher()
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []

        def raises(_: ActorStopped) -> None:
            raise error

        actor.actor_ref.watch(raises)
        actor.actor_ref.watch(told.append)
        actor.actor_ref.tell(ValueError("a defect"))

        dispatcher.run()

        assert len(told) == 1

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
    def test_last_words_that_raise_anything_end_no_thread(self, error: BaseException) -> None:
        class Grumbles(Listener):
            def on_failure(self, *_: object) -> None:
                raise error

        dispatcher = HandDispatcher()
        actor = started(Grumbles("a", dispatcher))
        actor.actor_ref.tell(ValueError("a defect"))
        waiting = actor.actor_ref.ask("too late", block=False)

        dispatcher.run()

        assert isinstance(waiting.exception(0), pykka.ActorDeadError)


class TestSupervision:
    def supervised(self, dispatcher: HandDispatcher, error: BaseException) -> tuple[Any, list[str]]:
        made: list[Listener] = []
        escalated: list[str] = []

        class FailsToStart(Listener):
            def on_start(self) -> None:
                if len(made) > 1:
                    raise error

        def make() -> Listener:
            made.append(FailsToStart("child", dispatcher))
            return made[-1]

        supervisor = Supervisor(dispatcher, lambda name, _: escalated.append(name))
        ref = supervisor.start(ChildSpec("child", make, RestartPolicy(intensity=1)))
        ref.tell(ValueError("a defect"))
        dispatcher.run()
        return ref, escalated

    def test_a_child_that_was_given_up_after_a_failed_start_can_still_be_watched(self) -> None:
        dispatcher = HandDispatcher()
        ref, escalated = self.supervised(dispatcher, OSError("no such device"))
        dispatcher.advance(100)
        told: list[ActorStopped] = []

        ref.watch(told.append)

        assert escalated == ["child"]
        assert len(told) == 1

    def test_a_child_whose_start_tries_to_end_the_thread_is_given_up_too(self) -> None:
        dispatcher = HandDispatcher()
        ref, escalated = self.supervised(dispatcher, SystemExit(3))
        waiting = ref.ask("anybody?", block=False)

        dispatcher.advance(100)

        assert escalated == ["child"]
        assert isinstance(waiting.exception(0), pykka.ActorDeadError)

    def test_the_backoff_of_a_thing_that_failed_a_thousand_times_is_still_its_maximum(self) -> None:
        restarts = Restarts(RestartPolicy(intensity=5_000, period_s=1e9, backoff_s=0.001, max_backoff_s=2.0))

        delays = [restarts.after_failure(float(number)) for number in range(1_500)]

        assert delays[-1] == 2.0

    @pytest.mark.parametrize(
        "policy",
        [
            RestartPolicy(intensity="5"),  # type: ignore[arg-type]
            RestartPolicy(backoff_s=None),  # type: ignore[arg-type]
            RestartPolicy(backoff_s=float("inf"), max_backoff_s=float("inf")),
        ],
        ids=["text", "None", "infinite"],
    )
    def test_a_policy_with_a_number_that_is_none_is_refused_like_any_other(
        self, agent_runtime: AgentRuntime, policy: RestartPolicy
    ) -> None:
        with pytest.raises(InvalidValueError):
            agent_runtime.launch(lambda context: "x", restart=policy)

        assert agent_runtime.agents() == []


class TestAgents:
    def test_acknowledgements_of_an_earlier_actor_in_the_same_batch_are_not_taken_by_the_later_one(self) -> None:
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

    def test_what_is_redelivered_stays_before_what_the_same_sender_says_next(self) -> None:
        office = Office()
        office.add("a")
        office.emit("a", "b0")
        office.run()
        office.crash("a")
        for content in ("b1", "a1"):
            office.emit("a", content)
        sending: list[threading.Thread] = []

        def while_it_is_redelivered(actor: Actor) -> None:
            if len(office.made) == 2 and not sending:
                sending.append(threading.Thread(target=office.emit, args=("a", "a2")))
                sending[0].start()
                sending[0].join(0.2)

        office.dispatcher.on_schedule = while_it_is_redelivered
        office.run()
        sending[0].join(TIMEOUT_S)
        office.run()
        office.commit()
        office.run()

        assert office.said == ["b0", "b1", "a1", "a2"]

    def test_a_change_that_the_dead_database_refused_keeps_no_other_future_waiting(self) -> None:
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

    def test_an_agent_whose_actor_met_a_defect_ends_failed_instead_of_running_for_ever(self, tmp_path: Path) -> None:
        def source(context: AgentContext) -> Iterator[str]:
            yield "before"
            context.cancelled.wait(TIMEOUT_S)

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)
            next(iter(agent.follow()))

            runtime._running.directory.tell(agent.id, RuntimeError("a defect"))  # type: ignore[arg-type]

            assert agent.wait(2).status is AgentStatus.FAILED

    def test_terminating_an_agent_that_waits_for_its_restart_leaves_no_dead_letter(
        self, agent_runtime: AgentRuntime
    ) -> None:
        def fails(context: AgentContext) -> None:
            raise OSError("no")

        agent = agent_runtime.launch(fails, restart=RestartPolicy(backoff_s=0.05))
        next(iter(agent.follow()))
        agent.terminate().get(TIMEOUT_S)
        again = agent_runtime.launch(fails, restart=RestartPolicy(intensity=2, backoff_s=0.1))
        again.wait(TIMEOUT_S)  # longer than the other's backoff

        assert agent_runtime.stats().latest_dead_letters == ()

    def test_no_turn_is_taken_on_the_main_thread_where_an_interrupt_could_tear_it(
        self, agent_runtime: AgentRuntime, monkeypatch: pytest.MonkeyPatch
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


class TestTheWriter:
    def test_what_a_crashed_writer_had_and_what_waits_for_it_is_answered_at_once(self) -> None:
        with opened(":memory:") as inner:
            inner.commit([of(agent, new_agent()) for agent in ("a", "b")])
            store = FailingStore(inner)
            office = Office(store)
            store.fail(SystemExit(3))
            futures = [office.emit("a", "in the batch"), office.emit("b", "in the batch too")]

            office.run()

            assert [future.done() for future in futures] == [True, True]

    def test_a_stop_comes_after_the_commit_of_what_was_sent_before_it_even_between_two_small_batches(self) -> None:
        with opened(":memory:") as store:
            store.commit([of(agent, new_agent()) for agent in ("a", "b")])
            office = Office(store)
            for agent in ("a", "b"):
                office.emit(agent, "first")
            for _ in range(3):
                office.dispatcher.run_one()  # both agents send, and the writer commits two rows
            message = text("second")
            office.writer.tell(Append("a", 1, 10**9, [message], message.size))
            stopping = office.writer.stop(block=False)

            while not stopping.done():  # whatever order the writer has its turns in
                office.dispatcher.run_one(-1)

            assert contents(store, "a") == [(1, "first"), (2, "second")]


class TestTheRuntime:
    def test_a_launch_is_answered_when_the_database_actor_crashes_on_it(self, tmp_path: Path) -> None:
        store = FailingStore(SqliteStore(tmp_path / "a.db"))
        runtime = AgentRuntime(store).start()
        store.fail(SystemExit(3))
        launcher = runtime._running.launcher
        assert launcher is not None
        created = launcher.create([Launch(None, None, "", None, "a", None)])
        runtime.stop()

        assert created.done()

    def test_what_the_database_actor_could_not_take_is_a_dead_letter_of_its_runtime(self, tmp_path: Path) -> None:
        failing = FailingStore(SqliteStore(tmp_path / "a.db"))
        store = HeldStore(failing)
        runtime = AgentRuntime(store).start()
        database: Any = runtime._running._database
        agent = runtime.launch()
        store.hold()
        failing.fail(SystemExit(3))
        agent.emit("one")
        store.wait_until_held()
        database.tell(b"no command, so the actor fails with it")
        database.tell("what waits")
        store.release()
        wait_until(lambda: not database.is_alive(), "the actor to be gone")
        runtime.stop()

        assert "str" in [letter.message for letter in runtime.stats().latest_dead_letters]

    def test_a_refused_id_of_many_does_not_keep_the_later_transactions_from_being_begun(self, tmp_path: Path) -> None:
        ids = [f"agent-{number}" for number in range(4_100)]
        with AgentRuntime(tmp_path / "a.db") as runtime:
            runtime.launch(id=ids[0])

            with pytest.raises(AgentExistsError):
                runtime.launch_many(len(ids), ids=ids)

            assert runtime.stats().agents == len(ids)
        with AgentRuntime(tmp_path / "a.db") as again:
            assert again.interrupted == 0


class TestRaces:
    @pytest.mark.parametrize("defect", [RuntimeError("a defect"), SystemExit(3)], ids=["error", "exit"])
    def test_emits_that_race_with_crashing_actors_are_all_answered_and_leave_no_hole(
        self, tmp_path: Path, defect: BaseException
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
