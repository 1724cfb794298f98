"""The actors of a runtime together: what becomes of it when the gateway's or the writer's actor fails."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pykka
import pytest

from by_hand import HandDispatcher, Listener
from commitcast.actors import AgentRuntime, AgentStatus, RuntimeStoppedError
from commitcast.actors.database import BATCH_ROWS
from commitcast.actors.errors import MailboxFullError
from commitcast.actors.gateway import MAILBOX_LIMIT_MESSAGES, GatewayActor
from commitcast.actors.in_process import InProcess
from commitcast.actors.kernel.dispatch import ThreadDispatcher
from commitcast.actors.kernel.ref import ActorStopped
from commitcast.actors.kernel.supervision import MAX_BACKOFF_S
from commitcast.actors.launching import Launch
from commitcast.actors.messages import Notice
from commitcast.actors.testing import FailingStore, HeldStore, MockGateway
from commitcast.persistence import AgentExistsError, Committed, InvalidValueError, SqliteStore, verify
from stores import commit, new_agent, opened, proof
from waiting import TIMEOUT_S, wait_until


class Audience:
    """Keeps what it is told, and raises as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.published: list[Committed] = []
        self.notices: list[str] = []
        self.flushed = 0

    def publish(self, committed: Committed) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionResetError(f"{self.failures} more")
        self.published.append(committed)

    def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
        self.notices.append(code)

    def flush(self) -> None:
        self.flushed = len(self.published)


class Serving(AgentRuntime):
    """A runtime whose gateway actor speaks to an audience of the test instead of a server."""

    def __init__(self, path: Path, audience: Audience, **options: Any) -> None:
        super().__init__(path, **options)
        backend = self._backend
        assert isinstance(backend, InProcess)
        backend.publish, backend.notify, backend.flush = audience.publish, audience.notify, audience.flush


class TestTheGateway:
    def test_one_that_fails_is_started_again_and_hands_on_what_waited(self, tmp_path: Path) -> None:
        audience = Audience(failures=2)
        with Serving(tmp_path / "a.db", audience) as runtime:
            agent = runtime.launch()  # the first failure is of its creation
            for number in range(50):
                agent.emit(str(number)).get(TIMEOUT_S)  # a commit for each: what it fails on is one of them

            wait_until(lambda: audience.published and audience.published[-1].last == 50, "the last message to be cast")

            assert runtime.stats().gateway_restarts == 2
            assert runtime.failure is None
            published = [message.sequence for told in audience.published for message in told.messages]
            assert published == list(range(published[0], 51))  # but for what it failed on: nothing lost, in order

    def test_what_came_before_a_failure_is_sent_at_once(self) -> None:
        dispatcher = HandDispatcher()
        audience = Audience()
        actor = GatewayActor(dispatcher, audience.publish, audience.notify, audience.flush)
        actor.begin()
        with opened(":memory:") as store:
            actor.actor_ref.tell(proof(commit(store, "a", new_agent())))
        actor.actor_ref.tell("no command: that is a defect")

        dispatcher.run()

        assert (len(audience.published), audience.flushed) == (1, 1)

    def test_one_that_fails_too_often_stops_the_runtime_which_says_why(self, tmp_path: Path) -> None:
        runtime = Serving(tmp_path / "a.db", Audience(failures=1_000)).start()
        restart_at_once(runtime)
        agents = runtime.launch_many(8)

        wait_until(lambda: runtime._state == "stopped", "the runtime to stop by itself")

        assert isinstance(runtime.failure, ConnectionResetError)
        assert runtime.stats().gateway_restarts == 5
        with pytest.raises(RuntimeStoppedError, match="more"):
            runtime.launch()
        with AgentRuntime(tmp_path / "a.db") as again:
            assert again.recovered_agents == 0
            record = again.agent(agents[0].id).record()
            assert (record.status, record.error_name) == (AgentStatus.FAILED, "ConnectionResetError")

    def test_at_its_bound_it_refuses_and_the_sender_is_told(self) -> None:
        threads = ThreadDispatcher("test")
        entered, gone_on = threading.Event(), threading.Event()

        class Holding(Audience):
            def notify(self, agent: str, code: str, message: str, retry: bool) -> None:
                entered.set()
                gone_on.wait(TIMEOUT_S)
                super().notify(agent, code, message, retry)

        audience = Holding()
        ref = GatewayActor.start(threads, audience.publish, audience.notify, audience.flush)
        notice = Notice("a", "internal", "")
        ref.tell(notice)
        entered.wait(TIMEOUT_S)
        for _ in range(MAILBOX_LIMIT_MESSAGES):
            ref.tell(notice)

        with pytest.raises(MailboxFullError):
            ref.tell(notice)
        gone_on.set()

        assert ref.stop(timeout=TIMEOUT_S)
        threads.stop()
        assert len(audience.notices) == MAILBOX_LIMIT_MESSAGES + 1

    def test_who_watches_it_hears_nothing_of_restarts(self, tmp_path: Path) -> None:
        audience = Audience(failures=1)
        told: list[ActorStopped] = []
        with Serving(tmp_path / "a.db", audience) as runtime:
            gateway = runtime._running._gateway
            assert gateway is not None
            gateway.watch(told.append)
            runtime.launch()
            runtime.launch()
            wait_until(lambda: audience.published, "the second creation to be cast")
            assert told == []

        assert [stopped.error for stopped in told] == [None]


