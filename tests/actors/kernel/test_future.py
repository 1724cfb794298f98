"""Futures: completed once, read by threads and loops, never blocking a loop."""

import asyncio
import queue
import threading
from collections.abc import Iterable
from typing import Any

import pykka
import pytest

from commitcast.actors.errors import FutureTimeoutError
from commitcast.actors.kernel.future import Future

SECONDS = 10.0


def test_get_returns_the_value_to_every_thread_that_waits() -> None:
    future: Future[int] = Future()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(future.get(SECONDS))) for _ in range(8)]
    for thread in threads:
        thread.start()

    future.set(42)

    for thread in threads:
        thread.join(SECONDS)
    assert found == [42] * 8


def test_get_raises_the_error_itself() -> None:
    error = LookupError("gone")
    future: Future[int] = Future.failed(error)

    with pytest.raises(LookupError) as raised:
        future.get()

    assert raised.value is error


def test_a_deadline_that_passes_is_a_timeout_in_every_dialect_and_leaves_the_future_usable() -> None:
    future: Future[int] = Future()

    for kind in (FutureTimeoutError, TimeoutError, pykka.Timeout):
        with pytest.raises(kind):
            future.get(timeout=0)

    future.set(1)
    assert future.get() == 1


def test_it_is_completed_once() -> None:
    future: Future[int] = Future()
    future.set(1)

    with pytest.raises(queue.Full):
        future.set(2)

    assert future.get() == 1


def test_callbacks_run_once_before_or_after_and_a_failing_one_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    future: Future[int] = Future()
    calls: list[int] = []

    def fails(_: Future[int]) -> None:
        raise RuntimeError("a caller's mistake")

    future.add_done_callback(fails)
    future.add_done_callback(lambda done: calls.append(done.get()))
    future.set(7)
    future.add_done_callback(lambda done: calls.append(done.get()))

    assert calls == [7, 7]
    assert "a caller's mistake" in caplog.text


def test_await_leaves_the_loop_running() -> None:
    future: Future[str] = Future()

    async def scenario() -> tuple[str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            for _ in range(100):
                await asyncio.sleep(0)
                ticks += 1
            threading.Thread(target=future.set, args=("answer",)).start()

        ticking = asyncio.create_task(tick())
        answer = await future
        await ticking
        return answer, ticks

    assert asyncio.run(scenario()) == ("answer", 100)


def test_a_cancelled_await_leaves_the_future_as_it_is() -> None:
    future: Future[str] = Future()

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await future

    asyncio.run(scenario())
    future.set("later")  # also reaches a waiter whose loop is closed

    assert future.get() == "later"


def test_to_cancel_comes_in_time_until_there_is_an_answer() -> None:
    future = Future[int]()

    assert future.cancel() and future.is_unwanted

    future.set(1)
    assert future.get(0) == 1 and not future.cancel()


def test_callbacks_added_while_it_is_completed_run_once_each() -> None:
    for _ in range(200):
        future: Future[int] = Future()
        barrier = threading.Barrier(3)
        calls: list[int] = []

        def complete(future: Future[int] = future, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(SECONDS)
            future.set(1)

        def listen(
            future: Future[int] = future, calls: list[int] = calls, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(SECONDS)
            for number in range(5):
                future.add_done_callback(lambda _, number=number: calls.append(number))  # type: ignore[misc]

        threads = [threading.Thread(target=work) for work in (complete, listen, listen)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)

        assert sorted(calls) == sorted([*range(5), *range(5)])


def test_map_passes_values_and_errors_at_once() -> None:
    future: Future[int] = Future()
    doubled = future.map(lambda value: value * 2)
    failed: Future[int] = Future.failed(KeyError("x"))

    future.set(4)

    assert doubled.get(0) == 8
    assert isinstance(failed.map(str).exception(0), KeyError)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
def test_map_passes_what_would_end_a_thread_too(error: BaseException) -> None:
    future: Future[int] = Future()
    mapped = future.map(str)

    future.fail(error)

    assert mapped.exception(0) is error


def test_callbacks_are_told_of_what_is_made_of_other_futures() -> None:
    """Pykka's own compute in `get`, so a callback of theirs would never be called."""
    first, second, numbers = Future[int](), Future[int](), Future[Iterable[int]]()
    made: list[Future[Any]] = [
        first.join(second),
        numbers.filter(lambda number: number > 1),
        numbers.reduce(lambda total, number: total + number, 10),
    ]
    told: list[object] = []
    for future in made:
        future.add_done_callback(lambda done: told.append(done.get()))

    numbers.set([1, 2, 3])
    second.set(2)
    assert told == [[2, 3], 16]
    first.set(1)

    assert told == [[2, 3], 16, [1, 2]]


def test_of_joined_futures_the_first_error_in_order_passes_once_all_are_complete() -> None:
    first, second, third = Future[int](), Future[int](), Future[int]()
    joined = first.join(second, third)

    third.fail(KeyError("third"))
    second.fail(LookupError("second"))
    assert not joined.done()
    first.set(1)

    assert str(joined.exception(0)) == "second"


def test_joined_futures_that_are_complete_already_are_complete_however_many() -> None:
    futures = [Future.of(number) for number in range(5_000)]

    assert futures[0].join(*futures[1:]).get(0) == list(range(5_000))


def test_many_threads_complete_joined_futures_once() -> None:
    for _ in range(50):
        futures = [Future[int]() for _ in range(8)]
        joined = futures[0].join(*futures[1:])
        threads = [threading.Thread(target=future.set, args=(number,)) for number, future in enumerate(futures)]
        for thread in threads:
            thread.start()

        assert joined.get(SECONDS) == list(range(8))
        for thread in threads:
            thread.join(SECONDS)


def test_there_are_no_get_hooks_and_the_error_says_what_to_use() -> None:
    with pytest.raises(NotImplementedError, match="derive one with `map`"):
        Future[int]().set_get_hook(lambda timeout: 1)
