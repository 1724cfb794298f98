"""The end of the server process: nothing is lost, programs die at once, and the next start goes on from there."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from commands import is_alive
from commitcast.actors import AgentRuntime, CommandSource
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.persistence.errors import NotStoredError, ServerLostError, StoreUnknownError
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.sqlite.verify import verify
from hosts import Hosts, acknowledged, processes_of, server_of
from waiting import SLOWNESS, TIMEOUT_S, wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.parametrize("server", ["process"], indirect=True),
    pytest.mark.sampled(4, of_file=True),
]

WITHIN_S = 5.0 * SLOWNESS
"""A second, on a machine that runs other tests meanwhile; `test_kill_rounds` holds it to the second."""
STUBBORN = "trap '' TERM; echo up; while :; do sleep 60; done"


def run_stubborn(runtime: AgentRuntime) -> AgentRecord:
    """Launch a program that ends only by SIGKILL, and return its agent's record once it runs."""
    agent = runtime.launch(CommandSource(["/bin/sh", "-c", STUBBORN], type="text"), id="stubborn")
    next(agent.follow())
    return agent.record()


def has_sent_a_batch(runtime: AgentRuntime) -> bool:
    assert isinstance(runtime.store, RemoteStore)
    return not runtime.store.commits.may_submit(1)