def restart_at_once(runtime: AgentRuntime) -> None:
    """Let the runtime's supervisor restart without its backoff: what counts here is how often."""
    dispatcher: Any = runtime._running._dispatcher
    call_later = dispatcher.call_later
    dispatcher.call_later = lambda delay_s, call: call_later(min(delay_s, MAX_BACKOFF_S) / 1_000, call)


class TestTheWriter:
    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=["exit", "cancelled"])
    def test_a_crash_of_it_escalates_at_once_and_every_future_is_answered(
        self, tmp_path: Path, error: BaseException
    ) -> None:
        failing = FailingStore(SqliteStore(tmp_path / "a.db"))
        store = HeldStore(failing)
        runtime = AgentRuntime(store, stop_timeout_s=5).start()
        agents = [runtime.launch() for _ in range(3)]
        for agent in agents:
            agent.start().get(TIMEOUT_S)
        store.hold()
        failing.fail(error, times=None)

        futures = [agent.emit(str(number)) for number in range(20) for agent in agents]
        store.wait_until_held()
        store.release()
        errors = [future.exception(TIMEOUT_S) for future in futures]

        assert all(isinstance(found, Exception) for found in errors)
        wait_until(lambda: runtime._state == "stopped", "the runtime to stop by itself")
        assert "writer" in str(runtime.failure) and repr(error) in str(runtime.failure)
        assert runtime.stats().unacknowledged_messages == 0
        with AgentRuntime(tmp_path / "a.db") as again:
            assert again.recovered_agents == 3
            assert again.agent(agents[0].id).record().head == 0

    def test_a_defect_in_what_it_is_sent_stops_the_runtime_too(self, tmp_path: Path) -> None:
        runtime = AgentRuntime(tmp_path / "a.db").start()
        database = runtime._running._database
        assert database is not None

        database.tell("no command")

        wait_until(lambda: runtime._state == "stopped", "the runtime to stop by itself")
        assert isinstance(runtime.failure, AssertionError)

    def test_a_launch_is_answered_when_the_database_actor_crashes_on_it(self, tmp_path: Path) -> None:
        store = FailingStore(SqliteStore(tmp_path / "a.db"))
        runtime = AgentRuntime(store).start()
        store.fail(SystemExit(3))
        created = runtime._running.launcher.create([Launch(None, None, "", None, "a", None)])
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


