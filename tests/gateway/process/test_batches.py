"""What waits from all hosts goes into one transaction: each host's batches in order, and no message behind a gap."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.gateway.process import batches as module
from commitcast.gateway.process.batches import Batch, Batches, Refusals, Transaction
from commitcast.persistence.errors import (
    AgentExistsError,
    IdempotencyConflictError,
    NotOwnerError,
    PrecedingRefusedError,
    RowRefusedError,
)
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.remote.outcomes import outcome_of
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentPatch, AgentWrites, NewMessage, Outcome, Write
from examples import examples
from stores import (
    COMPLETED,
    FAILED,
    INITIALIZING,
    RUNNING,
    bad_text,
    change,
    contents,
    errors,
    new_agent,
    of,
    opened,
    text,
)


class Server:
    """A store, and the batches of hosts that wait for it."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.owners = Owners()
        self.batches = Batches(self.owners)
        self.written: list[list[str]] = []
        """The agents of each transaction."""
        self._numbers: dict[str, Iterator[int]] = {}
        self.sent: dict[tuple[str, int], Batch] = {}
        self.answers: dict[tuple[str, int], list[Outcome]] = {}
        """Of each batch, by its host and number."""

    def send(self, host: str, *work: AgentWrites, after: int | None = None, size: int = 0) -> int:
        """Let a batch of a host arrive; it knows of the refusals in all before it, unless it says of which."""
        number = next(self._numbers.setdefault(host, count(1)))
        batch = self.sent[host, number] = Batch(host, number, number - 1 if after is None else after, list(work), size)
        self.batches.put(batch)
        return number

    def commit(self) -> list[tuple[str, int]]:
        """Commit what is next; return whose batches were in it."""
        transaction = self.batches.take()
        if transaction is None:
            return []
        self.written.append([agent.agent for agent in transaction.work])
        outcomes = self.store.commit(transaction.work) if transaction.work else []
        answered = []
        for batch, answer, written in transaction.answers(outcomes, 7):
            assert answer.number == batch.number and answer.committed_ns == 7
            assert all(outcome in outcomes for outcome in written)
            place = batch.owner, batch.number
            works = zip(batch.work, answer.parts, strict=True)
            self.answers[place] = [outcome_of(agent, part, 7) for agent, part in works]
            answered.append(place)
        return answered

    def settle(self) -> None:
        """Commit until nothing waits."""
        while self.commit():
            pass

    def write(self, host: str, *work: AgentWrites, **options: Any) -> list[Outcome]:
        """Send a batch, and commit all that waits; return its answer."""
        number = self.send(host, *work, **options)
        self.settle()
        return self.answers[host, number]


@pytest.fixture
def desk() -> Iterator[Server]:
    """A server whose hosts `one` and `two` have an agent at work each: `a` and `b`."""
    with opened(MEMORY) as store:
        desk = Server(store)
        for host, agent in (("one", "a"), ("two", "b")):
            desk.write(host, of(agent, new_agent(), change(INITIALIZING, RUNNING)))
        desk.written.clear()
        yield desk


