"""The end of agents that lost their runtime: in pages, each on disk, and refused where an agent has ended meanwhile."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from commitcast.persistence.errors import IllegalTransitionError
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.recovery import interruption
from commitcast.persistence.recovery.interruption import INTERRUPTED, end_interrupted, interrupted
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, Outcome
from stores import COMPLETED, FAILED, INITIALIZING, RUNNING, change, commit, new_agent, of, opened, proof


def at_work(store: SqliteStore, *names: str) -> list[AgentRecord]:
    """Create agents that are running, and return their records."""
    store.commit([of(name, new_agent("prompt", epoch=name), change(INITIALIZING, RUNNING)) for name in names])
    return store.agents(status=RUNNING)


def test_an_interrupted_agent_fails_from_the_status_that_it_had(store: SqliteStore) -> None:
    (running,) = at_work(store, "a")
    commit(store, "b", new_agent())
    (launched,) = store.agents(status=INITIALIZING)

    assert (interrupted(running).previous, interrupted(launched).previous) == (RUNNING, INITIALIZING)
    assert interrupted(running).status is FAILED
    assert interrupted(running).error_name == INTERRUPTED == "Interrupted"


def test_agents_are_ended_in_pages_and_the_ends_are_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "PAGE", 2)
    pages: list[int] = []
    with opened(path) as store:
        records = at_work(store, "a", "b", "c", "d", "e")

        def counting(work: Sequence[AgentWrites]) -> list[Outcome]:
            pages.append(len(work))
            return store.commit(work)

        outcomes = end_interrupted(counting, records)

    assert pages == [2, 2, 1]
    assert [proof(outcome).agent for outcome in outcomes] == ["a", "b", "c", "d", "e"]
    with opened(path) as again:
        assert {(one.status, one.error_name, one.head) for one in again.agents()} == {(FAILED, INTERRUPTED, 1)}


def test_an_agent_that_has_ended_meanwhile_keeps_its_end_and_the_others_get_theirs(store: SqliteStore) -> None:
    records = at_work(store, "a", "b")
    commit(store, "a", change(RUNNING, COMPLETED))

    first, second = end_interrupted(store.commit, records)

    assert isinstance(first.replies[0], IllegalTransitionError) and first.committed is None
    assert proof(second).changes[0].status is FAILED
    assert [record.status for record in store.agents()] == [COMPLETED, FAILED]


def test_nothing_is_committed_for_no_agents(store: SqliteStore) -> None:
    before = store.position()

    assert end_interrupted(store.commit, []) == []

    assert store.position() == before
