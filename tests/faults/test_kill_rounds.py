"""Fifty times kill -9 under load: of a host, of the server, of both. Nothing seen or acknowledged is lost."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosed

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol import frames
from commitcast.persistence.sqlite.verify import verify
from hosts import Host, acknowledged, hosts_on, processes_of
from subscribers import Follower, raw
from waiting import SLOWNESS, TIMEOUT_S, wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.parametrize("server", ["process"], indirect=True),
]

ROUNDS: Final = int(os.environ.get("COMMITCAST_ROUNDS", "50"))
AGENTS: Final = 16
WITHIN_S: Final = 1.0 * SLOWNESS
STUBBORN = "trap '' TERM; setsid sh -c 'while :; do sleep 60; done' & echo up; while :; do sleep 60; done"
COMMANDS = f"""
commands = [runtime.launch(CommandSource(["sh", "-c", {STUBBORN!r}], type="text")) for _ in range(3)]
[(next(command.follow()), command.record().epoch)[1] for command in commands]
"""


async def watch(url: str, seen: asyncio.Future[Follower]) -> None:
    """Follow everything until the connection ends."""
    async with raw(url) as subscriber:
        seen.set_result(await subscriber.subscribe(frames.ALL))
        try:
            while True:
                await subscriber.receive()
        except (ConnectionClosed, TimeoutError):
            pass


async def play(host: Host, url: str, after_s: float, victims: list[int]) -> Follower:
    """Kill some processes while a subscriber follows; return what it has seen by then, or until its door is closed."""
    seen: asyncio.Future[Follower] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(watch(url, seen))
    follower = await asyncio.wait_for(seen, TIMEOUT_S)
    await asyncio.sleep(after_s)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    await asyncio.wait([watching], timeout=TIMEOUT_S)
    watching.cancel()
    return follower


def play_round(path: Path, killed: str, rng: random.Random) -> None:
    with hosts_on(path) as hosts:
        host = hosts()
        server = host.start("listen='127.0.0.1:0'")
        epochs = host.ask(COMMANDS)
        agents = host.ask(f"load(runtime, {AGENTS}, path + '.acknowledged')")
        victims = {"host": [host.pid], "server": [server], "both": rng.sample([host.pid, server], 2)}[killed]
        follower = asyncio.run(play(host, host.ask("runtime.url"), rng.uniform(0.0, 0.3), victims))

        if killed != "both":
            wait_until(lambda: not any(map(processes_of, epochs)), "its programs to die", WITHIN_S)
        began = time.monotonic()
        with AgentRuntime(path) as again:
            assert killed != "host" or time.monotonic() - began < WITHIN_S
            assert not any(map(processes_of, epochs))
            records = {record.id: record for record in again.agents(limit=1_000)}
            assert len(records) == AGENTS + 3
            assert {record.error_name for record in records.values()} == {"Interrupted"}
            stored = {
                agent: [message.content for message in again.agent(agent).messages(limit=100_000)] for agent in agents
            }
    for agent, messages in acknowledged(path.with_name(f"{path.name}.acknowledged")).items():
        assert all(stored[agent][sequence - 1] == content for sequence, content in messages.items())
    for item in follower.items:
        assert item.agent not in stored or stored[item.agent][item.sequence - 1] == item.content
    assert verify(path).is_sound


@pytest.mark.parametrize("killed", ["host", "server", "both"])
def test_fifty_rounds(killed: str, tmp_path: Path) -> None:
    rng = random.Random(os.environ["COMMITCAST_SEED"])
    for number in range(ROUNDS):
        play_round(tmp_path / f"{number}.db", killed, rng)
