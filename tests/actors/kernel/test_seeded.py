"""A seeded dispatcher runs blocking calls one at a time, in an order that the seed decides, and leaves no thread."""

import threading

import pytest

from commitcast.actors.kernel.waiting import Latch, Signal
from commitcast.actors.testing import SeededDispatcher


def test_a_call_that_blocks_is_put_aside_until_its_signal_is_given() -> None:
    signal, log = Signal(), list[str]()

    def work() -> None:
        log.append(f"given: {signal.wait(None)}")

    with SeededDispatcher(1) as dispatcher:
        dispatcher.spawn("waits", work)
        dispatcher.run()
        log.append("the test goes on")
        signal.set()
        dispatcher.run()

    assert log == ["the test goes on", "given: True"]


def test_a_wait_ends_by_the_virtual_clock_alone() -> None:
    waited: list[bool] = []

    with SeededDispatcher(1) as dispatcher:
        dispatcher.spawn("waits", lambda: waited.extend(Signal().wait(1_000_000) for _ in range(2)))
        dispatcher.run()
        assert dispatcher.now() == 2_000_000

    assert waited == [False, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_order(seed: int) -> None:
    def run() -> list[str]:
        log: list[str] = []

        def work(name: str) -> None:
            for number in range(3):
                log.append(f"{name}{number}")
                dispatcher.pause()
                Signal().wait(1)

        with SeededDispatcher(seed) as dispatcher:
            for name in "abc":
                dispatcher.spawn(name, lambda name=name: work(name))  # type: ignore[misc]
            dispatcher.run()
        return log

    assert run() == run()


def test_an_error_is_raised_where_the_call_was_resumed() -> None:
    with SeededDispatcher(1) as dispatcher:
        dispatcher.spawn("fails", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dispatcher.run()


def test_any_number_may_wait_for_a_latch() -> None:
    latch, log = Latch(), list[bool]()

    with SeededDispatcher(1) as dispatcher:
        for _ in range(3):
            dispatcher.spawn("waits", lambda: log.append(latch.wait(None)))
        dispatcher.spawn("gives up", lambda: log.append(latch.wait(1)))
        dispatcher.run()
        assert log == [False]
        latch.set()
        latch.set()
        dispatcher.run()
        assert latch.wait(0)

    assert log == [False, True, True, True]


def test_what_is_still_blocked_at_the_end_is_unwound() -> None:
    before, log = set(threading.enumerate()), list[str]()

    def work() -> None:
        try:
            Signal().wait(None)
        except Exception:  # code that handles every error does not keep it from ending
            log.append("handled")
        finally:
            log.append("unwound")

    with SeededDispatcher(1) as dispatcher:
        dispatcher.spawn("waits", work)
        dispatcher.run()

    assert log == ["unwound"]
    assert set(threading.enumerate()) <= before
