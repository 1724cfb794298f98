"""What a host makes of positions and its own writes is exactly the outcome that the store has returned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.records import Committed, MessageRecord
from commitcast.persistence.remote.frames import Commit, Part, Stored, pack, unpack
from commitcast.persistence.remote.outcomes import outcome_of, part_of
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentPatch, AgentWrites, NewStatus, Outcome, Write
from examples import examples
from store_model import AGENTS, bad_messages, good_messages, launches, own_keys, patches, steps
from stores import COMPLETED, FAILED, INITIALIZING, RUNNING, bad_text, change, new_agent, of, opened, text

changes = st.builds(
    lambda step, wants: change(step.previous, step.status, reason="r", wants_record=wants),
    st.sampled_from(steps),
    st.booleans(),
)
raws = st.builds(lambda raw: text("raw", raw=raw, role="r"), st.sampled_from([b"", b"\xff\n"]))
writes: st.SearchStrategy[list[Write]] = st.lists(
    good_messages | good_messages | raws | changes | bad_messages | patches | launches, min_size=1, max_size=6
)
batches = st.lists(st.dictionaries(st.sampled_from(AGENTS), writes, min_size=1), min_size=1, max_size=6)


def sent(work: list[AgentWrites]) -> list[AgentWrites]:
    """Writes as the server receives them."""
    frame = unpack(pack(Commit(1, 0, work))[4:])
    assert isinstance(frame, Commit)
    return frame.work


def answered(parts: list[Part], committed_ns: int) -> Stored:
    """The answer as the host receives it."""
    frame = unpack(pack(Stored(1, committed_ns, parts))[4:])
    assert isinstance(frame, Stored)
    return frame


def crossed(store: SqliteStore, work: list[AgentWrites]) -> list[tuple[Outcome, Outcome]]:
    """Commit work as the server does: for each agent, what the store has returned, and what the host makes of it."""
    there = sent(work)
    outcomes = store.commit(there)
    at = next((outcome.committed.committed_ns for outcome in outcomes if outcome.committed is not None), 0)
    answer = answered([part_of(agent, outcome) for agent, outcome in zip(there, outcomes, strict=True)], at)
    return [
        (outcome, outcome_of(agent, part, answer.committed_ns))
        for agent, outcome, part in zip(work, outcomes, answer.parts, strict=True)
    ]


def facts(committed: Committed | None) -> Any:
    """Everything that a proof says."""
    return None if committed is None else {name: getattr(committed, name) for name in Committed.__slots__}


def said(reply: Any) -> Any:
    """A reply, or everything that an error says."""
    if not isinstance(reply, Exception):
        return type(reply), reply
    assert isinstance(reply, CommitcastError)
    return type(reply), str(reply), reply.code, reply.retryable, {name: str(fact) for name, fact in vars(reply).items()}


def check(there: Outcome, here: Outcome) -> None:
    assert facts(here.committed) == facts(there.committed)
    assert [*map(said, here.replies)] == [*map(said, there.replies)]
    assert here.refused == there.refused
    if here.committed is not None and there.committed is not None:
        entries = [entry for entry in there.committed.entries if isinstance(entry, MessageRecord)]
        assert [type(entry.raw) for entry in here.committed.messages] == [type(entry.raw) for entry in entries]


@pytest.mark.sampled
@settings(max_examples=examples(50, 300))
@given(batches=batches, with_own_epochs=st.booleans())
def test_the_outcome_is_that_of_the_store(batches: list[dict[str, list[Write]]], with_own_epochs: bool) -> None:
    with opened(MEMORY) as store:
        for batch in batches:
            work = [
                own_keys(agent, writes) if with_own_epochs else of(agent, *writes) for agent, writes in batch.items()
            ]
            for there, here in crossed(store, work):
                check(there, here)


@contextmanager
def at_work() -> Iterator[SqliteStore]:
    with opened(MEMORY) as store:
        store.commit([of("a", new_agent("prompt", epoch="first", idempotency_key="k"), change(INITIALIZING, RUNNING))])
        yield store


@pytest.mark.parametrize(
    "writes",
    [
        [text("one"), text("two")],
        [text("one", key="k"), text("one", key="k"), text("two")],
        [text("one", key="k"), text("another", key="k"), text("two")],
        [bad_text(), text("two"), change(RUNNING, FAILED, wants_record=False)],
        [text("one"), bad_text(), change(RUNNING, COMPLETED), AgentPatch(pid=3)],
        [change(RUNNING, COMPLETED, result_json="1"), text("late")],
        [change(RUNNING, COMPLETED, wants_record=False), text("late"), AgentPatch(configuration_json='{"a":1}')],
        [change(INITIALIZING, RUNNING), text("one")],
        [AgentPatch(pid=1)],
        [new_agent("prompt", epoch="first", idempotency_key="k"), text("one")],
        [new_agent("prompt", epoch="second", idempotency_key="k"), change(RUNNING, FAILED)],
        [new_agent("another", epoch="second")],
    ],
)
def test_each_shape(writes: list[Write]) -> None:
    with at_work() as store:
        ((there, here),) = crossed(store, [of("a", *writes)])

    check(there, here)


@pytest.mark.parametrize("epoch", ["first", "second"])
def test_a_launch_that_is_repeated_is_not_taken_for_a_second_creation(epoch: str) -> None:
    """Also if it is the very same, as after an outcome that was not known."""
    with at_work() as store:
        ((there, here),) = crossed(store, [of("a", new_agent("prompt", epoch=epoch, idempotency_key="k"))])

    check(there, here)
    assert here.committed is None


def test_messages_are_not_sent_back() -> None:
    """The answer to a batch has the same size whatever the messages say."""
    with at_work() as store:
        work = [of("a", *(text("x" * 10_000, raw=b"y" * 10_000) for _ in range(100)))]
        parts = [part_of(agent, outcome) for agent, outcome in zip(work, store.commit(work), strict=True)]
        created = [of("b", new_agent("x" * 10_000), change(INITIALIZING, RUNNING, wants_record=False))]
        more = [part_of(agent, outcome) for agent, outcome in zip(created, store.commit(created), strict=True)]

    assert len(pack(Stored(1, 0, parts))) < 40
    assert len(pack(Stored(1, 0, more))) < 40


def test_all_refused_is_no_proof() -> None:
    with at_work() as store:
        ((there, here),) = crossed(store, [of("ghost", text("one"), NewStatus(previous=RUNNING, status=FAILED, at=""))])

    check(there, here)
    assert here.committed is None and here.refused
