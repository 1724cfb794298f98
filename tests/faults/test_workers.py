"""Four uvicorn workers and a `commitcast run` on one file: nothing is lost, and nothing is refused."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from commands import COMMAND, Running
from commitcast.gateway.protocol import frames
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from subscribers import Follower, raw
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.parametrize("server", ["process"], indirect=True)]

SUPPORT: Final = Path(__file__).parents[1] / "support"
WORKERS: Final = 4
CALLERS: Final = 8
TALKER = """
import sys, time
for number in range(1_000_000):
    print("line", number, flush=True)
    time.sleep(0.001)
"""


@contextmanager
def uvicorn(path: Path) -> Iterator[str]:
    """Serve the app by several workers; yields its address."""
    arguments = ["worker_app:app", "--workers", str(WORKERS), "--port", "0", "--log-level", "info", "--no-access-log"]
    env = os.environ | {"AGENTS_DB": str(path), "PYTHONPATH": str(SUPPORT)}
    workers = Running(arguments, program=[sys.executable, "-m", "uvicorn"], env=env)
    try:
        wait_until(
            lambda: "".join(workers.errors).count("startup complete") == WORKERS,
            "all workers",
            show=lambda: workers.errors,
        )
        found = re.search(r"running on http://([\d.:]+)", "".join(workers.errors))
        assert found is not None
        yield found[1]
    finally:
        workers.process.terminate()
        assert workers.wait() == 0, workers.errors


class Crowd:
    """Callers of the app, and what it has acknowledged to them."""

    def __init__(self) -> None:
        self.said: dict[str, dict[int, str]] = {}
        self.workers: set[int] = set()
        self.refused: list[str] = []

    async def call(self, client: httpx.AsyncClient, caller: int, ends_at: float) -> None:
        """Have agents say something until it is time, and every worker has taken a call: the kernel chooses which."""
        number = 0
        while (now := time.monotonic()) < ends_at or (len(self.workers) < WORKERS and now < ends_at + TIMEOUT_S):
            number += 1
            words = [f"{caller} {number} {word}" for word in range(20)]
            answer = await client.post("/say", json={"words": words}, headers={"Connection": "close"})
            if answer.status_code != 200:
                self.refused.append(answer.text)
                continue
            fields: dict[str, Any] = answer.json()
            self.workers.add(fields["worker"])
            self.said[fields["agent"]] = {int(sequence): word for sequence, word in fields["said"].items()}

    def is_seen_by(self, follower: Follower) -> bool:
        """Whether a subscriber has everything that was acknowledged."""
        seen = {(item.agent, item.sequence): item.content for item in follower.items}
        return all(
            seen.get((agent, sequence)) == word for agent, said in self.said.items() for sequence, word in said.items()
        )


async def play(address: str, seconds: float) -> tuple[Crowd, Follower]:
    """Call the app for that time beside a subscriber to everything, through whichever worker takes it."""
    crowd = Crowd()
    async with (
        raw(f"ws://{address}/agents/v1/ws") as subscriber,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT_S) as client,
    ):
        follower = await subscriber.subscribe(frames.ALL)
        ends_at = time.monotonic() + seconds
        calls = asyncio.gather(*(crowd.call(client, caller, ends_at) for caller in range(CALLERS)))
        while not (calls.done() and crowd.is_seen_by(follower)):
            for _ in range(1_000):
                await subscriber.receive()
        await calls
    return crowd, follower


def check(path: Path, seconds: float) -> None:
    command = Running(
        ["run", "--id", "talker", "--db", str(path), "--type", "text", "--", sys.executable, "-c", TALKER],
        program=COMMAND,
    )
    try:
        wait_until(lambda: command.output, "its first line", show=lambda: command.errors)
        with uvicorn(path) as address:
            crowd, follower = asyncio.run(play(address, seconds))
    finally:
        command.process.terminate()
        command.wait()

    assert crowd.refused == []
    assert len(crowd.workers) == WORKERS
    store = SqliteStore(path, read_only=True)
    store.open()
    stored: dict[str, list[str]] = {}

    def read(agent: str) -> list[str]:
        stored[agent] = contents = stored.get(agent) or []
        while page := store.messages(agent, after=len(contents)):
            contents += [message.content for message in page]
        return contents

    for agent, said in crowd.said.items():
        assert read(agent) == list(said.values())
    lines = [line.split("  ")[-1].rstrip("\n") for line in command.output if "assistant" in line]
    assert read("talker")[: len(lines)] == lines != []
    assert all(read(item.agent or "")[item.sequence - 1] == item.content for item in follower.items)
    store.close()
    assert verify(path).is_sound
    print(f"{sum(map(len, stored.values())):,} messages of {len(stored):,} agents; 0 lost, 0 refused")


@pytest.mark.sampled(1 / 3)
@pytest.mark.delete_mode("it is about processes")
def test_they_share_a_file(tmp_path: Path) -> None:
    check(tmp_path / "a.db", 1.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_they_share_a_file_for_a_minute(tmp_path: Path) -> None:
    check(tmp_path / "a.db", 60.0)