class TestTwoRuntimes:
    def test_agents_of_one_id_have_nothing_to_do_with_each_other(self, tmp_path: Path) -> None:
        gateways = MockGateway(), MockGateway()
        with (
            AgentRuntime(tmp_path / "1.db", gateway=gateways[0].ref) as one,
            AgentRuntime(tmp_path / "2.db", gateway=gateways[1].ref) as two,
        ):
            agents = [runtime.launch(id="same") for runtime in (one, two)]
            for number in range(20):
                agents[number % 2].emit(str(number)).get(TIMEOUT_S)
            agents[0].terminate().get(TIMEOUT_S)

            assert [message.content for message in agents[0].messages()] == [str(n) for n in range(0, 20, 2)]
            assert [message.content for message in agents[1].messages()] == [str(n) for n in range(1, 20, 2)]
            assert agents[1].record().status is AgentStatus.INITIALIZING
        for gateway, first in zip(gateways, (0, 1), strict=True):
            assert [message.content for message in gateway.messages] == [str(n) for n in range(first, 20, 2)]
            gateway.stop()

    def test_the_stop_of_one_leaves_the_other_at_work(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "1.db") as one:
            agent = one.launch()
            with AgentRuntime(tmp_path / "2.db") as two:
                two.launch().emit("x").get(TIMEOUT_S)

            assert agent.emit("still here").get(TIMEOUT_S).sequence == 1
            assert one.launch(lambda context: "said").wait(TIMEOUT_S).status is AgentStatus.COMPLETED

    def test_the_failure_of_one_leaves_the_other_at_work_and_its_dead_letters_to_itself(self, tmp_path: Path) -> None:
        failing = AgentRuntime(tmp_path / "1.db", stop_timeout_s=5).start()
        with AgentRuntime(tmp_path / "2.db") as other:
            agent = other.launch()
            database = failing._running._database
            assert database is not None
            failing._running.dead_letters.add("a", None, "")
            database.tell("no command")
            wait_until(lambda: failing._state == "stopped", "the runtime to stop by itself")

            assert other.failure is None
            assert agent.emit("still here").get(TIMEOUT_S).sequence == 1
            assert (other.stats().dead_letters, other.stats().gateway_restarts) == (0, 0)

    def test_an_actor_of_one_may_be_the_gateway_of_both(self, tmp_path: Path) -> None:
        gateway = MockGateway()
        with (
            AgentRuntime(tmp_path / "1.db", gateway=gateway.ref) as one,
            AgentRuntime(tmp_path / "2.db", gateway=gateway.ref) as two,
        ):
            one.launch(id="one").emit("1").get(TIMEOUT_S)
            two.launch(id="two").emit("2").get(TIMEOUT_S)

        assert [message.content for message in gateway.wait_for_messages(2)] == ["1", "2"]
        assert gateway.ref.is_alive()  # it is nobody's but the host's
        gateway.stop()


class TestStats:
    def test_they_say_what_there_is_while_the_writer_stands_still_and_nothing_afterwards(self, tmp_path: Path) -> None:
        store = HeldStore(SqliteStore(tmp_path / "a.db"))
        with AgentRuntime(store) as runtime:
            agents = runtime.launch_many(3)
            store.hold()
            first = agents[0].emit("12345")
            store.wait_until_held()
            others = [agent.emit("12345") for agent in agents[1:]]

            wait_until(lambda: runtime.stats().database_waiting == 2, "two to wait for the writer", show=runtime.stats)
            stats = runtime.stats()
            store.release()
            for future in (first, *others):
                future.get(TIMEOUT_S)

            assert (stats.agents, stats.unacknowledged_messages, stats.unacknowledged_bytes) == (3, 3, 15)
            wait_until(lambda: runtime.stats().unacknowledged_messages == 0, "every place to be given back")
            wait_until(lambda: runtime.stats().gateway_waiting == 0, "the gateway's actor to have handed it on")
            assert runtime.stats().database_waiting == 0

    def test_they_can_be_asked_for_before_the_start_and_after_the_stop(self, tmp_path: Path) -> None:
        runtime = AgentRuntime(tmp_path / "a.db")
        before = runtime.stats()

        with runtime:
            runtime.launch()

        assert before == msgspec.structs.replace(runtime.stats(), commits=0)
        assert runtime.stats().commits == 2
        assert before.agents == before.dead_letters == 0 and before.latest_dead_letters == ()


