"""What SQLite adds to the contract of a commit: the causes of refusals, the cache of heads, other programs."""

from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.persistence.errors import AgentNotFoundError, IllegalTransitionError, RowRefusedError
from commitcast.persistence.sqlite import batch
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentPatch
from databases import SqliteFile
from store_model import Batches, batches, check_batches
from stores import (
    COMPLETED,
    INITIALIZING,
    RUNNING,
    bad_text,
    by_hand,
    change,
    commit,
    cover,
    errors,
    new_agent,
    opened,
    proof,
    text,
)


class TestRefusals:
    def test_the_database_error_is_the_cause(self, running: SqliteStore) -> None:
        reply = commit(running, "a", bad_text()).replies[0]

        assert isinstance(reply, RowRefusedError)
        assert isinstance(reply.__cause__, apsw.ConstraintError)

    def test_an_unknown_agent_is_refused_by_the_foreign_key(self, running: SqliteStore) -> None:
        reply = commit(running, "nobody", text()).replies[0]

        assert isinstance(reply, AgentNotFoundError)
        assert "FOREIGN KEY" in str(reply.__cause__)

    def test_a_fact_that_sqlite_cannot_hold_is_refused_alone(self, running: SqliteStore) -> None:
        outcome = commit(running, "a", text("kept"), AgentPatch(pid=2**63), text("kept too"))

        assert errors(outcome) == [None, RowRefusedError, None]
        assert cover(proof(outcome)) == (1, 3, 3)

    def test_a_status_that_another_program_has_changed_is_seen(self, path: Path) -> None:
        with opened(path) as store:
            commit(store, "a", new_agent(), change(INITIALIZING, RUNNING))
            with by_hand(path) as intruder:
                intruder.execute("UPDATE agents SET status = 'terminated'")

            outcome = commit(store, "a", text("late"), change(RUNNING, COMPLETED))

            assert errors(outcome) == [None, IllegalTransitionError]
            assert "is terminated" in str(outcome.replies[1])
            assert cover(proof(outcome)) == (0, 1, 2)


@settings(max_examples=12, deadline=None)
@given(batches, st.sampled_from([0, 1]))
def test_any_batches_are_stored_as_the_model_says_however_many_heads_are_cached(
    tmp_path_factory: pytest.TempPathFactory, work: Batches, cached_agents: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "CACHED_AGENTS", cached_agents)

        check_batches(SqliteFile(tmp_path_factory.mktemp("cache")), work)
