"""What is handed to the gateway's loop while it is busy: bounded, and what is left out is read from the store."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commitcast.gateway.protocol import frames
from commitcast.gateway.server import gateway
from commitcast.gateway.server.server import GatewayServer
from commitcast.persistence.records import Committed
from commitcast.persistence.sqlite.store import SqliteStore
from stores import commit, new_agent, opened, proof, text
from subscribers import Raw, raw
from waiting import TIMEOUT_S

AGENTS = ("a", "b")
NEVER_S = 3_600.0
"""Between heartbeats, which would mend what is forgotten."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with opened(tmp_path / "a.db") as store:
        for agent in AGENTS:
            commit(store, agent, new_agent())
        yield store


@pytest.fixture(autouse=True)
def room_for_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "INBOX_BYTES", 0)


@pytest.fixture
def server(store: SqliteStore) -> Iterator[GatewayServer]:
    """A gateway that is told by the test what is committed."""
    server = GatewayServer(store, listen="127.0.0.1:0", heartbeat_s=NEVER_S)
    server.start()
    server.accept()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def busy_loop(server: GatewayServer) -> Iterator[None]:
    """Keep the gateway's loop busy with something else."""
    is_busy, go_on = threading.Event(), threading.Event()

    def work() -> None:
        is_busy.set()
        go_on.wait()

    server.core.call(work)
    is_busy.wait(TIMEOUT_S)
    try:
        yield
    finally:
        go_on.set()


async def listening(server: GatewayServer, store: SqliteStore, subscriber: Raw, logs: tuple[str, ...]) -> None:
    """Subscribe, and hear one message of each agent as it is said: nothing is left to be read from the store."""
    for log in logs:
        await subscriber.subscribe(log)
        await subscriber.until("live", agent=log)
    for agent in AGENTS:
        server.publish(proof(commit(store, agent, text("before"))))
        server.flush()
    for log in logs:
        await subscriber.follow(log, len(AGENTS) if log == frames.ALL else 1)


@pytest.mark.parametrize("logs", [AGENTS, (frames.ALL,)], ids=["each agent", "all agents"])
def test_what_was_left_out_is_read_from_the_store_without_waiting_for_a_heartbeat(
    server: GatewayServer, store: SqliteStore, logs: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with raw(server.url) as subscriber:
            await listening(server, store, subscriber, logs)
            with busy_loop(server):
                for agent in AGENTS:
                    for content in ("first", "second", "last"):
                        server.publish(proof(commit(store, agent, text(content))))
                        server.flush()
            for log in logs:
                follower = await subscriber.follow(log, 8 if log == frames.ALL else 4)
                assert follower.contents[-1] == "last"

    asyncio.run(scenario())


def test_it_is_bounded_and_the_first_commits_are_kept(store: SqliteStore) -> None:
    committed = [proof(commit(store, "a", text(str(number)))) for number in range(3)]
    waiting = gateway.CommitInbox(lambda: None)

    for each in committed:
        waiting.publish(each)
    waiting.notify("a", "internal", "no room for word of a refusal either", retry=False)
    taken, dropped = waiting.take()

    assert list(taken) == committed[:1]
    assert dropped == {"a": committed[-1].last_position, frames.ALL: committed[-1].last_position}
    assert waiting.take() == (type(taken)(), {})


def test_what_nobody_subscribes_to_is_left_to_the_store_and_the_rest_wakes_the_loop_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "INBOX_BYTES", 10_000)
    followed, wakes = {"a"}, list[int]()
    inbox = gateway.CommitInbox(lambda: wakes.append(1), followed.__contains__)
    commits = [proof(commit(store, agent, text("x"))) for agent in AGENTS for _ in range(2)]

    for committed in commits:
        inbox.publish(committed)
    assert wakes == []
    inbox.flush()
    inbox.flush()
    taken, _ = inbox.take()
    inbox.flush()

    assert wakes == [1]
    assert [committed.agent for committed in taken if isinstance(committed, Committed)] == ["a", "a"]
    inbox.notify("b", "internal", "why", retry=False)
    inbox.flush()
    assert len(wakes) == 2


def test_notices_are_counted_with_the_bytes_of_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "INBOX_BYTES", 10_000)
    inbox = gateway.CommitInbox(lambda: None)

    for _ in range(5):
        inbox.notify("a", "internal", "字" * 2_000, retry=False)

    assert len(inbox.take()[0]) == 2
