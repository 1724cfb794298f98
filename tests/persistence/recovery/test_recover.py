"""Recovery of a store in a process without actors: processes first, then the ends. With a runtime: test_runtime.py."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from commitcast.persistence.records import AgentStatus
from commitcast.persistence.recovery.census import Census
from commitcast.persistence.recovery.identity import this_runtime
from commitcast.persistence.recovery.recover import recover
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, Outcome
from shells import Child, Children, is_alive
from stores import COMPLETED, FAILED, INITIALIZING, RUNNING, change, commit, new_agent, opened

EPOCH = f"epoch-of-recovery-{os.getpid()}"


def command(children: Children) -> Child:
    """Start a command of the agent `a` as this process does."""
    return children.shell("echo; exec sleep 60", epoch=EPOCH)


def at_work(store: SqliteStore) -> None:
    """Store the agent `a` as at work."""
    commit(store, "a", new_agent("prompt", epoch=EPOCH), change(INITIALIZING, RUNNING))


def test_agents_are_ended_once_their_processes_are_gone(
    store: SqliteStore, children: Children, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_work(store)
    child = command(children)
    commits, were_alive = store.commit, []

    def commit_then(work: Sequence[AgentWrites]) -> list[Outcome]:
        were_alive.append(is_alive(child.pid))
        return commits(work)

    monkeypatch.setattr(store, "commit", commit_then)

    assert recover(store) == 1

    assert were_alive == [False]
    assert [(record.status, record.error_name) for record in store.agents()] == [(FAILED, "Interrupted")]
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "stopped 1 processes that agents had left running: a",
        "1 agents were interrupted by a crash and are now marked as failed",
    ]


def test_what_this_process_has_at_work_is_left_alone(store: SqliteStore, children: Children) -> None:
    at_work(store)
    child = command(children)

    recover(store, lambda epoch: epoch == EPOCH)

    assert is_alive(child.pid)


def test_more_agents_than_a_page_are_ended_and_the_ended_stay_as_they_are(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commitcast.persistence.recovery.recover.PAGE", 2)
    for name in "abcde":
        commit(store, name, new_agent(epoch=name))
    commit(store, "done", new_agent(epoch="done"), change(INITIALIZING, RUNNING), change(RUNNING, COMPLETED))

    assert recover(store) == 5

    assert [record.status for record in store.agents()] == [FAILED] * 5 + [COMPLETED]
    assert recover(store) == 0


def test_agents_are_ended_where_processes_cannot_be_listed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_work(store)

    def refuse() -> Census:
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(Census, "take", refuse)

    assert recover(store) == 1

    assert "cannot look for processes that agents have left running: /proc" in caplog.text


def test_a_process_that_recovers_a_file_loads_no_actor(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent(epoch=this_runtime()))
    script = (
        "import sys\n"
        "from commitcast.persistence.recovery.recover import recover\n"
        "from commitcast.persistence.sqlite.store import SqliteStore\n"
        "store = SqliteStore(sys.argv[1])\n"
        "store.open()\n"
        "print(recover(store), *[name for name in sys.modules if name.startswith('commitcast.actors')])\n"
        "store.close()\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)

    assert done.stdout == "1\n"
    with opened(path) as store:
        assert [record.status for record in store.agents()] == [AgentStatus.FAILED]
