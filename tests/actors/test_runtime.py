"""The runtime as a whole: starting, stopping, recovering, launching, and the rules of refusal."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus, BackpressureError, RuntimeStoppedError
from commitcast.actors.testing import FailingStore, HeldStore, MockGateway
from commitcast.persistence import (
    AgentExistsError,
    AgentNotFoundError,
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidValueError,
    NotStoredError,
    SqliteStore,
    StoreOpenError,
    StoreUnknownError,
    verify,
)
from commitcast.persistence.errors import PrecedingRefusedError, StoreCorruptError
from commitcast.persistence.sqlite.lock import is_locked
from commitcast.persistence.writes import AgentWrites, NewMessage
from stores import by_hand
from waiting import wait_until

SECONDS = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


@pytest.mark.both_forms
class TestStartAndStop:
    def test_agents_at_work_are_terminated_by_an_ordered_stop(self, path: Path) -> None:
        def endless(context: AgentContext) -> Iterator[str]:
            while not context.cancelled.wait(0.001):
                yield "more"

        with AgentRuntime(path) as runtime:
            fed, driven = runtime.launch(endless), runtime.launch()
            next(iter(fed.follow()))

        with AgentRuntime(path) as again:
            assert again.recovered_agents == 0
            for agent in (fed.id, driven.id):
                assert again.agent(agent).record().status is AgentStatus.TERMINATED
        assert verify(path).is_sound

    def test_what_was_emitted_before_the_stop_is_committed_by_it(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch()
            futures = [agent.emit(str(number)) for number in range(500)]

        assert [future.get(0).sequence for future in futures] == list(range(1, 501))
        assert verify(path).messages == 500

    def test_after_the_stop_everything_is_refused_in_words(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch()

        with pytest.raises(RuntimeStoppedError):
            runtime.launch()
        assert isinstance(agent.emit("x").exception(0), RuntimeStoppedError)
        assert isinstance(agent.complete().exception(0), RuntimeStoppedError)
        with pytest.raises(RuntimeStoppedError):
            agent.wait(0)
        with pytest.raises(RuntimeStoppedError):
            runtime.start()

    def test_stopping_twice_or_before_the_start_does_nothing(self, path: Path) -> None:
        runtime = AgentRuntime(path)
        runtime.stop()
        runtime.start()
        runtime.stop()
        runtime.stop()

    @pytest.mark.own_process("the others share the file")
    def test_a_second_runtime_on_the_same_file_is_refused_and_the_first_unharmed(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            with pytest.raises(StoreOpenError, match="another runtime has it"):
                AgentRuntime(path).start()
            assert runtime.launch().emit("still here").get(SECONDS).sequence == 1

    def test_a_taken_port_leaves_the_database_free(self, path: Path, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "other.db", listen="127.0.0.1:0") as other:
            with pytest.raises(OSError, match="cannot listen"):
                AgentRuntime(path, listen=str(other.address)).start()
            with AgentRuntime(path):
                pass

    def test_before_the_start_everything_is_refused_with_what_to_do(self, path: Path) -> None:
        runtime = AgentRuntime(path)

        for use in (runtime.launch, lambda: runtime.emit("a", "x"), lambda: runtime.complete("a")):
            with pytest.raises(RuntimeStoppedError, match=r"call `start\(\)` first"):
                use()
        assert runtime.stats().agents == 0 and runtime.failure is None and not path.exists()

    def test_after_the_stop_nothing_says_to_start_it(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch()

        for use in (runtime.launch, lambda: agent.emit("x").get(SECONDS), lambda: list(agent.follow())):
            with pytest.raises(RuntimeStoppedError) as caught:
                use()
            assert str(caught.value) == "the runtime is not running: it was stopped"

    @pytest.mark.own_process("its gateway")
    def test_its_repr_says_what_it_is_about(self, path: Path) -> None:
        runtime = AgentRuntime(path, listen="127.0.0.1:0")
        seen = [repr(runtime)]
        with runtime:
            seen.append(repr(runtime))
        seen.append(repr(runtime))

        assert seen == [
            f"<AgentRuntime {str(path)!r} new at 127.0.0.1:0>",
            f"<AgentRuntime {str(path)!r} running at {runtime.address}>",
            f"<AgentRuntime {str(path)!r} stopped at {runtime.address}>",
        ]
        assert repr(AgentRuntime(":memory:")) == "<AgentRuntime ':memory:' new>"

    def test_the_deadline_of_stop_may_have_its_old_name_which_warns(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            runtime.launch(lambda context: context.cancelled.wait(SECONDS) and None)
            with pytest.warns(DeprecationWarning, match="'timeout_s' of stop"):
                runtime.stop(timeout_s=SECONDS)

            assert repr(runtime).endswith("stopped>")

    def test_two_runtimes_in_one_process_do_not_see_each_other(self, path: Path, tmp_path: Path) -> None:
        with AgentRuntime(path) as one, AgentRuntime(tmp_path / "two.db") as two:
            one.launch(id="a").emit("one").get(SECONDS)
            assert isinstance(two.emit("a", "two").exception(SECONDS), AgentNotFoundError)
            two.launch(id="a").emit("two").get(SECONDS)
            assert [message.content for message in one.agent("a").messages()] == ["one"]


@pytest.mark.both_forms
class TestRecovery:
    def abandon(self, path: Path) -> None:
        """Leave a file behind as a crash does: nothing is ended, nothing is closed in order."""
        store = SqliteStore(path)
        runtime = AgentRuntime(store).start()
        running = runtime.launch(id="running")
        running.start()
        running.emit("said before the crash").get(SECONDS)
        runtime.launch(id="initializing")
        runtime.launch(id="done").terminate().get(SECONDS)
        store.close()
        runtime.stop(timeout=0.2)

    def test_agents_left_at_work_are_failed_with_interrupted(self, path: Path) -> None:
        self.abandon(path)

        with AgentRuntime(path) as runtime:
            assert runtime.recovered_agents == 2
            with pytest.warns(DeprecationWarning, match="AgentRuntime.interrupted is now called 'recovered_agents'"):
                assert runtime.interrupted == 2
            for agent in ("running", "initializing"):
                record = runtime.agent(agent).record()
                assert (record.status, record.error_name) == (AgentStatus.FAILED, "Interrupted")
                assert record.completed_at is not None
            assert runtime.agent("done").record().status is AgentStatus.TERMINATED
            assert [message.content for message in runtime.agent("running").messages()] == ["said before the crash"]
        assert verify(path).is_sound

    def test_an_agent_whose_life_contradicts_itself_ends_the_start_with_what_verify_says(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch(id="a")
            agent.start().get(SECONDS)
            agent.fail("no").get(SECONDS)
        with by_hand(path) as other:
            other.execute("UPDATE agents SET status = 'running'")

        with pytest.raises(StoreCorruptError, match="agent 'a' is running, but its last change was to failed"):
            AgentRuntime(path).start()

    def test_a_message_may_still_be_saved_for_an_agent_of_an_earlier_run(self, path: Path) -> None:
        self.abandon(path)

        with AgentRuntime(path) as runtime:
            assert runtime.emit("running", "late tool result").get(SECONDS).sequence == 2
            assert isinstance(runtime.agent("running").complete().exception(SECONDS), IllegalTransitionError)


@pytest.mark.both_forms
class TestLaunching:
    def test_an_id_is_used_once(self, agent_runtime: AgentRuntime) -> None:
        agent_runtime.launch(id="a1").emit("kept").get(SECONDS)

        with pytest.raises(AgentExistsError, match="'a1'"):
            agent_runtime.launch(id="a1")

        assert [message.content for message in agent_runtime.agent("a1").messages()] == ["kept"]

    @pytest.mark.parametrize("id", ["", "a b", "ä", "a/b", "x" * 129, "a\n"])
    def test_a_bad_id_is_refused_in_one_sentence(self, agent_runtime: AgentRuntime, id: str) -> None:
        with pytest.raises(InvalidValueError, match="is not a valid agent id"):
            agent_runtime.launch(id=id)

    def test_the_same_key_gives_the_same_agent_and_another_body_is_a_conflict(
        self, agent_runtime: AgentRuntime
    ) -> None:
        first = agent_runtime.launch(prompt="do it", idempotency_key="k")

        assert agent_runtime.launch(prompt="do it", idempotency_key="k").id == first.id
        with pytest.raises(IdempotencyConflictError, match="'k'"):
            agent_runtime.launch(prompt="do something else", idempotency_key="k")
        assert len(agent_runtime.agents()) == 1

    def test_a_repeated_launch_does_not_start_the_source_again(self, agent_runtime: AgentRuntime) -> None:
        def source(context: AgentContext) -> str:
            return "said once"

        for _ in range(3):
            agent = agent_runtime.launch(source, prompt="do it", idempotency_key="k")
            agent.wait(SECONDS)

        assert [message.content for message in agent.messages()] == ["do it", "said once"]

    def test_an_unknown_agent_is_not_found(self, agent_runtime: AgentRuntime) -> None:
        with pytest.raises(AgentNotFoundError, match="nobody"):
            agent_runtime.agent("nobody")

    def test_an_agent_may_be_launched_under_an_id_that_was_emitted_to_before(self, agent_runtime: AgentRuntime) -> None:
        assert isinstance(agent_runtime.emit("later", "too early").exception(SECONDS), AgentNotFoundError)

        agent = agent_runtime.launch(id="later")

        assert agent.emit("now").get(SECONDS).sequence == 1

    def test_many_are_launched_in_few_commits(self, agent_runtime: AgentRuntime, mock_gateway: MockGateway) -> None:
        handles = agent_runtime.launch_many(300)

        assert len({handle.id for handle in handles}) == 300
        assert handles[299].emit("x").get(SECONDS).sequence == 1
        mock_gateway.wait_for(301)
        with pytest.raises(InvalidValueError):
            agent_runtime.launch_many(2, ids=["a", "a"])
        assert agent_runtime.launch_many(0) == []

    def test_agents_are_listed_by_status_in_pages(self, agent_runtime: AgentRuntime) -> None:
        handles = agent_runtime.launch_many(5)
        handles[2].start().get(SECONDS)

        assert [record.id for record in agent_runtime.agents("running")] == [handles[2].id]
        first = agent_runtime.agents(limit=3)
        rest = agent_runtime.agents(after=first[-1].position)
        assert [record.id for record in first + rest] == [handle.id for handle in handles]

    def test_an_unknown_status_is_answered_with_those_there_are(self, agent_runtime: AgentRuntime) -> None:
        with pytest.raises(InvalidValueError, match=r"'done' is not an agent status.* completed, failed, terminated"):
            agent_runtime.agents("done")

    def test_completing_an_agent_that_was_not_started_says_to_start_it(self, agent_runtime: AgentRuntime) -> None:
        agent = agent_runtime.launch()

        with pytest.raises(IllegalTransitionError, match=r"is initializing .* completed: call `start\(\)` first"):
            agent.complete().get(SECONDS)


class TestRefusals:
    def test_what_was_in_flight_behind_a_refused_append_is_refused_too_and_the_next_is_taken(self, path: Path) -> None:
        gateway = MockGateway()
        failing = FailingStore(SqliteStore(path))
        store = HeldStore(failing)
        with AgentRuntime(store, gateway=gateway) as runtime:
            agent = runtime.launch()
            agent.start().get(SECONDS)
            store.hold()
            failing.fail(NotStoredError("the disk said no"))
            futures = [agent.emit("first")]
            store.wait_until_held()
            futures += [agent.emit("second"), agent.emit("third")]
            completed = agent.complete()
            store.release()

            errors = [future.exception(SECONDS) for future in futures]
            assert str(errors[0]) == "the disk said no"
            assert all(isinstance(error, PrecedingRefusedError) for error in errors[1:])
            assert isinstance(completed.exception(SECONDS), PrecedingRefusedError)
            assert agent.messages() == []
            assert agent.emit("again").get(SECONDS).sequence == 1
            assert agent.complete().get(SECONDS) is not None
            assert [message.content for message in gateway.messages] == ["again"]
            gateway.stop()

    def test_an_agent_fed_by_a_source_fails_when_one_of_its_messages_is_refused(self, path: Path) -> None:
        store = FailingStore(SqliteStore(path))
        with AgentRuntime(store) as runtime:
            store.fail(NotStoredError("the disk said no"), when=lambda work: "5" in contents_of(work))
            agent = runtime.launch(lambda context: (str(number) for number in range(1, 200)))

            record = agent.wait(SECONDS)
            said = [message.content for message in agent.messages()]

        assert record.status is AgentStatus.FAILED
        assert "the disk said no" in (record.error_message or "") or record.error_name == "PrecedingRefusedError"
        assert said == [str(number) for number in range(1, len(said) + 1)]
        assert len(said) < 5

    def test_a_commit_whose_outcome_is_unknown_is_told_to_nobody_and_stops_the_runtime(self, path: Path) -> None:
        gateway = MockGateway()
        store = FailingStore(SqliteStore(path))
        runtime = AgentRuntime(store, gateway=gateway).start()
        agent = runtime.launch()
        agent.emit("before").get(SECONDS)
        store.fail(StoreUnknownError("the fsync failed"), times=None)
        error = agent.emit("maybe").exception(SECONDS)

        assert isinstance(error, StoreUnknownError)
        assert isinstance(runtime.failure, StoreUnknownError)
        wait_until(lambda: _is_stopped(runtime) and not is_locked(path), "the runtime to stop by itself")
        assert [message.content for message in gateway.messages] == ["before"]
        gateway.stop()
        with AgentRuntime(path) as again:
            assert again.agent(agent.id).record().error_name == "Interrupted"

    def test_after_an_unknown_commit_nothing_more_is_written(self, path: Path) -> None:
        store = FailingStore(SqliteStore(path))
        runtime = AgentRuntime(store).start()
        agent, other = runtime.launch(), runtime.launch()
        before = len(store.commits)
        store.fail(StoreUnknownError("the fsync failed"))
        agent.emit("maybe").exception(SECONDS)
        error = other.emit("never").exception(SECONDS)

        assert isinstance(error, NotStoredError | RuntimeStoppedError)
        wait_until(lambda: _is_stopped(runtime), "the runtime to stop by itself")
        assert [writes.agent for work in store.commits[before:] for writes in work] == [agent.id]

    def test_emit_on_a_loop_at_the_bound_raises_at_once_and_aemit_waits(self, path: Path) -> None:
        store = HeldStore(SqliteStore(path))

        async def host() -> None:
            async with AgentRuntime(store, max_unacknowledged=2) as runtime:
                agent = await runtime.alaunch()
                store.hold()
                agent.emit("1")
                agent.emit("2")
                with pytest.raises(BackpressureError):
                    agent.emit("3")
                waiting = asyncio.create_task(agent.aemit("3"))
                await asyncio.sleep(0)
                assert not waiting.done()
                store.release()
                assert (await waiting).sequence == 3
                assert (await agent.asend("4")).sequence == 4

        asyncio.run(host())

    def test_a_gateway_that_dies_costs_nobody_a_message(self, path: Path) -> None:
        gateway = MockGateway()
        gateway.fail_on(2)
        with AgentRuntime(path, gateway=gateway.ref) as runtime:
            agent = runtime.launch()

            assert [agent.emit(str(number)).get(SECONDS).sequence for number in range(5)] == [1, 2, 3, 4, 5]

            assert len(agent.messages()) == 5


def contents_of(work: Sequence[AgentWrites]) -> list[str]:
    return [write.content for writes in work for write in writes.writes if isinstance(write, NewMessage)]


def _is_stopped(runtime: AgentRuntime) -> bool:
    try:
        runtime.agents()
    except Exception:
        return True
    return False


@pytest.mark.both_forms
class TestJournalMode:
    def test_a_runtime_opens_its_file_in_the_mode_that_it_is_given(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", journal_mode="wal") as runtime:
            assert runtime.launch().emit("x").get(SECONDS).sequence == 1
            assert (tmp_path / "a.db-wal").stat().st_size > 0

    @pytest.mark.own_process("its store")
    def test_a_store_of_ones_own_has_its_own_mode(self, tmp_path: Path) -> None:
        AgentRuntime(SqliteStore(tmp_path / "a.db", journal_mode="wal"), journal_mode="wal")

        with pytest.raises(InvalidValueError, match="give it to the SqliteStore instead"):
            AgentRuntime(SqliteStore(tmp_path / "a.db"), journal_mode="wal")
        with pytest.raises(InvalidValueError, match="must be 'delete' or 'wal'"):
            AgentRuntime(tmp_path / "a.db", journal_mode="memory")
