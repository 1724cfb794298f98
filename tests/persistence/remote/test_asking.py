"""Each request is answered once: by its answer, or because the connection has ended."""

import random
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.persistence.errors import (
    AgentNotFoundError,
    HostError,
    InvalidValueError,
    ServerError,
    ServerLostError,
    StoreReadTimeoutError,
)
from commitcast.persistence.remote.asking import Asking, ThreadWaiter
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Answer, Ask, Failure, Frame, Progress, Withdraw, pack
from waiting import TIMEOUT_S

LOST = ServerLostError("a.db")


class Sent:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.withdrawn: list[int] = []
        self.asking = Asking(self.send, ServerError)
        self.answers: list[Any] = []

    def send(self, frame: Frame) -> None:
        pack(frame)
        if isinstance(frame, Withdraw):
            self.withdrawn.append(frame.id)
        else:
            assert isinstance(frame, Ask)
            self.asks.append(frame)

    def ask(self, method: str, *arguments: Any, **options: Any) -> int:
        return self.asking.ask(method, list(arguments), self.answers.append, **options)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_request_is_sent_with_a_number_of_its_own(sent: Sent) -> None:
    numbers = [sent.ask("agent", "a", timeout=2.5), sent.ask("agent", "b")]

    assert sent.asks == [Ask(numbers[0], "agent", ["a"], 2.5), Ask(numbers[1], "agent", ["b"], None)]
    assert numbers[0] != numbers[1] and sent.answers == []


def test_answers_come_in_any_order_and_each_once(sent: Sent) -> None:
    first, second = sent.ask("agent", "a"), sent.ask("agent", "b")

    sent.asking.on_answer(Answer(second, "2"))
    sent.asking.on_answer(Answer(first, "1"))
    sent.asking.on_answer(Answer(first, "again"))
    sent.asking.on_answer(Answer(99, "of nothing"))

    assert sent.answers == ["2", "1"]


def test_an_error_is_one_of_its_class_or_of_the_other_end(sent: Sent) -> None:
    there = Asking(sent.send, HostError)
    answers: list[Any] = []
    unknown = Failure("not.loaded:Error", [], {}, "why", "limit", True)
    for asking in (sent.asking, there):
        for failure in (failure_of(AgentNotFoundError("a")), unknown):
            asking.on_answer(Answer(asking.ask("agent", [], answers.append), failure=failure))

    assert [type(answer) for answer in answers] == [AgentNotFoundError, ServerError, AgentNotFoundError, HostError]
    assert {(str(answer), answer.code, answer.retryable) for answer in answers[1::2]} == {("why", "limit", True)}


def test_what_was_forgotten_gets_no_answer(sent: Sent) -> None:
    number = sent.ask("agent", "a")
    sent.asking.forget(number)
    sent.asking.forget(number)

    sent.asking.on_answer(Answer(number, "late"))
    sent.asking.on_progress(Progress(number, 1, 2))
    sent.asking.lose(LOST)

    assert sent.answers == []


def test_the_other_end_is_told_what_nobody_waits_for_any_more(sent: Sent) -> None:
    answered, unanswered = sent.ask("verify", "a"), sent.ask("verify", "b")
    sent.asking.on_answer(Answer(answered, "1"))

    for number in (answered, unanswered, unanswered):
        sent.asking.withdraw(number)
    sent.asking.on_answer(Answer(unanswered, "late"))

    assert sent.withdrawn == [unanswered] and sent.answers == ["1"]


def test_progress_goes_to_those_who_want_it(sent: Sent) -> None:
    told: list[tuple[int, int]] = []
    wants, does_not = sent.ask("verify", progress=lambda *how_far: told.append(how_far)), sent.ask("verify")

    for number in (wants, does_not, 99):
        sent.asking.on_progress(Progress(number, 1, 2))
    sent.asking.on_answer(Answer(wants, None))
    sent.asking.on_progress(Progress(wants, 2, 2))

    assert told == [(1, 2)]


def test_the_end_of_the_connection_answers_everything_now_and_later(sent: Sent) -> None:
    first = sent.ask("agent", "a")
    sent.ask("agent", "b")

    sent.asking.lose(LOST)
    sent.asking.on_answer(Answer(first, "late"))
    sent.ask("agent", "c")

    assert [*map(str, sent.answers)] == [str(LOST)] * 3
    assert len({id(answer) for answer in sent.answers}) == 3  # each is raised elsewhere, and keeps that traceback
    assert len(sent.asks) == 2


def test_what_cannot_be_sent_is_the_askers_error_and_leaves_nothing_behind(sent: Sent) -> None:
    with pytest.raises(InvalidValueError):
        sent.ask("agents", 2**70)
    sent.asking.lose(LOST)

    assert sent.answers == []


@pytest.mark.sampled
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_every_request_is_answered_once_whatever_threads_do_at_the_end(seed: int) -> None:
    order = random.Random(seed)
    sent = Sent()
    counts: dict[int, list[Any]] = {number: [] for number in range(60)}
    begun = threading.Barrier(4)

    def ask(numbers: range) -> None:
        begun.wait(TIMEOUT_S)
        for number in numbers:
            sent.asking.ask("agent", [number], counts[number].append)

    def answer() -> None:
        begun.wait(TIMEOUT_S)
        for _ in range(30):
            if sent.asks:
                chosen = order.choice(sent.asks)
                sent.asking.on_answer(Answer(chosen.id, chosen.arguments[0]))
        sent.asking.lose(LOST)

    threads = [threading.Thread(target=ask, args=(range(start, start + 20),)) for start in (0, 20, 40)]
    threads.append(threading.Thread(target=answer))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert all(len(answers) == 1 and str(answers[0]) in (str(number), str(LOST)) for number, answers in counts.items())


# A thread that waits.


def test_a_waiter_returns_the_answer_or_raises_it() -> None:
    returns, raises = ThreadWaiter(), ThreadWaiter()
    returns.answer([1])
    raises.answer(LOST)

    assert returns.wait(None) == [1]
    with pytest.raises(ServerLostError):
        raises.wait(0.0)


def test_a_waiter_gives_up_in_time() -> None:
    with pytest.raises(StoreReadTimeoutError):
        ThreadWaiter().wait(0.01)


def test_a_waiter_is_told_the_latest_progress_on_its_own_thread() -> None:
    waiter, told = ThreadWaiter(), list[tuple[int, int, int | None]]()
    for done in range(3):
        waiter.note(done, 3)

    def finish() -> None:
        waiter.note(3, 3)
        waiter.answer("over")

    other = threading.Thread(target=finish)

    def note(done: int, of: int) -> None:
        told.append((done, of, threading.get_ident()))
        if done == 2:
            other.start()

    assert waiter.wait(TIMEOUT_S, note) == "over"
    other.join(TIMEOUT_S)
    assert told[0] == (2, 3, threading.get_ident())
    assert {each[2] for each in told} == {threading.get_ident()}