class TestOneTransaction:
    def test_has_the_batches_of_all_hosts(self, desk: Server) -> None:
        desk.send("one", of("a", text("1")))
        desk.send("two", of("b", text("2")), of("c", new_agent()))

        assert desk.commit() == [("one", 2), ("two", 2)]
        assert desk.written == [["a", "b", "c"]] and desk.commit() == [] and len(desk.batches) == 0

    def test_has_no_agent_twice_and_keeps_the_order_of_each_host(self, desk: Server) -> None:
        desk.send("one", of("a", text("1")))
        desk.send("one", of("a", text("2")))
        desk.send("one", of("x", new_agent()))
        desk.send("two", of("b", text("3")))

        assert desk.commit() == [("one", 2), ("two", 2)]
        assert desk.commit() == [("one", 3), ("one", 4)]
        assert contents(desk.store, "a") == [(1, "1"), (2, "2")]

    def test_of_two_hosts_that_write_to_the_same_agent_the_second_waits(self, desk: Server) -> None:
        desk.write("one", of("a", change(RUNNING, FAILED)))
        desk.send("one", of("a", text("1")))
        desk.send("two", of("a", text("2")))

        assert desk.commit() == [("one", 3)]
        assert desk.commit() == [("two", 2)]
        assert contents(desk.store, "a") == [(1, "1"), (2, "2")]

    def test_is_bounded_in_rows_and_a_smaller_batch_of_another_host_still_fits(
        self, desk: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "TRANSACTION_ROWS", 5)
        desk.send("one", of("a", *map(text, "123")))
        desk.send("two", of("b", *map(text, "123")))
        desk.send("three", of("c", new_agent()))
        desk.send("two", of("d", new_agent()))

        assert desk.commit() == [("one", 2), ("three", 1)]
        assert desk.commit() == [("two", 2), ("two", 3)]

    def test_is_bounded_in_bytes(self, desk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TRANSACTION_BYTES", 100)
        desk.send("one", of("a", text("1")), size=60)
        desk.send("two", of("b", text("2")), size=41)
        desk.send("three", of("c", new_agent()), size=40)

        assert desk.commit() == [("one", 2), ("three", 1)]
        assert desk.commit() == [("two", 2)]

    def test_takes_the_oldest_batch_however_large_it_is(self, desk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TRANSACTION_ROWS", 2)
        desk.send("one", of("a", *map(text, "12345")), size=10**9)
        desk.send("two", of("b", text("2")))

        assert desk.commit() == [("one", 2)]
        assert desk.commit() == [("two", 2)]

    def test_that_was_not_written_is_the_next_again(self, desk: Server) -> None:
        desk.send("one", of("a", text("1")))
        desk.send("one", of("a", text("2")))
        desk.send("two", of("b", text("3")))
        taken = desk.batches.take()
        assert taken is not None

        desk.batches.put_back(taken.batches)
        desk.send("two", of("b", text("4")))

        assert desk.commit() == [("one", 2), ("two", 2)]
        assert desk.commit() == [("one", 3), ("two", 3)]

    def test_has_nothing_of_a_host_that_was_dropped(self, desk: Server) -> None:
        desk.send("one", of("a", text("1")))
        desk.send("two", of("b", text("2")))
        desk.send("one", of("a", text("3")))

        assert [batch.number for batch in desk.batches.drop("one")] == [2, 3]
        assert desk.commit() == [("two", 2)] and desk.commit() == []


class TestOwnership:
    @pytest.mark.parametrize(
        "write", [text("x"), change(RUNNING, FAILED), AgentPatch(pid=1)], ids=["text", "end", "pid"]
    )
    def test_nobody_else_writes_to_an_agent_at_work(self, desk: Server, write: Write) -> None:
        outcome, other = desk.write("two", of("a", write), of("b", text("own")))

        assert (errors(outcome), outcome.committed) == ([NotOwnerError], None)
        assert errors(other) == [None]
        assert desk.written == [["b"]] and desk.owners.of("a") == "one"

    def test_a_refused_word_is_known_as_one_and_a_refused_end_is_not(self, desk: Server) -> None:
        (said,) = desk.write("two", of("a", text("x")))
        (ended,) = desk.write("two", of("a", change(RUNNING, FAILED)))

        assert (said.refused, ended.refused) == (True, False)

    def test_what_was_sent_meanwhile_is_refused_too_though_the_agent_has_ended_since(self, desk: Server) -> None:
        """Else the second word would be stored, and the first would be missing."""
        desk.send("two", of("a", text("first")))
        desk.settle()
        desk.write("one", of("a", change(RUNNING, FAILED)))

        (second,) = desk.write("two", of("a", text("second")), after=1)
        (third,) = desk.write("two", of("a", text("third")), after=3)

        assert errors(second) == [PrecedingRefusedError] and errors(third) == [None]
        assert contents(desk.store, "a") == [(1, "third")]

    def test_one_that_has_ended_belongs_to_whoever_writes(self, desk: Server) -> None:
        desk.write("one", of("a", change(RUNNING, COMPLETED)))

        for host in ("two", "one"):
            (outcome,) = desk.write(host, of("a", text("late")))
            assert errors(outcome) == [None]

    def test_one_that_ends_in_the_transaction_before_is_free_in_the_next(self, desk: Server) -> None:
        desk.send("one", of("a", change(RUNNING, COMPLETED)))
        number = desk.send("two", of("a", text("late")))
        desk.settle()

        assert errors(desk.answers["two", number][0]) == [None]

    def test_the_launch_of_an_agent_that_another_host_has_is_decided_by_the_store(self, desk: Server) -> None:
        desk.write("one", of("c", new_agent("p", idempotency_key="k")))

        (repeat,) = desk.write("two", of("c", new_agent("p", epoch="other", idempotency_key="k")))
        (conflict,) = desk.write("two", of("c", new_agent("q", prompt="q", epoch="other", idempotency_key="k")))
        (taken,) = desk.write("two", of("c", new_agent(epoch="other"), text("with it")))

        assert isinstance(repeat.replies[0], AgentRecord) and repeat.committed is None
        assert errors(conflict) == [IdempotencyConflictError]
        assert errors(taken) == [AgentExistsError, NotOwnerError]
        assert desk.owners.of("c") == "one"


class TestRefusals:
    def test_later_words_in_the_next_batch_that_was_sent_already_are_refused_too(self, desk: Server) -> None:
        desk.send("one", of("a", text("1"), bad_text("2"), text("3")))
        number = desk.send("one", of("a", text("4")), of("c", new_agent()), after=1)
        desk.settle()

        first, second = desk.answers["one", 2][0], desk.answers["one", number]
        assert errors(first) == [None, RowRefusedError, PrecedingRefusedError]
        assert [errors(outcome) for outcome in second] == [[PrecedingRefusedError], [None]]
        assert first.refused and second[0].refused and not second[1].refused
        assert contents(desk.store, "a") == [(1, "1")]

    @pytest.mark.parametrize(
        ("writes", "refused"),
        [
            ([change(RUNNING, FAILED)], [None]),
            ([change(RUNNING, COMPLETED)], [PrecedingRefusedError]),
            ([AgentPatch(pid=1), text("x"), change(RUNNING, FAILED)], [None, PrecedingRefusedError, None]),
            ([text("x"), change(RUNNING, COMPLETED), AgentPatch(pid=1)], [PrecedingRefusedError] * 2 + [None]),
        ],
    )
    def test_what_needs_no_word_before_it_is_carried_out(
        self, desk: Server, writes: list[Write], refused: list[Any]
    ) -> None:
        desk.send("one", of("a", bad_text()))
        number = desk.send("one", of("a", *writes), after=1)
        desk.settle()

        (outcome,) = desk.answers["one", number]
        assert errors(outcome) == refused
        assert outcome.refused == any(isinstance(write, NewMessage) for write in writes)

    def test_what_was_sent_since_the_host_knows_is_stored(self, desk: Server) -> None:
        desk.send("one", of("a", bad_text()))
        desk.send("one", of("a", text("in flight")), after=1)
        knows_the_first = desk.send("one", of("a", text("again")), after=2)
        desk.settle()

        assert errors(desk.answers["one", knows_the_first][0]) == [None]
        assert contents(desk.store, "a") == [(1, "again")]

    def test_of_a_batch_of_which_nothing_was_stored_count_as_refused(self, desk: Server) -> None:
        desk.send("one", of("a", text("lost")), of("c", new_agent()))
        transaction = desk.batches.take()
        assert transaction is not None
        for batch in transaction.batches:
            desk.batches.refusals.note_all(batch)

        behind, created = desk.write("one", of("a", text("behind")), of("c", new_agent()), after=1)

        assert errors(behind) == [PrecedingRefusedError] and errors(created) == [None]

    def test_are_those_of_one_host(self, desk: Server) -> None:
        desk.write("one", of("a", change(RUNNING, FAILED)))
        desk.send("one", of("a", bad_text()))
        number = desk.send("two", of("a", text("of another")), after=0)
        desk.settle()

        assert errors(desk.answers["two", number][0]) == [None]

    def test_are_forgotten_once_the_host_knows_or_is_gone(self) -> None:
        """Also those of agents of which the host never writes again."""
        refusals = Refusals()
        for number in range(1, 4):
            refusals.note(Batch("one", number, 0, [], 0), f"agent {number}")
        refusals.note(Batch("two", 1, 0, [], 0), "agent")

        refusals.learn(Batch("one", 5, 2, [], 0))
        batch = Batch("one", 5, 2, [], 0)
        assert [refusals.affect(batch, f"agent {number}") for number in (1, 2, 3)] == [False, False, True]
        refusals.learn(Batch("one", 6, 3, [], 0))
        refusals.forget("two")
        refusals.forget("three")
        assert refusals._of == {}


HOSTS = ("one", "two", "three")
AGENTS = ("a", "b", "c", "d")
moves = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(HOSTS),
            st.dictionaries(
                st.sampled_from(AGENTS),
                st.lists(st.sampled_from(["say", "say", "bad", "launch", "end"]), min_size=1, max_size=3),
                min_size=1,
                max_size=3,
            ),
            st.integers(0, 2),
        ),
        st.just(None),
    ),
    max_size=25,
)


