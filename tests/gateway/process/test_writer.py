"""The writer commits what waits of all hosts, answers each batch once, and gives up for a host that wants it alone."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from commitcast.actors.testing import FailingStore, HeldStore
from commitcast.gateway.process import writer as module
from commitcast.gateway.process.writer import CommittingHost, Writer
from commitcast.persistence.errors import (
    LinkError,
    NotStoredError,
    PrecedingRefusedError,
    StoreFullError,
    StoreUnknownError,
)
from commitcast.persistence.remote import frames
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import MAX_BATCHES, Commit, Frame, NotStored, Stored
from commitcast.persistence.remote.outcomes import outcome_of
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, Outcome
from looping import on_loop
from stores import FAILED, INITIALIZING, change, contents, errors, new_agent, of, text
from waiting import TIMEOUT_S, wait_until

FULL = StoreFullError("the disk is full")


class Host:
    """A host that sends batches, and keeps the answers. Implements `CommittingHost`."""

    def __init__(self, name: str, writer: Writer) -> None:
        self.name = name
        self.casts = False
        self.has_abandoned = False
        self.frames: list[Frame] = []
        self._writer = writer
        self._sent: list[list[AgentWrites]] = []

    def answer(self, frame: Frame) -> None:
        self.frames.append(frame)

    def send(self, *work: AgentWrites, after: int | None = None) -> int:
        """Let a batch arrive; return its number."""
        self._sent.append(list(work))
        number = len(self._sent)
        commit = Commit(number, number - 1 if after is None else after, list(work))
        self._writer.loop.call(lambda: self._writer.put(self, commit, 0))
        return number

    def outcomes(self, number: int) -> list[Outcome] | Exception:
        """What became of a batch, once it is answered."""
        wait_until(lambda: len(self.frames) >= number, "the answer", show=lambda: self.frames)
        frame = self.frames[number - 1]
        assert isinstance(frame, (Stored, NotStored)) and frame.number == number
        if isinstance(frame, NotStored):
            return error_of(frame.failure)
        works = zip(self._sent[number - 1], frame.parts, strict=True)
        return [outcome_of(work, part, frame.committed_ns) for work, part in works]

    def errors(self, number: int) -> list[type | None]:
        """The errors of the only agent in a batch."""
        outcomes = self.outcomes(number)
        assert isinstance(outcomes, list) and len(outcomes) == 1
        return errors(outcomes[0])

    def write(self, *work: AgentWrites) -> Any:
        """Send a batch and wait for what became of it."""
        return self.outcomes(self.send(*work))

    def give_up(self) -> None:
        """Have its batches that wait given up, as the server does."""
        self.has_abandoned = True
        self._writer.loop.call(self._writer.try_again)


class Desk:
    """A writer of a store that can be held and can fail, and what it tells."""

    def __init__(self) -> None:
        inner = SqliteStore(MEMORY)
        self.failing = FailingStore(inner)
        self.store = HeldStore(self.failing)
        self.store.open()
        self.stored: list[tuple[str, list[Outcome], int]] = []
        """For each batch its host, what was written of it, and how many answers the host had then."""
        self.waiting: list[str | None] = []
        self.fatal: list[Exception] = []
        self.writer = Writer(
            self.store, on_stored=self._on_stored, on_waiting=self.waiting.append, on_fatal=self.fatal.append
        )
        self.one, self.two = Host("one", self.writer), Host("two", self.writer)
        self.writer.start()

    def _on_stored(self, host: CommittingHost, work: Sequence[AgentWrites], stored: list[Outcome]) -> None:
        assert isinstance(host, Host)
        self.stored.append((host.name, stored, len(host.frames)))

    def commits(self) -> list[list[str]]:
        """The agents in each transaction that was tried."""
        return [[agent.agent for agent in work] for work in self.failing.commits]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    desk = Desk()
    desk.one.write(of("a", new_agent()))
    desk.two.write(of("b", new_agent()))
    yield desk
    desk.store.release()
    assert desk.writer.stop(TIMEOUT_S)
    desk.store.close()
    desk.writer.loop.close()


def test_a_batch_is_answered_when_it_is_on_disk_and_after_what_it_is_passed_on_to(desk: Desk) -> None:
    (outcome,) = desk.one.write(of("a", text("x")))

    assert errors(outcome) == [None] and contents(desk.store, "a") == [(1, "x")]
    name, stored, answers = desk.stored[-1]
    assert (name, len(stored), answers) == ("one", 1, 1)  # the answer to the launch, and none to this yet
    assert desk.writer.commits == 3 and desk.writer.busy_s > 0


def test_what_comes_during_a_commit_goes_into_the_next_together(desk: Desk) -> None:
    desk.store.hold()
    desk.one.send(of("a", text("1")))
    desk.store.wait_until_held()
    desk.two.send(of("b", text("2")))
    desk.one.send(of("c", new_agent()))
    desk.store.release()

    wait_until(lambda: len(desk.one.frames) == 3 and len(desk.two.frames) == 2, "all answers")
    assert desk.commits()[2:] == [["a"], ["b", "c"]]


class TestWhileTheStoreRefuses:
    def test_the_batches_are_kept_and_tried_again_and_all_hosts_are_told_once(
        self, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.failing.fail(FULL, times=3)

        (outcome,) = desk.one.write(of("a", text("x")))

        assert errors(outcome) == [None] and contents(desk.store, "a") == [(1, "x")]
        assert desk.waiting == ["the disk is full", None]
        assert desk.writer.refusals == 3
        assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1

    def test_what_comes_meanwhile_is_written_after_it(self, desk: Desk) -> None:
        desk.failing.fail(FULL, times=None)
        first = desk.one.send(of("a", text("1")))
        wait_until(lambda: desk.writer.refusals, "a refusal")
        second = desk.one.send(of("a", text("2")))
        other = desk.two.send(of("b", text("3")))
        desk.failing.fail(FULL, times=0)

        assert [desk.one.errors(number) for number in (first, second)] == [[None], [None]]
        assert desk.two.errors(other) == [None]
        assert contents(desk.store, "a") == [(1, "1"), (2, "2")]

    def test_a_host_that_gives_up_is_answered_and_the_others_wait_on(self, desk: Desk) -> None:
        desk.store.hold()
        desk.failing.fail(FULL, times=None)
        first = desk.one.send(of("c", new_agent()))
        desk.store.wait_until_held()
        second = desk.one.send(of("a", text("1")))
        other = desk.two.send(of("b", text("2")))
        desk.store.release()
        wait_until(lambda: desk.writer.refusals, "a refusal")

        desk.one.give_up()
        assert isinstance(desk.one.outcomes(first), StoreFullError)
        assert isinstance(desk.one.outcomes(second), StoreFullError)
        assert len(desk.two.frames) == 1

        desk.failing.fail(FULL, times=0)
        assert desk.two.errors(other) == [None]
        assert (contents(desk.store, "a"), contents(desk.store, "b")) == ([], [(1, "2")])

    def test_what_it_has_sent_behind_that_is_refused_too(self, desk: Desk) -> None:
        desk.failing.fail(FULL, times=None)
        first = desk.one.send(of("a", text("1")))
        desk.one.give_up()
        assert isinstance(desk.one.outcomes(first), StoreFullError)
        desk.failing.fail(FULL, times=0)

        second = desk.one.send(of("a", text("2")), after=1)
        assert desk.one.errors(second) == [PrecedingRefusedError]

    def test_giving_up_again_and_again_does_not_make_it_try_more_often(self, desk: Desk) -> None:
        desk.failing.fail(FULL, times=None)
        desk.two.send(of("b", text("2")))
        wait_until(lambda: desk.writer.refusals, "a refusal")
        for _ in range(50):
            desk.one.give_up()
            on_loop(desk.writer.loop, lambda: None)
        on_loop(desk.writer.loop, lambda: None)

        timers = on_loop(desk.writer.loop, lambda: [timer for *_, timer in desk.writer.loop._timers if timer.call])
        assert len(timers) == 1

    def test_the_batches_of_a_host_that_is_gone_are_forgotten(self, desk: Desk) -> None:
        desk.failing.fail(FULL, times=None)
        desk.one.send(of("a", text("1")))
        wait_until(lambda: desk.writer.refusals, "a refusal")
        on_loop(desk.writer.loop, lambda: desk.writer.drop(desk.one))
        desk.failing.fail(FULL, times=0)

        desk.two.write(of("b", text("2")))
        assert contents(desk.store, "a") == [] and len(desk.one.frames) == 1


def test_a_transaction_that_was_rolled_back_is_refused_to_those_in_it_and_the_next_is_written(desk: Desk) -> None:
    desk.failing.fail(NotStoredError("a bad sector"))
    refused = desk.one.write(of("a", text("1")))
    behind = desk.one.send(of("a", text("2")), after=1)
    other = desk.two.send(of("b", text("3")))

    assert type(refused) is NotStoredError and str(refused) == "a bad sector"
    assert desk.one.errors(behind) == [PrecedingRefusedError] and desk.two.errors(other) == [None]
    assert desk.fatal == [] and desk.waiting == []


@pytest.mark.parametrize("error", [StoreUnknownError("half-way"), ValueError("a defect"), SystemExit(3)], ids=repr)
def test_after_an_outcome_that_is_not_known_nothing_more_is_written(desk: Desk, error: BaseException) -> None:
    desk.store.hold()
    desk.failing.fail(error)
    unknown = desk.one.send(of("a", text("1")))
    desk.store.wait_until_held()
    refused = desk.two.send(of("b", text("2")))
    desk.store.release()

    assert not isinstance(desk.one.outcomes(unknown), (list, NotStoredError))
    assert type(desk.two.outcomes(refused)) is NotStoredError
    assert len(desk.fatal) == 1 and contents(desk.store, "b") == []


def test_what_fails_after_the_commit_keeps_no_answer_back(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.stored = None  # type: ignore[assignment]  # a defect

    (outcome,) = desk.one.write(of("a", text("x")))

    assert errors(outcome) == [None] and "could not be passed on to subscribers" in caplog.text


def test_an_answer_that_is_too_long_to_be_sent_is_given_as_unknown_and_the_next_ones_are_given(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.one.write(of("c", new_agent(prompt="x" * 10_000)))
    pack = desk.one.answer
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 5_000)

    def answer(frame: Frame) -> None:
        frames.pack(frame)  # as its link does
        pack(frame)

    monkeypatch.setattr(desk.one, "answer", answer)
    unknown = desk.one.write(of("c", change(INITIALIZING, FAILED)))
    (outcome,) = desk.one.write(of("a", text("x")))

    assert isinstance(unknown, StoreUnknownError) and "cannot be told" in str(unknown)
    assert errors(outcome) == [None]
    record = desk.store.agent("c")
    assert record is not None and record.status is FAILED
    assert len(desk.stored) == 5 and "its answer is too long to be sent" in caplog.text


def test_a_host_with_more_batches_than_it_may_have_is_cut(desk: Desk) -> None:
    desk.failing.fail(FULL, times=None)
    for _ in range(MAX_BATCHES):
        desk.one.send(of("a", text("x")))

    def one_more() -> type[Exception] | None:
        try:
            desk.writer.put(desk.one, Commit(9, 8, [of("a", text("x"))]), 0)
        except LinkError as error:
            return type(error)
        return None

    assert on_loop(desk.writer.loop, one_more) is LinkError
    assert desk.two.send(of("b", text("x"))) == 2


def test_it_stops_after_the_commit_under_way(desk: Desk) -> None:
    desk.store.hold()
    desk.one.send(of("a", text("1")))
    desk.store.wait_until_held()
    assert not desk.writer.stop(0.01)
    desk.store.release()

    assert desk.writer.stop(TIMEOUT_S) and len(desk.one.frames) == 2
