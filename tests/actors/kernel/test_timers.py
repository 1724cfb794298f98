"""Timers: in the order in which they fall due, none after the stop, and no one's mistake is another's."""

import threading
import time
from collections.abc import Iterator

import pytest

from commitcast.actors.kernel.timers import Timer, Timers
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers("test")
    yield timers
    timers.stop()


def test_they_fire_in_the_order_in_which_they_fall_due_and_not_before(timers: Timers) -> None:
    fired: list[tuple[str, float]] = []

    made = {
        name: timers.call_later(delay_s, lambda name=name: fired.append((name, time.monotonic())))  # type: ignore[misc]
        for name, delay_s in {"last": 0.03, "later": 0.02, "sooner": 0.01}.items()
    }

    wait_until(lambda: len(fired) == len(made), "all to fire")
    assert [name for name, _ in fired] == sorted(made, key=lambda name: made[name].due)
    assert all(at >= made[name].due for name, at in fired)


def test_those_that_fall_due_together_fire_in_the_order_of_the_calls() -> None:
    calls: list[int] = []
    timers = [Timer(1.0, number, lambda number=number: calls.append(number)) for number in range(5)]  # type: ignore[misc]

    for timer in sorted(reversed(timers)):
        timer.fire()

    assert calls == [0, 1, 2, 3, 4]


def test_a_sooner_one_is_not_kept_waiting_by_a_later_one(timers: Timers) -> None:
    soon = threading.Event()

    timers.call_later(3_600, lambda: None)
    timers.call_later(0, soon.set)

    assert soon.wait(TIMEOUT_S)


def test_a_cancelled_one_is_not_called(timers: Timers) -> None:
    called: list[str] = []
    done = threading.Event()

    timers.call_later(0.01, lambda: called.append("cancelled")).cancel()
    timers.call_later(0.02, done.set)

    assert done.wait(TIMEOUT_S)
    assert called == []


def test_a_failing_call_is_logged_and_the_next_one_still_fires(
    timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    timers.call_later(0, lambda: 1 / 0)
    timers.call_later(0.01, done.set)

    assert done.wait(TIMEOUT_S)
    assert "ZeroDivisionError" in caplog.text


def test_a_timer_fires_once() -> None:
    calls: list[str] = []
    timer = Timer(0, 0, lambda: calls.append("fired"))

    timer.fire()
    timer.fire()

    assert calls == ["fired"]


def test_without_a_timer_there_is_no_thread_and_after_the_stop_none_either() -> None:
    before = threading.active_count()
    timers = Timers("test")
    assert threading.active_count() == before

    called: list[str] = []
    timers.call_later(3_600, lambda: called.append("never"))
    assert threading.active_count() == before + 1
    timers.stop()
    timers.call_later(0, lambda: called.append("too late"))

    assert threading.active_count() == before
    assert called == []


def test_it_may_be_stopped_by_one_of_its_own_calls() -> None:
    timers = Timers("test")
    stopped = threading.Event()

    def stop() -> None:
        timers.stop()
        stopped.set()

    timers.call_later(0, stop)

    assert stopped.wait(TIMEOUT_S)
