"""The batches of a host: sent in order, answered in order, and each answered once, whatever becomes of the server."""

import threading
from typing import Any

import pytest

from commitcast.persistence.errors import (
    AgentNotFoundError,
    LinkError,
    NotOwnerError,
    NotStoredError,
    PrecedingRefusedError,
    RowRefusedError,
    ServerLostError,
    StoreFullError,
    StoreUnknownError,
)
from commitcast.persistence.records import Committed
from commitcast.persistence.remote import frames
from commitcast.persistence.remote.commits import FURTHER_ROWS, Commits
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Answer, Commit, Frame, NotStored, Part, Stored, pack
from commitcast.persistence.remote.outcomes import packed_failure, part_of
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.writes import AgentPatch, AgentWrites, NewMessage, Write
from stores import FAILED, INITIALIZING, RUNNING, change, contents, errors, new_agent, of, opened, positions, text
from waiting import TIMEOUT_S

LOST = ServerLostError("a.db")


class Sent:
    """A connection that keeps what is sent, and the answers to it."""

    def __init__(self) -> None:
        self.frames: list[Commit] = []
        self.commits = Commits(self.send)
        self.answers: list[Any] = []

    def send(self, frame: Frame) -> None:
        pack(frame)
        assert isinstance(frame, Commit)
        self.frames.append(frame)

    def submit(self, *work: AgentWrites, **options: Any) -> int:
        return self.commits.submit(work, self.answers.append, **options)

    def answer(self, number: int, *parts: Part) -> None:
        self.commits.on_frame(Stored(number, 5, list(parts)), 0)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def contents_of(committed: Committed) -> list[str]:
    return [message.content for message in committed.messages]


PLAIN = Part("e", 0, 0, 1)
"""Messages, all stored, from sequence and position 1."""


def test_batches_have_numbers_in_order_and_say_what_their_host_knew(sent: Sent) -> None:
    work = of("a", text("one"))
    numbers = [sent.submit(work), sent.submit(work, after=0), sent.submit(work)]

    assert numbers == [1, 2, 3]
    assert sent.frames == [Commit(1, 0, [work]), Commit(2, 0, [work]), Commit(3, 2, [work])]


def test_answers_are_made_of_the_oldest_batch(sent: Sent) -> None:
    sent.submit(of("a", text("one")))
    sent.submit(of("a", text("two"), text("three")), of("b", text("other")))

    sent.answer(1, PLAIN)
    sent.answer(2, Part("e", 1, 1, 2), Part("f", 4, 0, 9))

    proofs = [[outcome.committed for outcome in answer] for answer in sent.answers]
    assert [[(proof.agent, positions(proof), contents_of(proof)) for proof in answer] for answer in proofs] == [
        [("a", [1], ["one"])],
        [("a", [2, 3], ["two", "three"]), ("b", [9], ["other"])],
    ]
    assert [message.sequence for answer in proofs for proof in answer for message in proof.messages] == [1, 2, 3, 5]
    assert {proof.committed_ns for answer in proofs for proof in answer} == {5}


def test_a_further_batch_is_sent_only_if_it_is_large_and_a_third_never(sent: Sent) -> None:
    may_submit = sent.commits.may_submit
    assert may_submit(1)

    sent.submit(of("a", text("one")))
    assert (may_submit(FURTHER_ROWS - 1), may_submit(FURTHER_ROWS)) == (False, True)
    sent.submit(of("a", text("two")))
    assert not may_submit(10_000)

    sent.answer(1, PLAIN)
    assert (may_submit(FURTHER_ROWS - 1), may_submit(FURTHER_ROWS)) == (False, True)
    sent.answer(2, PLAIN)
    assert may_submit(1)


def test_a_batch_that_was_not_stored_has_the_error_of_the_store(sent: Sent) -> None:
    sent.submit(of("a", text("one")))
    sent.submit(of("a", text("two")))

    sent.commits.on_frame(NotStored(1, failure_of(StoreFullError("the disk is full"))), 0)
    sent.answer(2, Part("", 0, 0, 0, True, [packed_failure(RowRefusedError("no"))]))

    full, (outcome,) = sent.answers
    assert type(full) is StoreFullError and str(full) == "the disk is full"
    assert (errors(outcome), outcome.committed, outcome.refused) == ([RowRefusedError], None, True)


@pytest.mark.parametrize(
    "frame", [Stored(2, 0, [PLAIN]), NotStored(2, failure_of(NotStoredError("no"))), Answer(1), Commit(1, 0, [])]
)
def test_an_answer_out_of_order_or_of_another_kind_is_an_error_of_the_connection(sent: Sent, frame: Frame) -> None:
    sent.submit(of("a", text("one")))
    sent.submit(of("a", text("two")))

    with pytest.raises(LinkError):
        sent.commits.on_frame(frame, 0)
    sent.commits.lose(LOST)

    assert [type(answer) for answer in sent.answers] == [StoreUnknownError] * 2


def test_an_answer_to_nothing_is_an_error_of_the_connection(sent: Sent) -> None:
    with pytest.raises(LinkError, match="batch 1 was answered out of order"):
        sent.answer(1, PLAIN)


