"""A host that is killed or stopped: its programs die, what it committed is cast, its agents end, others go on."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.sqlite.verify import verify
from forking import forked
from hosts import Host, Hosts, acknowledged, processes_of
from subscribers import raw
from waiting import SLOWNESS, TIMEOUT_S, wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.parametrize("server", ["process"], indirect=True),
    pytest.mark.sampled(4, of_file=True),
]

WITHIN_S = 5.0 * SLOWNESS
"""From a host's end to that of its agents: a second, on a machine that runs other tests meanwhile. `test_kill_rounds`
holds it to the second."""
STUBBORN = (
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 60; done' & echo up; while :; do sleep 60; done"
)
COMMAND = f"""
agent = runtime.launch(CommandSource(["sh", "-c", {STUBBORN!r}], type="text"), id="a")
next(agent.follow())
agent.record().epoch
"""
FORK = {
    "os.fork": """
child = os.fork()
if not child:
    time.sleep(600)
child
""",
    "fork of the C library": """
import ctypes
child = ctypes.PyDLL(None).fork()
if not child:
    time.sleep(600)
child
""",
}


@pytest.fixture
def host(hosts: Hosts) -> Host:
    """A host that has started the server."""
    host = hosts()
    host.start()
    return host


def stored(runtime: AgentRuntime, agent: str) -> list[str]:
    return [message.content for message in runtime.agent(agent).messages(limit=100_000)]


class TestKilled:
    def test_its_programs_die_then_what_it_committed_is_cast_then_its_agents_end(self, host: Host, path: Path) -> None:
        async def scenario(url: str | None) -> float:
            async with raw(url) as subscriber:
                epoch = await asyncio.to_thread(host.ask, COMMAND)
                await subscriber.subscribe("*")
                await subscriber.subscribe("a")
                await subscriber.follow("a", 1)
                assert len(processes_of(epoch)) >= 3

                began = time.monotonic()
                host.kill()
                follower = await subscriber.follow_to_end("a", 1)
                took_s = time.monotonic() - began

                assert processes_of(epoch) == []
                assert follower.contents == ["up"]
                error = follower.changes[-1].error
                assert error is not None and error.name == "Interrupted"
                return took_s

        with AgentRuntime(path, listen="127.0.0.1:0") as other:
            assert asyncio.run(scenario(other.url)) < WITHIN_S

    @pytest.mark.parametrize("how", FORK)
    def test_a_forked_child_that_holds_its_sockets_delays_nothing(self, host: Host, path: Path, how: str) -> None:
        child: int = host.ask(FORK[how])
        try:
            epoch = host.ask(COMMAND)
            with AgentRuntime(path) as other:
                began = time.monotonic()
                host.kill()
                record = other.agent("a").wait(TIMEOUT_S)

                assert time.monotonic() - began < WITHIN_S
                assert (record.error_name, processes_of(epoch)) == ("Interrupted", [])
        finally:
            os.kill(child, signal.SIGKILL)

    def test_a_program_that_was_started_and_not_reported_dies_too(self, host: Host, path: Path) -> None:
        host.tell(
            """
from commitcast.actors.sources import command
command._record_process = lambda *_: os.kill(os.getpid(), 9)
agent = runtime.launch(CommandSource(["sh", "-c", "echo up; sleep 600"], type="text"), id="a")
time.sleep(60)
"""
        )
        with AgentRuntime(path) as other:
            host.process.wait(TIMEOUT_S)
            began = time.monotonic()
            record = wait_until(lambda: other.agents(status=AgentStatus.FAILED), "its agent to end")[0]

            assert time.monotonic() - began < WITHIN_S
            assert (record.error_name, record.pid, processes_of(record.epoch)) == ("Interrupted", None, [])

    def test_under_load_nothing_that_was_acknowledged_is_lost(self, host: Host, path: Path) -> None:
        with AgentRuntime(path) as other:
            agents = host.ask("load(runtime, 32, path + '.acknowledged')")
            file = path.with_name(path.name + ".acknowledged")
            wait_until(lambda: file.stat().st_size > 20_000, "some load")

            began = time.monotonic()
            host.kill()
            records = [other.agent(agent).wait(TIMEOUT_S) for agent in agents]

            assert time.monotonic() - began < WITHIN_S
            assert {record.error_name for record in records} == {"Interrupted"}
            for agent, messages in acknowledged(file).items():
                kept = stored(other, agent)
                assert all(kept[sequence - 1] == content for sequence, content in messages.items())
            assert not other.agents(status=AgentStatus.RUNNING) + other.agents(status=AgentStatus.INITIALIZING)
        assert verify(path).is_sound

    def test_the_next_host_finds_its_agents_ended(self, host: Host, path: Path) -> None:
        host.ask("agent = runtime.launch(id='a')")
        with AgentRuntime(path), forked():  # a new process, which may become one of the host's programs: it is awaited
            host.kill()
            with AgentRuntime(path) as again:
                assert again.agent("a").record().error_name == "Interrupted"

    def test_its_port_is_free_for_the_next_host_although_a_subscriber_does_not_read(
        self, hosts: Hosts, path: Path
    ) -> None:
        host = hosts()
        host.start('listen="127.0.0.1:0"')
        host.ask("agent = runtime.launch(id='a'); [agent.emit('x' * 1_000_000) for _ in range(40)][-1].get(20)")
        address = host.ask("runtime.address")

        async def scenario() -> None:
            async with raw(host.ask("runtime.url"), close_timeout=0.1) as subscriber:
                await subscriber.send("subscribe", agent="a", id="1")
                await asyncio.sleep(0.1)
                host.kill()
                with AgentRuntime(path, listen=address) as again:
                    assert again.address == address

        with AgentRuntime(path):
            asyncio.run(scenario())


class TestStopped:
    def test_it_delays_no_others_subscribers_and_goes_on(self, host: Host, path: Path) -> None:
        host.ask("load(runtime, 8, path + '.acknowledged')")

        async def scenario(other: AgentRuntime) -> list[float]:
            agent = other.launch(id="b")
            took_s = []
            async with raw(other.url) as subscriber:
                everything = await subscriber.subscribe("*", after="tail")
                await subscriber.follow("*", 20)
                host.send_signal(signal.SIGSTOP)
                for number in range(20):
                    record = await agent.aemit(f"b {number}")
                    began = time.monotonic()
                    while everything.cursor < record.position:
                        await subscriber.receive()
                    took_s.append(time.monotonic() - began)
                host.send_signal(signal.SIGCONT)
                await subscriber.follow("*", len(everything.items) + 20)
            return took_s

        with AgentRuntime(path, listen="127.0.0.1:0") as other:
            took_s = asyncio.run(scenario(other))
            assert max(took_s) < 0.25 * SLOWNESS
            assert sorted(took_s)[-2] < 0.1 * SLOWNESS
            assert host.ask("failures, runtime.failure") == [[], None]
