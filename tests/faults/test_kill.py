"""kill -9 of a command and its server: what was seen is kept, the orphan is ended, and the subscriber goes on."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from commands import Running, is_alive, running
from commitcast.gateway.client.asyncio import subscribe
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.sqlite.verify import verify
from hosts import servers_below
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.both_modes]

# Says one line for each line that the test writes into a pipe it inherits: no sleeping, no guessing.
ENDLESS = """
import sys, itertools
for number in itertools.count(1):
    print(f"line {number}", flush=True)
    if number > 2000: sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kill(command: Running, folder: Path) -> None:
    """Kill a command and its server, which would end its agents and their programs."""
    servers = servers_below(folder)
    for server in servers:
        os.kill(server, signal.SIGSTOP)
    command.process.kill()
    for server in servers:
        os.kill(server, signal.SIGKILL)


@pytest.mark.sampled(1 / 2)
def test_after_kill_9_everything_seen_is_kept_and_the_subscriber_continues_after_the_next_start(
    tmp_path: Path, journal_mode: str
) -> None:
    db, port, mode = str(tmp_path / "x.db"), free_port(), ["--journal-mode", journal_mode]
    seen: list[tuple[int, str]] = []

    async def scenario() -> None:
        arguments = ["run", "--id", "a1", "--db", db, *mode, "--listen", f"127.0.0.1:{port}", "--type", "text"]
        with running(*arguments, "--", sys.executable, "-c", ENDLESS) as first:
            subscription = subscribe(f"ws://127.0.0.1:{port}/v1/ws", "a1")

            async def collect() -> None:
                async for message in subscription:
                    seen.append((message.sequence, message.content))
                    if len(seen) == 500:
                        kill(first, tmp_path)

            collecting = asyncio.create_task(collect())
            await asyncio.to_thread(first.wait)
            store = SqliteStore(db, read_only=True)
            store.open()
            record = store.agent("a1")
            kept = {message.sequence: message.content for message in store.messages("a1", limit=10_000)}
            store.close()
            assert record is not None and record.pid is not None
            assert [kept.get(sequence) for sequence, _ in seen] == [content for _, content in seen]

            with running("serve", "--db", db, *mode, "--listen", f"127.0.0.1:{port}") as second:
                await asyncio.wait_for(collecting, TIMEOUT_S)
                assert not is_alive(record.pid)
                assert subscription.ending is not None and subscription.ending.error is not None
                assert (subscription.status, subscription.ending.error.name) == ("failed", "Interrupted")
                assert subscription.reconnects > 0
                second.process.terminate()
                assert await asyncio.to_thread(second.wait) == 0

    asyncio.run(scenario())

    store = SqliteStore(db, read_only=True)
    store.open()
    stored: list[tuple[int, str]] = []
    while page := store.messages("a1", after=len(stored)):
        stored += [(message.sequence, message.content) for message in page]
    record = store.agent("a1")
    store.close()
    assert seen == stored
    assert [sequence for sequence, _ in seen] == list(range(1, len(seen) + 1))
    assert record is not None and record.status is AgentStatus.FAILED
    assert verify(db).is_sound


@pytest.mark.delete_mode("what is killed is a program, not a commit")
@pytest.mark.sampled(1 / 2)
def test_an_orphan_that_ignores_its_broken_pipe_is_killed_at_the_next_start(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    db = str(tmp_path / "x.db")
    with running(
        "run", "--id", "a1", "--db", db, "--listen", "127.0.0.1:0", "--", sys.executable, "-c", stubborn
    ) as command:
        wait_until(lambda: any("up" in line for line in command.output), "its line", show=lambda: command.errors)
        kill(command, tmp_path)
        command.wait()
    store = SqliteStore(db, read_only=True)
    store.open()
    record = store.agent("a1")
    store.close()
    assert record is not None and record.pid is not None
    assert is_alive(record.pid)

    with running("serve", "--db", db, "--listen", "127.0.0.1:0") as command:
        wait_until(lambda: "1 agents" in "".join(command.errors), "a word of it", show=lambda: command.errors)
        assert command.url
        assert not is_alive(record.pid)