@pytest.mark.parametrize("parts", [[], [PLAIN, PLAIN], [Part("e", 0, 0, 1, False, [])]])
def test_a_batch_whose_answer_does_not_fit_is_answered_at_the_end_of_the_connection(
    sent: Sent, parts: list[Part]
) -> None:
    sent.submit(of("a", text("one")))

    with pytest.raises(ValueError):
        sent.answer(1, *parts)
    assert sent.answers == []
    sent.commits.lose(LOST)

    assert [type(answer) for answer in sent.answers] == [StoreUnknownError]


def test_when_the_server_is_lost_what_was_sent_is_not_known_and_what_comes_is_not_stored(sent: Sent) -> None:
    sent.submit(of("a", text("one")))
    sent.submit(of("a", text("two")))

    sent.commits.lose(LOST)
    number = sent.submit(of("a", text("three")))
    sent.answer(1, PLAIN)  # it was in the buffer of the connection
    sent.commits.lose(ServerLostError("again"))

    assert [type(answer) for answer in sent.answers] == [StoreUnknownError, StoreUnknownError, NotStoredError]
    assert str(sent.answers[0]).startswith("the server process of a.db has ended")
    assert "whether this was stored before is not known" in str(sent.answers[0])
    assert (number, len(sent.frames)) == (0, 2)
    assert sent.commits.may_submit(1)


def test_what_cannot_be_sent_of_a_batch_is_refused_alone(sent: Sent) -> None:
    """What stands in its place the store refuses, and what follows it with it."""
    wrong = change(INITIALIZING, RUNNING, reason="\ud800")
    bad = NewMessage("user", None, "\ud800", "text", "t", 1)
    batch = [
        of("a", text("1"), bad, text("2"), change(INITIALIZING, FAILED)),
        of("b", text("3"), wrong, AgentPatch(pid=2**70), text("4")),
        of("c", text("5")),
        of("new", new_agent(prompt="\ud800"), text("6")),
    ]
    with opened(MEMORY) as store:
        store.commit([of(agent, new_agent()) for agent in "abc"])

        number = sent.submit(*batch)
        (frame,) = sent.frames
        outcomes = store.commit(frame.work)
        sent.answer(number, *(part_of(work, outcome) for work, outcome in zip(frame.work, outcomes, strict=True)))

        assert [contents(store, agent) for agent in "abc"] == [[(1, "1")], [(1, "3"), (2, "4")], [(1, "5")]]
    (answer,) = sent.answers
    assert [errors(outcome) for outcome in answer] == [
        [None, RowRefusedError, PrecedingRefusedError, None],
        [None, RowRefusedError, RowRefusedError, None],
        [None],
        [RowRefusedError, AgentNotFoundError],
    ]
    assert [outcome.refused for outcome in answer] == [True, False, False, True]
    assert "a row of agent 'a' cannot be stored: this cannot be sent" in str(answer[0].replies[1])


def test_a_batch_that_is_too_large_as_a_whole_was_not_stored_and_leaves_its_number_to_the_next(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent.submit(of("a", text("one")))
    with monkeypatch.context() as patch:
        patch.setattr(frames, "MAX_FRAME_BYTES", 1_000)
        number = sent.submit(of("a", text("x" * 600)), of("b", text("x" * 600)))
    further = sent.submit(of("a", text("three")), after=1)

    (answer,) = sent.answers
    assert type(answer) is NotStoredError and "cannot be sent" in str(answer)
    assert (number, further) == (0, 2)
    assert [frame.number for frame in sent.frames] == [1, 2]
    sent.answer(1, PLAIN)
    sent.answer(2, Part("e", 1, 1, 2))
    assert len(sent.answers) == 3


def test_a_host_owns_what_it_has_created_until_the_end_is_committed(sent: Sent) -> None:
    commits = sent.commits
    with opened(MEMORY) as store:
        writes: list[Write] = [new_agent(), text("x"), change(INITIALIZING, FAILED)]
        for number, write in enumerate(writes, 1):
            work = of("a", write)
            sent.submit(work)
            assert commits.owns("a") is (number > 1)
            sent.answer(number, part_of(work, store.commit([work])[0]))
        assert contents(store, "a") == [(1, "x")]

    assert not commits.owns("a") and not commits.owns("ghost")


def test_what_another_runtime_owns_is_refused_and_stays_that_ones(sent: Sent) -> None:
    sent.submit(of("a", text("x")))

    sent.answer(1, Part("", 0, 0, 0, True, [packed_failure(NotOwnerError("a"))]))

    (outcome,) = sent.answers[0]
    assert errors(outcome) == [NotOwnerError] and not sent.commits.owns("a")


def test_each_batch_is_answered_once_when_the_connection_ends_as_the_answer_comes() -> None:
    """The two come on two threads: the loop of this connection, and that of the other one."""
    for _ in range(200):
        sent = Sent()
        for _ in range(2):
            sent.submit(of("a", text("one")))
        begun = threading.Barrier(2)

        def lose(sent: Sent = sent, begun: threading.Barrier = begun) -> None:
            begun.wait(TIMEOUT_S)
            sent.commits.lose(LOST)

        other = threading.Thread(target=lose)
        other.start()
        begun.wait(TIMEOUT_S)
        sent.answer(1, PLAIN)
        sent.answer(2, PLAIN)
        other.join(TIMEOUT_S)

        assert len(sent.answers) == 2
