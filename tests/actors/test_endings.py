"""Whatever goes away under an agent (a loop, a thread, the caller), it comes to its end and keeps nobody waiting."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus, RestartPolicy
from commitcast.actors.agent import MAILBOX_LIMIT_MESSAGES
from commitcast.actors.errors import AgentBackpressureError, MailboxFullError, WouldBlockError
from commitcast.actors.testing import MockGateway
from commitcast.persistence import IllegalTransitionError, SqliteStore
from waiting import TIMEOUT_S, wait_until


async def says_hello(_: AgentContext) -> AsyncIterator[str]:
    yield "hello"


def statuses(path: Path) -> set[AgentStatus]:
    store = SqliteStore(path, read_only=True)
    store.open()
    try:
        return {record.status for record in store.agents()}
    finally:
        store.close()


@pytest.mark.both_forms
class TestLoops:
    def test_a_cancelled_launch_leaves_no_agent_that_nobody_runs(self, agent_runtime: AgentRuntime) -> None:
        async def host() -> None:
            for number in range(20):
                launching = asyncio.ensure_future(agent_runtime.alaunch(says_hello, id=str(number)))
                await asyncio.sleep(0)
                launching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await launching
            await asyncio.to_thread(
                wait_until, lambda: all(a.status.is_terminal for a in agent_runtime.agents()), "all to have ended"
            )

        asyncio.run(host())

    def test_a_loop_that_ends_before_the_source_began_ends_the_agent(self, agent_runtime: AgentRuntime) -> None:
        agent = asyncio.run(agent_runtime.alaunch(says_hello))

        agent.terminate()

        assert agent.wait(TIMEOUT_S).status.is_terminal
        wait_until(lambda: agent_runtime.stats().agents == 0, "its actor to retire")

    def test_a_loop_that_is_gone_when_the_source_is_to_be_run_again_is_a_failure_of_that_run(
        self, agent_runtime: AgentRuntime
    ) -> None:
        async def fails(_: AgentContext) -> AsyncIterator[str]:
            yield "hello"
            raise ValueError("no")

        async def host() -> Any:
            agent = await agent_runtime.alaunch(fails, restart=RestartPolicy(intensity=2, backoff_s=0.05))
            await asyncio.to_thread(wait_until, lambda: len(agent.messages()) == 2, "the first failure")
            return agent

        record = asyncio.run(host()).wait(TIMEOUT_S)

        assert record.status is AgentStatus.FAILED
        assert "loop" in record.error_message


@pytest.mark.both_forms
class TestThreads:
    def test_a_source_whose_thread_cannot_be_started_fails_and_takes_nobodys_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start

        def starts(thread: threading.Thread) -> None:
            if thread.name.startswith("Source-bad"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starts)

        with AgentRuntime(tmp_path / "a.db", max_running_sources=1) as runtime:
            bad = [runtime.launch(lambda _: "hello", id=f"bad{number}") for number in range(2)]
            good = runtime.launch(lambda _: "hello", id="good")

            assert {agent.wait(TIMEOUT_S).status for agent in bad} == {AgentStatus.FAILED}
            assert good.wait(TIMEOUT_S).status is AgentStatus.COMPLETED

    def test_sources_beyond_the_limit_run_in_order_in_the_place_that_becomes_free(self, tmp_path: Path) -> None:
        ran: list[str] = []
        gone_on = threading.Event()

        def source(context: AgentContext) -> Iterator[str]:
            gone_on.wait(TIMEOUT_S)
            ran.append(f"{threading.current_thread().name}")
            yield "hello"

        with AgentRuntime(tmp_path / "a.db", max_running_sources=1) as runtime:
            agents = [runtime.launch(source, id=str(number)) for number in range(5)]
            gone_on.set()

            for agent in agents:
                agent.wait(TIMEOUT_S)

        assert ran == [f"Source-{number}" for number in range(5)]


@pytest.mark.both_forms
class TestCallbacks:
    def test_one_that_repeats_a_refused_command_for_ever_delays_no_other_agent(
        self, agent_runtime: AgentRuntime
    ) -> None:
        busy, other = agent_runtime.launch(), agent_runtime.launch()
        busy.start().get(TIMEOUT_S)
        goes_on, rounds = True, 0

        def again(_: Any) -> None:
            nonlocal rounds
            rounds += 1
            if goes_on:
                busy.start().add_done_callback(again)

        busy.emit("one acknowledgement on the writer's thread").add_done_callback(again)
        wait_until(lambda: rounds > 100, "the callback to go round")

        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(lambda: [other.emit(str(n)).get(TIMEOUT_S).sequence for n in range(20)])
            assert answered.result(TIMEOUT_S) == list(range(1, 21))
        goes_on = False

    def test_at_the_bound_emit_refuses_at_once_and_a_wait_or_a_stop_is_refused(self, tmp_path: Path) -> None:
        found: list[BaseException] = []
        done = threading.Event()

        with AgentRuntime(tmp_path / "a.db", max_unacknowledged=1) as runtime:
            one, two = runtime.launch(), runtime.launch()

            def callback(_: Any) -> None:
                for work in (
                    lambda: [one.emit("again") for _ in range(3)],
                    lambda: one.complete().get(),
                    runtime.stop,
                ):
                    try:
                        work()
                    except BaseException as error:
                        found.append(error)
                done.set()

            two.emit("x").add_done_callback(callback)
            done.wait(TIMEOUT_S)

            assert [type(error) for error in found] == [AgentBackpressureError, WouldBlockError, WouldBlockError]
            assert two.emit("the runtime goes on").get(TIMEOUT_S).sequence == 2


@pytest.mark.both_forms
class TestBounds:
    def test_commands_that_wait_for_an_agent_are_bounded_and_its_messages_are_not_refused(
        self, tmp_path: Path, mock_gateway: MockGateway
    ) -> None:
        entered, gone_on = threading.Event(), threading.Event()

        def hold(_: Any) -> None:
            entered.set()
            gone_on.wait(TIMEOUT_S)

        with AgentRuntime(tmp_path / "a.db", gateway=mock_gateway.ref) as runtime:
            agent = runtime.launch()
            agent.emit("held").add_done_callback(hold)
            entered.wait(TIMEOUT_S)
            started = [agent.start() for _ in range(MAILBOX_LIMIT_MESSAGES + 10)]
            message = agent.emit("passes")
            gone_on.set()

            kinds = [type(future.exception(TIMEOUT_S)) for future in started]
            assert kinds[0] is type(None)
            assert set(kinds[1:MAILBOX_LIMIT_MESSAGES]) == {IllegalTransitionError}
            assert set(kinds[MAILBOX_LIMIT_MESSAGES:]) == {MailboxFullError}
            assert message.get(TIMEOUT_S).sequence == 2

    def test_cancelled_messages_to_agents_that_are_not_there_leave_no_actors(self, agent_runtime: AgentRuntime) -> None:
        for number in range(200):
            agent_runtime.emit(f"unknown-{number}", "x").cancel()

        wait_until(lambda: agent_runtime.stats().agents == 0, "the actors to retire")
        assert agent_runtime.stats().unacknowledged_messages == 0


@pytest.mark.both_forms
class TestTheStop:
    def test_it_does_not_wait_for_those_who_still_speak(self, tmp_path: Path) -> None:
        goes_on = True
        with AgentRuntime(tmp_path / "a.db", stop_timeout_s=60) as runtime:
            agents = [runtime.launch() for _ in range(4)]

            def speak(agent: Any) -> None:
                while goes_on:
                    agent.emit("and another thing")

            with ThreadPoolExecutor(4) as pool:
                speaking = [pool.submit(speak, agent) for agent in agents]
                wait_until(lambda: runtime.stats().unacknowledged_messages > 0, "somebody to speak")
                stopping = threading.Thread(target=runtime.stop)
                stopping.start()
                stopping.join(TIMEOUT_S)  # half of its minute would be waiting in vain
                is_stopped = not stopping.is_alive()
                goes_on = False
                for future in speaking:
                    future.result(TIMEOUT_S)

        assert is_stopped
        assert statuses(tmp_path / "a.db") == {AgentStatus.TERMINATED}


@pytest.mark.both_forms
def test_a_host_that_answers_its_own_future_costs_nobody_elses_place(agent_runtime: AgentRuntime) -> None:
    agent = agent_runtime.launch()
    agent.emit("before").get(TIMEOUT_S)

    futures = [agent.emit(str(number)) for number in range(5)]
    try:
        futures[2].set("the host's own answer")
    except queue.Full:  # the answer was faster
        pass

    wait_until(lambda: agent_runtime.stats().unacknowledged_messages == 0, "the places to be given back")
    assert all(future.done() for future in futures)
    assert agent.emit("after").get(TIMEOUT_S).content == "after"
