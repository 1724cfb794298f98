"""The bound on what is on its way: kept exactly, given back exactly, and nobody waits for ever."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.errors import BackpressureError
from waiting import TIMEOUT_S, wait_until


def test_the_bound_in_messages_is_kept() -> None:
    credit = CreditLimiter(agent_messages=2, agent_bytes=1_000)

    assert [credit.try_acquire("a", 1) for _ in range(3)] == [True, True, False]
    credit.release("a", 1, 1)
    assert credit.try_acquire("a", 1)


def test_the_bound_in_bytes_is_kept_but_one_large_message_passes_alone() -> None:
    credit = CreditLimiter(agent_messages=100, agent_bytes=10)

    assert credit.try_acquire("a", 50)
    assert not credit.try_acquire("a", 1)
    credit.release("a", 1, 50)
    assert credit.try_acquire("a", 6)
    assert not credit.try_acquire("a", 5)
    assert credit.try_acquire("a", 4)


def test_the_bound_over_all_agents_holds_for_all_together() -> None:
    credit = CreditLimiter(agent_messages=2, agent_bytes=1_000, all_messages=3, all_bytes=1_000)

    assert [credit.try_acquire(agent, 1) for agent in ("a", "a", "b", "b")] == [True, True, True, False]
    credit.release("a", 2, 2)
    assert credit.try_acquire("b", 1)
    assert credit.is_idle("a") and not credit.is_idle("b")
    assert (credit.messages, credit.size) == (2, 2)


def test_who_waits_in_vain_is_refused_and_counted_nowhere() -> None:
    credit = CreditLimiter(agent_messages=1)
    credit.acquire("agent-7", 1, 0)

    with pytest.raises(BackpressureError, match="agent-7"):
        credit.acquire("agent-7", 1, 0)

    credit.release("agent-7", 1, 1)
    assert credit.is_idle("agent-7") and credit.messages == 0


def test_who_waits_is_woken_when_half_of_the_bound_is_free() -> None:
    credit = CreditLimiter(agent_messages=4)
    for _ in range(4):
        credit.acquire("a", 1, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(credit.acquire, "a", 1, TIMEOUT_S)
        wait_until(lambda: credit.has_waiters, "a thread to wait")

        credit.release("a", 1, 1)
        assert credit.has_waiters
        credit.release("a", 1, 1)

        waiting.result(TIMEOUT_S)
    assert credit.messages == 3


@pytest.mark.parametrize(("agent_messages", "all_messages"), [(2, 3), (3, 2), (1, 1)])
def test_many_threads_pass_one_by_one_and_none_is_forgotten(agent_messages: int, all_messages: int) -> None:
    credit = CreditLimiter(agent_messages=agent_messages, all_messages=all_messages)
    inside, most, lock = 0, 0, threading.Lock()

    def pass_through(number: int) -> None:
        nonlocal inside, most
        agent = f"agent-{number % 2}"
        for _ in range(50):
            credit.acquire(agent, 1, TIMEOUT_S)
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            credit.release(agent, 1, 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pass_through, range(8)))

    assert most <= all_messages
    assert credit.is_idle("agent-0") and credit.is_idle("agent-1") and credit.messages == credit.size == 0


def test_a_loop_awaits_without_blocking_and_a_cancelled_wait_counts_nothing() -> None:
    credit = CreditLimiter(agent_messages=1)
    credit.acquire("a", 1, 0)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await credit.acquire_async("a", 1)
        assert not credit.has_waiters
        waiting = asyncio.create_task(credit.acquire_async("a", 1))
        await asyncio.sleep(0)
        threading.Thread(target=credit.release, args=("a", 1, 1)).start()
        async with asyncio.timeout(TIMEOUT_S):
            await waiting

    asyncio.run(scenario())
    credit.release("a", 1, 1)
    assert credit.is_idle("a")


class ReleasedBefore:
    """The limiter's lock, before which something is released by who still sees nobody wait."""

    def __init__(self, credit: CreditLimiter) -> None:
        self._credit, self._lock = credit, credit._lock

    def __enter__(self) -> None:
        self._credit._lock = self._lock
        self._credit.release("a", 1, 1)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_what_is_released_while_a_sender_begins_to_wait_wakes_it() -> None:
    credit = CreditLimiter(agent_messages=1)
    assert credit.try_acquire("a", 1)
    credit._lock = ReleasedBefore(credit)  # type: ignore[assignment]
    freed: list[bool] = []

    assert not credit.try_acquire("a", 1, lambda: freed.append(True))

    assert freed == [True] and not credit.has_waiters
    assert credit.try_acquire("a", 1)