MAKES: dict[str, Any] = {
    "say": text,
    "bad": bad_text,
    "launch": lambda word: new_agent(epoch=word),
    "end": lambda _: change(INITIALIZING, FAILED, wants_record=False),
}


@pytest.mark.sampled
@settings(max_examples=examples(50, 300))
@given(moves=moves)
def test_no_hole_no_repeat_and_nothing_of_anothers_agent(moves: list[Any]) -> None:
    """Three hosts that know more or less of what was refused; each word is another."""
    with opened(MEMORY) as store:
        desk = Server(store)
        words = map(str, count(1))
        for move in moves:
            if move is None:
                desk.commit()
                continue
            host, work, unknown = move
            answered = max((number for name, number in desk.answers if name == host), default=0)
            knew = max((batch.after for (name, _), batch in desk.sent.items() if name == host), default=0)
            sent = [of(agent, *(MAKES[kind](next(words)) for kind in kinds)) for agent, kinds in work.items()]
            desk.send(host, *sent, after=max(knew, answered - unknown))
        desk.settle()

        assert set(desk.answers) == set(desk.sent)
        for host in HOSTS:
            check_refusals(desk, host)
        check_store(desk, store)


def check_refusals(desk: Server, host: str) -> None:
    """Behind a refused word each later one is refused, until one is sent by a host that knows; and nothing else is."""
    causes: dict[str, int] = {}
    for (name, number), batch in sorted(desk.sent.items()):
        for work, outcome in zip(batch.work, desk.answers[name, number], strict=True) if name == host else ():
            is_behind = causes.get(work.agent, 0) > batch.after
            has_refused = False
            for write, error in zip(work.writes, errors(outcome), strict=True):
                if isinstance(write, NewMessage):
                    assert (error is PrecedingRefusedError) == (is_behind or has_refused) or error is NotOwnerError
                    has_refused = has_refused or error is not None
                    if error not in (None, PrecedingRefusedError):
                        causes[work.agent] = number
                else:
                    assert error is not PrecedingRefusedError
            assert outcome.refused == has_refused


