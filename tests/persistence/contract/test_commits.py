"""One write transaction: numbers without holes, refusals that stay alone, and a proof that says what is there."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    IdempotencyConflictError,
    PrecedingRefusedError,
    RowRefusedError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord, StatusChange
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentPatch, NewAgent, NewMessage, Write
from databases import Database
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
    contents,
    cover,
    errors,
    new_agent,
    of,
    positions,
    proof,
    text,
)


class TestNumbers:
    def test_sequences_and_positions_have_no_hole_over_many_batches(self, database: Database) -> None:
        seen: list[int] = []
        for run in range(2):
            with database.opened() as store:
                if run == 0:
                    created = store.commit([of(agent, new_agent()) for agent in "abc"])
                    seen += [position for outcome in created for position in positions(proof(outcome))]
                for batch in range(3 * run, 3 * run + 3):
                    work = [of(agent, *[text(agent)] * (batch + 1)) for agent in "abc"[: batch % 3 + 1]]
                    seen += [position for outcome in store.commit(work) for position in positions(proof(outcome))]

        assert seen == list(range(1, len(seen) + 1))
        with database.opened() as store:
            for agent, count in (("a", 21), ("b", 16), ("c", 9)):
                assert [sequence for sequence, _ in contents(store, agent)] == list(range(1, count + 1))
            assert store.position()[0] == seen[-1]
        assert database.problems() == []

    def test_each_proof_continues_where_the_one_before_it_of_its_agent_ended(self, running: Store) -> None:
        proofs = [proof(commit(running, "a", *[text()] * count)) for count in (1, 3, 2)]
        proofs.append(proof(commit(running, "a", change(RUNNING, COMPLETED))))
        proofs.append(proof(commit(running, "a", text("late"))))

        assert [cover(committed) for committed in proofs] == [(1, 2, 3), (2, 5, 7), (5, 7, 10), (7, 7, 12), (7, 8, 13)]
        assert {committed.epoch for committed in proofs} == {"epoch of a"}

    def test_a_proof_holds_what_can_be_read_afterwards_in_the_same_order(self, running: Store) -> None:
        writes = (text("one"), change(RUNNING, FAILED, error_name="E", error_message="m"), text("two"))

        committed = proof(commit(running, "a", *writes))

        assert list(committed.entries) == running.entries("a", 1, 3).entries
        assert committed.size == len("one" + "two")
        assert (committed.previous_position, committed.last_position) == (6, 9)

    def test_a_proof_of_a_status_alone_covers_no_message(self, store: Store) -> None:
        committed = proof(commit(store, "a", new_agent(), change(INITIALIZING, TERMINATED)))

        assert cover(committed) == (0, 0, 0)
        assert committed.created is not None and committed.created.id == "a"
        assert [step.status for step in committed.changes] == [TERMINATED]

    @pytest.mark.parametrize("between", ["a refusal", "reopening", "nothing"])
    def test_a_proof_is_the_same_after_a_refusal_and_after_reopening(self, database: Database, between: str) -> None:
        with ExitStack() as stores:
            store = stores.enter_context(database.opened())
            commit(store, "a", new_agent("one", epoch="e"), change(INITIALIZING, RUNNING))
            if between == "a refusal":
                assert commit(store, "nobody", text()).committed is None
            elif between == "reopening":
                stores.close()
                store = stores.enter_context(database.opened())

            committed = proof(commit(store, "a", text("two"), text("three")))

        assert (*cover(committed), committed.epoch) == (1, 3, 3, "e")
        assert positions(committed) == [4, 5]


class TestRefusals:
    @pytest.mark.parametrize(
        "bad",
        [
            bad_text(),
            NewMessage("user", None, "lone \ud800", "text", AT, 6),
            NewMessage("user", None, object(), "text", AT, 6),  # type: ignore[arg-type] # which no check has seen
            NewMessage("user", None, "x", "html", AT, 1),
            NewMessage("user", None, None, "text", AT, 1),  # type: ignore[arg-type] # as above
        ],
        ids=["check", "surrogate", "no text", "content type", "null"],
    )
    def test_a_refused_message_fails_alone_and_takes_no_number(self, running: Store, bad: NewMessage) -> None:
        refused, stored = running.commit([of("a", bad), of("b", text("stored"))])

        assert errors(refused) == [RowRefusedError]
        assert "\n" not in str(refused.replies[0])
        assert (refused.committed, refused.refused) == (None, True)
        assert positions(proof(stored)) == [7]
        committed = proof(commit(running, "a", text("next")))
        assert (cover(committed), positions(committed)) == ((1, 2, 3), [8])

    def test_what_an_agent_sent_before_the_refused_message_is_stored(self, running: Store) -> None:
        outcome = commit(running, "a", text("one"), text("two"), bad_text(), text("lost"))

        assert errors(outcome) == [None, None, RowRefusedError, PrecedingRefusedError]
        assert (cover(proof(outcome)), positions(proof(outcome))) == ((1, 3, 3), [7, 8])
        assert contents(running, "a") == [(1, "prompt"), (2, "one"), (3, "two")]
        assert cover(proof(commit(running, "a", text()))) == (3, 4, 8)

    def test_after_a_refused_message_the_agent_cannot_complete_but_can_fail(self, running: Store) -> None:
        outcome = commit(
            running,
            "a",
            text("kept"),
            bad_text(),
            change(RUNNING, COMPLETED),
            text("lost"),
            change(RUNNING, FAILED, error_name="E", error_message="m"),
            text("lost too"),
        )

        refusal = [None, RowRefusedError, PrecedingRefusedError, PrecedingRefusedError, None, PrecedingRefusedError]
        assert errors(outcome) == refusal
        record = running.agent("a")
        assert record is not None and (record.status, record.error_name) == (FAILED, "E")
        assert [type(entry) for entry in proof(outcome).entries] == [MessageRecord, StatusChange]
        assert (cover(proof(outcome)), proof(outcome).changes[0].sequence) == ((1, 2, 3), 2)
        assert outcome.replies[4] == record

    @pytest.mark.parametrize("status", [FAILED, TERMINATED])
    def test_an_unfavourable_end_is_told_although_the_message_before_it_was_refused(
        self, running: Store, status: AgentStatus
    ) -> None:
        outcome = commit(running, "a", bad_text(), change(RUNNING, status))

        assert errors(outcome) == [RowRefusedError, None]
        assert (cover(proof(outcome)), positions(proof(outcome))) == ((1, 1, 3), [7])

    def test_an_unknown_agent_among_known_ones_is_refused_alone(self, running: Store) -> None:
        outcomes = running.commit([of("a", text()), of("nobody", text(), text()), of("b", text())])

        assert [errors(outcome) for outcome in outcomes] == [
            [None],
            [AgentNotFoundError, PrecedingRefusedError],
            [None],
        ]
        assert [positions(proof(outcome)) for outcome in (outcomes[0], outcomes[2])] == [[7], [8]]

    @pytest.mark.parametrize("write", [change(RUNNING, FAILED), AgentPatch(pid=1)], ids=["status", "patch"])
    def test_an_unknown_agent_has_no_status_and_no_facts(self, store: Store, write: Write) -> None:
        assert errors(commit(store, "nobody", write)) == [AgentNotFoundError]
        assert store.position()[0] == 0

    def test_an_id_that_is_taken_is_refused_and_its_agent_untouched(self, running: Store) -> None:
        before = running.agent("a")

        taken, created = running.commit([of("a", new_agent("other", epoch="other")), of("c", new_agent("hello"))])

        assert errors(taken) == [AgentExistsError]
        assert running.agent("a") == before
        assert proof(created).created == running.agent("c")

    def test_of_one_id_twice_in_a_group_the_second_is_refused(self, store: Store) -> None:
        outcome = commit(store, "a", new_agent("12345"), new_agent("other"), text("6"))

        assert errors(outcome) == [None, AgentExistsError, None]
        assert (cover(proof(outcome)), proof(outcome).size) == ((0, 2, 0), 6)

    def test_an_agent_that_the_schema_refuses_fails_alone(self, store: Store) -> None:
        bad, good = store.commit([of("no id!", new_agent("x"), text()), of("b", new_agent("x"))])

        assert errors(bad) == [RowRefusedError, AgentNotFoundError]
        assert positions(proof(good)) == [1, 2]

    def test_a_bad_first_message_refuses_its_agent(self, store: Store) -> None:
        agent = NewAgent(epoch="e", type="t", created_at=AT, messages=(text("good"), bad_text()))

        assert errors(commit(store, "a", agent)) == [RowRefusedError]
        assert store.agents() == []
        assert store.position()[0] == 0


class TestKeys:
    def test_a_repeated_message_is_answered_with_the_stored_one(self, running: Store) -> None:
        first = commit(running, "a", text("once", key="k")).replies[0]

        again = commit(running, "a", text("once", key="k"), text("next"))

        assert again.replies[0] == first
        assert contents(running, "a") == [(1, "prompt"), (2, "once"), (3, "next")]
        assert cover(proof(again)) == (2, 3, 7)

    def test_a_repeated_message_in_one_batch_is_stored_once(self, running: Store) -> None:
        outcome = commit(running, "a", text("once", key="k"), text("once", key="k"), text("next"))

        assert outcome.replies[0] == outcome.replies[1]
        assert cover(proof(outcome)) == (1, 3, 3)

    def test_a_repeat_alone_commits_nothing(self, running: Store) -> None:
        commit(running, "a", text("once", key="k"))
        before = running.position()

        assert commit(running, "a", text("once", key="k")).committed is None
        assert running.position() == before

    @pytest.mark.parametrize("in_one_batch", [True, False])
    @pytest.mark.parametrize(
        "other", [text("other", key="k"), text("once", key="k", type="user"), text(["once"], key="k")]
    )
    def test_a_key_for_another_message_is_refused_and_what_follows_too(
        self, running: Store, in_one_batch: bool, other: NewMessage
    ) -> None:
        first: list[Write] = [text("once", key="k")]
        if not in_one_batch:
            commit(running, "a", *first)
            first = []

        outcome = commit(running, "a", *first, other, text("lost"), change(RUNNING, COMPLETED))

        assert errors(outcome)[len(first) :] == [
            IdempotencyConflictError,
            PrecedingRefusedError,
            PrecedingRefusedError,
        ]
        assert outcome.refused
        assert contents(running, "a") == [(1, "prompt"), (2, "once")]

    def test_two_agents_may_use_one_key(self, running: Store) -> None:
        outcomes = running.commit([of("a", text("of a", key="k")), of("b", text("of b", key="k"))])

        assert [errors(outcome) for outcome in outcomes] == [[None], [None]]

    @pytest.mark.parametrize("in_one_batch", [True, False])
    @pytest.mark.parametrize("other_id", ["a", "z"])
    def test_a_repeated_launch_is_answered_with_the_agent_that_is_there(
        self, store: Store, in_one_batch: bool, other_id: str
    ) -> None:
        launch = new_agent("hello", prompt="hello", idempotency_key="k")
        repeat = of(other_id, launch)
        if in_one_batch and other_id == "a":
            first, again = commit(store, "a", launch, launch).replies
        elif in_one_batch:
            (first,), (again,) = (outcome.replies for outcome in store.commit([of("a", launch), repeat]))
        else:
            first, again = commit(store, "a", launch).replies[0], store.commit([repeat])[0].replies[0]

        assert isinstance(first, AgentRecord) and first == again
        assert [record.id for record in store.agents()] == ["a"]
        assert store.position()[0] == 2

    @pytest.mark.parametrize("facts", [{"prompt": "other"}, {"type": "other"}, {"configuration_json": '{"a":1}'}])
    @pytest.mark.parametrize("in_one_batch", [True, False])
    def test_a_key_for_another_launch_is_refused(self, store: Store, in_one_batch: bool, facts: dict[str, Any]) -> None:
        launch, other = new_agent(idempotency_key="k"), new_agent(idempotency_key="k", **facts)
        if in_one_batch:
            outcome = store.commit([of("a", launch), of("b", other)])[1]
        else:
            commit(store, "a", launch)
            outcome = commit(store, "b", other)

        assert errors(outcome) == [IdempotencyConflictError]
        assert [record.id for record in store.agents()] == ["a"]


class TestAbandonWaiting:
    def test_what_need_not_wait_goes_on(self, running: Store) -> None:
        running.abandon_waiting()
        running.abandon_waiting()

        assert proof(commit(running, "a", text("stored"))).last == 2
        assert [sequence for sequence, _ in contents(running, "a")] == [1, 2]

    def test_it_may_be_called_at_any_time_and_from_any_thread(self, database: Database) -> None:
        with database.opened() as store, ThreadPoolExecutor() as threads:
            threads.submit(store.abandon_waiting).result()
        store.abandon_waiting()
        assert database.problems() == []
