"""Changes of status and facts about agents, as compare-and-set within the write transaction."""

import pytest

from commitcast.persistence.errors import IllegalTransitionError, RowRefusedError
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentPatch
from stores import (
    AT,
    COMPLETED,
    FAILED,
    INITIALIZING,
    RUNNING,
    TERMINATED,
    bad_text,
    change,
    commit,
    cover,
    errors,
    new_agent,
    of,
    positions,
    proof,
    text,
)


class TestStatus:
    def test_a_change_is_applied_only_to_the_status_it_starts_from(self, running: Store) -> None:
        outcome = commit(running, "a", change(INITIALIZING, FAILED), text("goes on"), change(RUNNING, COMPLETED))

        assert errors(outcome) == [IllegalTransitionError, None, None]
        assert "agent 'a' is running and cannot become failed" in str(outcome.replies[0])
        assert positions(proof(outcome)) == [7, 8]

    def test_of_two_ends_in_one_batch_the_first_wins(self, running: Store) -> None:
        outcome = commit(running, "a", change(RUNNING, COMPLETED), change(RUNNING, FAILED))

        assert errors(outcome) == [None, IllegalTransitionError]
        record = running.agent("a")
        assert record is not None and record.status is COMPLETED

    def test_a_step_that_the_table_does_not_know_is_refused_alone(self, running: Store) -> None:
        outcomes = running.commit([of("a", change(RUNNING, RUNNING), text("a")), of("b", text("b"))])

        assert [errors(outcome) for outcome in outcomes] == [[RowRefusedError, None], [None]]
        assert [positions(proof(outcome)) for outcome in outcomes] == [[7], [8]]

    def test_the_record_says_when_and_why(self, store: Store) -> None:
        started = commit(store, "a", new_agent(), change(INITIALIZING, RUNNING, reason="begun")).replies[1]
        ended = commit(store, "a", change(RUNNING, COMPLETED, result_json='{"answer": 42}', reason="done")).replies[0]

        assert isinstance(started, AgentRecord) and isinstance(ended, AgentRecord)
        assert (started.status, started.started_at, started.completed_at) == (RUNNING, AT, None)
        assert (ended.status, ended.started_at, ended.completed_at) == (COMPLETED, AT, AT)
        assert ended.result == {"answer": 42}
        assert ended == store.agent("a")

    def test_a_message_after_the_end_gets_the_next_number(self, running: Store) -> None:
        commit(running, "a", change(RUNNING, TERMINATED))

        assert cover(proof(commit(running, "a", text("late")))) == (1, 2, 7)


class TestAgents:
    def test_a_prompt_is_the_first_message_of_its_agent(self, store: Store) -> None:
        outcome = commit(store, "a", new_agent("say hello", prompt="say hello"), text("hello"))

        record = store.agent("a")
        assert record is not None and (record.prompt, record.head) == ("say hello", 2)
        assert [message.content for message in proof(outcome).messages] == ["say hello", "hello"]
        assert cover(proof(outcome)) == (0, 2, 0)

    def test_facts_learnt_later_are_stored_and_tell_no_subscriber(self, running: Store) -> None:
        first = commit(running, "a", AgentPatch(pid=7, pid_started="boot:1"))
        second = commit(running, "a", AgentPatch(configuration_json='{"model":"m"}'), text("x"))

        record = second.replies[0]
        assert first.committed is None
        assert isinstance(record, AgentRecord)
        assert (record.pid, record.pid_started, record.configuration) == (7, "boot:1", {"model": "m"})
        assert record == running.agent("a")
        assert positions(proof(second)) == [7]


@pytest.mark.parametrize("unlucky", [False, True], ids=["at once", "one by one, for another's refusal"])
def test_the_reply_to_a_change_is_the_agent_as_it_is_after_the_transaction(store: Store, unlucky: bool) -> None:
    store.commit([of("a", new_agent()), of("b", new_agent())])

    outcome = store.commit(
        [of("a", change(INITIALIZING, RUNNING), text("1"), text("2")), *([of("b", bad_text())] if unlucky else [])]
    )[0]

    assert outcome.replies[0] == store.agent("a")
    assert isinstance(outcome.replies[0], AgentRecord) and outcome.replies[0].head == 2