def check_store(desk: Server, store: SqliteStore) -> None:
    """Everything that was answered as stored is there, in the order of its host, and nothing else is."""
    for agent in AGENTS:
        if store.agent(agent) is None:
            continue
        kept = [content for _, content in contents(store, agent)]
        told = {
            message.content: message.sequence
            for answer in desk.answers.values()
            for outcome in answer
            if outcome.committed is not None and outcome.committed.agent == agent
            for message in outcome.committed.messages
        }
        assert [told[content] for content in kept] == list(range(1, len(kept) + 1)) and len(told) == len(kept)
        for host in HOSTS:
            own = [
                message.content
                for (name, _), answer in sorted(desk.answers.items())
                if name == host
                for outcome in answer
                if outcome.committed is not None and outcome.committed.agent == agent
                for message in outcome.committed.messages
            ]
            assert own == [content for content in kept if content in own]


def test_a_transaction_of_nothing_that_may_be_written_has_its_answers(desk: Server) -> None:
    batch = Batch("two", 2, 1, [of("a", text("x"))], 0)
    transaction = Transaction([batch], desk.owners, Refusals())

    ((answered, answer, written),) = transaction.answers([], 3)

    assert transaction.work == [] and answered is batch and written == []
    assert [part.refused for part in answer.parts] == [True]