class TestTheStop:
    def test_it_is_in_order_and_leaves_no_thread_even_if_everything_is_busy(self, tmp_path: Path) -> None:
        before = threading.active_count()
        audience = Audience()
        with Serving(tmp_path / "a.db", audience) as runtime:
            agents = [runtime.launch(lambda context: ("x" for _ in iter(context.cancelled.is_set, True)))]
            agents += runtime.launch_many(20)
            for agent in agents:
                agent.emit("y")

        assert threading.active_count() == before
        stored = verify(tmp_path / "a.db")
        assert stored.is_sound
        assert sum(len(told.messages) for told in audience.published) == stored.messages  # cast before it was closed
        ended = {change.agent for told in audience.published for change in told.changes if change.status.is_terminal}
        assert ended == {agent.id for agent in agents}

    def test_a_given_dispatcher_is_the_hosts_to_stop(self, tmp_path: Path) -> None:
        threads = ThreadDispatcher("host", workers=1)
        with AgentRuntime(tmp_path / "a.db", dispatcher=threads) as runtime:
            assert runtime.launch().emit("x").get(TIMEOUT_S).sequence == 1

        other: pykka.ActorRef[Any] = Listener.start("other", threads)
        assert other.ask("still here", timeout=TIMEOUT_S) == "still here"
        other.stop(timeout=TIMEOUT_S)
        threads.stop()


class TestLaunchMany:
    @pytest.mark.sampled(1 / 2)
    def test_more_than_fit_into_one_transaction_are_launched_in_several(self, tmp_path: Path) -> None:
        store = FailingStore(SqliteStore(tmp_path / "a.db"))
        with AgentRuntime(store) as runtime:
            handles = runtime.launch_many(2 * BATCH_ROWS + 5)
            created = [sum(len(writes.writes) for writes in work) for work in store.commits]

            assert len({handle.id for handle in handles}) == 2 * BATCH_ROWS + 5
            assert max(created) <= BATCH_ROWS and sum(created) == 2 * BATCH_ROWS + 5 and len(created) == 3
            assert handles[-1].emit("x").get(TIMEOUT_S).sequence == 1

    def test_refused_ids_among_them_do_not_stop_the_others(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db") as runtime:
            runtime.launch(id="agent-3").emit("kept").get(TIMEOUT_S)
            ids = [f"agent-{number}" for number in range(10)]

            with pytest.raises(AgentExistsError, match="agent-3"):
                runtime.launch_many(10, ids=ids)

            assert {record.id for record in runtime.agents()} == set(ids)
            for id in ids:
                runtime.agent(id).emit("x").get(TIMEOUT_S)
            assert runtime.agent("agent-3").record().head == 2
        with AgentRuntime(tmp_path / "a.db") as again:
            assert again.recovered_agents == 0  # the ordered stop has ended all of them

    def test_an_id_that_can_be_none_is_refused_before_anything_is_stored(self, agent_runtime: AgentRuntime) -> None:
        with pytest.raises(InvalidValueError):
            agent_runtime.launch_many(3, ids=["good", "b a d", "fine"])

        assert agent_runtime.agents() == []

    def test_a_refused_id_of_many_does_not_keep_the_later_transactions_from_being_begun(self, tmp_path: Path) -> None:
        ids = [f"agent-{number}" for number in range(4_100)]
        with AgentRuntime(tmp_path / "a.db") as runtime:
            runtime.launch(id=ids[0])

            with pytest.raises(AgentExistsError):
                runtime.launch_many(len(ids), ids=ids)

            assert runtime.stats().agents == len(ids)
        with AgentRuntime(tmp_path / "a.db") as again:
            assert again.recovered_agents == 0
