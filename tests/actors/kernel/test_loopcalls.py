"""Calls from other threads onto a loop: in order, all of them, and with one wake-up."""

import asyncio
from functools import partial
from typing import Any

import pytest

from commitcast.actors.kernel.loopcalls import call_on_loop
from waiting import TIMEOUT_S


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often it is woken."""

    wakes = 0

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]  # passed on
        self.wakes += 1
        return super().call_soon_threadsafe(*args, **options)


def test_many_calls_wake_it_once_and_come_in_order() -> None:
    loop, calls = CountingLoop(), list[int]()
    for _ in range(2):
        before = loop.wakes
        for number in range(1_000):
            assert call_on_loop(loop, partial(calls.append, number))
        loop.run_until_complete(asyncio.sleep(0))
        assert loop.wakes == before + 1
    loop.close()

    assert calls == [*range(1_000), *range(1_000)]


def test_a_call_from_a_call_comes_in_the_next_turn() -> None:
    loop, calls = CountingLoop(), list[str]()

    def first() -> None:
        call_on_loop(loop, lambda: calls.append("second"))
        calls.append("first")

    call_on_loop(loop, first)
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert calls == ["first", "second"]


def test_one_that_fails_is_told_and_keeps_no_other_from_its_turn() -> None:
    loop, calls, told = CountingLoop(), list[str](), list[str]()
    loop.set_exception_handler(lambda _, context: told.append(repr(context["exception"])))

    call_on_loop(loop, lambda: 1 / 0)
    call_on_loop(loop, lambda: calls.append("next"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert calls == ["next"]
    assert told == ["ZeroDivisionError('division by zero')"]


def test_a_closed_loop_takes_nothing_also_when_it_was_closed_before_its_calls() -> None:
    loop = CountingLoop()
    assert call_on_loop(loop, lambda: None)
    loop.close()

    assert not call_on_loop(loop, lambda: None)
    assert not call_on_loop(loop, lambda: None)


def test_ctrl_c_in_one_keeps_no_other_from_its_turn() -> None:
    loop, calls = CountingLoop(), list[str]()

    def interrupted() -> None:
        raise KeyboardInterrupt

    call_on_loop(loop, interrupted)
    call_on_loop(loop, lambda: calls.append("next"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(TIMEOUT_S))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert calls == ["next"]