class TestKilled:
    def test_its_hosts_kill_their_programs_at_once_and_stop(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            epoch = run_stubborn(runtime).epoch
            agent = runtime.agent("stubborn")

            began = time.monotonic()
            os.kill(server_of(runtime), signal.SIGKILL)
            with pytest.raises(RuntimeStoppedError, match="has ended: start a runtime again"):
                agent.wait(TIMEOUT_S)

            assert time.monotonic() - began < WITHIN_S
            assert processes_of(epoch) == []
            assert isinstance(runtime.failure, ServerLostError)
            with pytest.raises(RuntimeStoppedError, match="has ended: start a runtime again"):
                runtime.launch()

    def test_what_was_sent_may_be_stored_and_what_was_not_is_not(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agent = runtime.launch(id="a")
            agent.emit("stored").get(TIMEOUT_S)
            os.kill(server_of(runtime), signal.SIGSTOP)
            sent = agent.emit("sent")
            wait_until(lambda: has_sent_a_batch(runtime), "it to be sent")
            kept = agent.emit("kept here")
            os.kill(server_of(runtime), signal.SIGKILL)

            with pytest.raises(StoreUnknownError):
                sent.get(TIMEOUT_S)
            with pytest.raises(NotStoredError):
                kept.get(TIMEOUT_S)
        with AgentRuntime(path) as again:
            contents = [message.content for message in again.agent("a").messages()]
            assert contents in (["stored"], ["stored", "sent"])
            assert again.agent("a").record().error_name == "Interrupted"

    def test_the_same_runtime_can_be_started_again_at_once(self, path: Path) -> None:
        runtime = AgentRuntime(path, listen="127.0.0.1:0").start()
        try:
            for number in range(2):
                runtime.launch(id=f"a{number}").emit("x").get(TIMEOUT_S)
                first = server_of(runtime)
                os.kill(first, signal.SIGKILL)
                wait_until(lambda: runtime.failure, "the failure")

                runtime.start()

                assert (runtime.failure, runtime.recovered_agents) == (None, 1)
                assert server_of(runtime) != first
                assert runtime.agent(f"a{number}").record().error_name == "Interrupted"
                with pytest.raises(RuntimeStoppedError):
                    runtime.start()
        finally:
            runtime.stop()

    def test_a_stop_at_that_moment_does_not_wait_for_its_answer(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            runtime.launch()
            began = time.monotonic()
            os.kill(server_of(runtime), signal.SIGKILL)

        assert time.monotonic() - began < WITHIN_S

    def test_under_load_nothing_that_was_acknowledged_is_lost(self, path: Path, hosts: Hosts) -> None:
        host = hosts()
        server = host.start()
        host.ask("load(runtime, 32, path + '.acknowledged')")
        file = path.with_name(path.name + ".acknowledged")
        wait_until(lambda: file.stat().st_size > 20_000, "some load")

        os.kill(server, signal.SIGKILL)
        host.ask("while runtime.failure is None or len(failures) < 32: time.sleep(0.001)")

        assert set(host.ask("failures")) <= {"StoreUnknownError", "NotStoredError", "RuntimeStoppedError"}
        assert host.start() != server
        for agent, messages in acknowledged(file).items():
            kept = host.ask(f"[message.content for message in runtime.agent({agent!r}).messages(limit=100_000)]")
            assert all(kept[sequence - 1] == content for sequence, content in messages.items())
        assert host.ask("runtime.recovered_agents") == 32
        assert verify(path).is_sound

    def test_with_its_host_the_next_start_kills_the_programs(self, path: Path, hosts: Hosts) -> None:
        host = hosts()
        server = host.start()
        epoch = host.ask(
            """
agent = runtime.launch(CommandSource(["/bin/sh", "-c", "echo up; sleep 600"], type="text"), id="a")
next(agent.follow())
agent.record().epoch
"""
        )
        os.kill(server, signal.SIGSTOP)
        host.kill()
        os.kill(server, signal.SIGKILL)
        assert processes_of(epoch)

        with AgentRuntime(path) as again:
            assert again.agent("a").record().error_name == "Interrupted"
            assert processes_of(epoch) == []

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("goes_on", [True, False])
    def test_the_next_one_waits_for_a_host_that_is_about_to_kill_its_programs(
        self, goes_on: bool, path: Path, hosts: Hosts
    ) -> None:
        host = hosts()
        server = host.start()
        epoch = host.ask(
            """
agent = runtime.launch(CommandSource(["/bin/sh", "-c", "echo up; sleep 600"], type="text"), id="a")
next(agent.follow())
agent.record().epoch
"""
        )
        host.send_signal(signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        going_on = threading.Timer(0.4, host.send_signal, [signal.SIGCONT] if goes_on else [signal.SIGSTOP])
        going_on.start()

        began = time.monotonic()
        with AgentRuntime(path) as again:
            assert time.monotonic() - began < TIMEOUT_S  # a second for the host, and the start of an interpreter
            assert again.agent("a").record().error_name == "Interrupted"
            assert bool(processes_of(epoch)) is not goes_on
        going_on.join()
        host.send_signal(signal.SIGCONT)
        wait_until(lambda: not processes_of(epoch), "its programs to die")


class TestAsked:
    def test_by_a_signal_it_stays_until_its_hosts_have_ended_in_order(self, path: Path, hosts: Hosts) -> None:
        host = hosts()
        server = host.start()
        host.ask("agent = runtime.launch(id='a')")

        os.kill(server, signal.SIGTERM)
        assert host.ask("agent.emit('after').get(10).sequence") == 1
        host.ask("runtime.stop()")

        wait_until(lambda: not is_alive(server), "the server to end")
        assert host.ask("runtime.failure") is None

    def test_by_a_signal_to_all_processes_it_stays_until_its_host_has_stopped_its_agents(
        self, path: Path, hosts: Hosts
    ) -> None:
        host = hosts()
        server = host.start()
        host.ask("agent = runtime.launch(id='a'); import signal")
        host.ask("signal.signal(signal.SIGTERM, lambda *_: (agent.emit('last'), runtime.stop(), os._exit(0)))")

        os.kill(server, signal.SIGTERM)
        host.send_signal(signal.SIGTERM)

        assert host.process.wait(TIMEOUT_S) == 0
        wait_until(lambda: not is_alive(server), "the server to end")
        with AgentRuntime(path) as again:
            assert (again.agent("a").record().status, again.agent("a").record().head) == ("terminated", 1)

    def test_a_host_that_comes_after_the_signal_gets_the_next_server(self, path: Path, hosts: Hosts) -> None:
        host = hosts()
        server = host.start()
        os.kill(server, signal.SIGTERM)
        wait_until(lambda: "ending" in path.with_name("agents.db.lock").read_text(), "its note")
        later = hosts()
        later.tell("runtime = AgentRuntime(path).start(); runtime.store.server_pid")

        host.ask("runtime.stop()")

        assert later.answer() not in (None, server)
