"""The bound on what is on its way: kept exactly, given back exactly, and nobody waits for ever."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from commitcast.actors.errors import BackpressureError
from commitcast.actors.flow import FlowGate
from waiting import TIMEOUT_S


def test_the_bound_in_messages_is_kept() -> None:
    gate = FlowGate("a", 2, 1_000)

    assert [gate.try_acquire(1) for _ in range(3)] == [True, True, False]
    gate.release(1, 1)
    assert gate.try_acquire(1)


def test_the_bound_in_bytes_is_kept_but_one_large_message_passes_alone() -> None:
    gate = FlowGate("a", 100, 10)

    assert gate.try_acquire(50)
    assert not gate.try_acquire(1)
    gate.release(1, 50)
    assert gate.try_acquire(6)
    assert not gate.try_acquire(5)
    assert gate.try_acquire(4)


def test_the_parents_bound_holds_for_all_children_together() -> None:
    parent = FlowGate("all", 3, 1_000)
    children = [FlowGate(str(number), 2, 1_000, parent) for number in range(2)]

    assert [children[0].try_acquire(1), children[0].try_acquire(1), children[1].try_acquire(1)] == [True] * 3
    assert not children[1].try_acquire(1)
    children[0].release(2, 2)
    assert children[1].try_acquire(1)


def test_who_waits_in_vain_is_refused_and_counted_nowhere() -> None:
    gate = FlowGate("agent-7", 1, 1_000)
    gate.acquire(1, 0)

    with pytest.raises(BackpressureError, match="agent-7"):
        gate.acquire(1, 0)

    gate.release(1, 1)
    assert gate.is_idle


def test_many_threads_pass_one_by_one_and_none_is_forgotten() -> None:
    parent = FlowGate("all", 3, 1_000)
    gate = FlowGate("a", 2, 1_000, parent)
    inside, most, lock = 0, 0, threading.Lock()

    def pass_through(_: int) -> None:
        nonlocal inside, most
        for _ in range(50):
            gate.acquire(1, TIMEOUT_S)
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            gate.release(1, 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pass_through, range(8)))

    assert most <= 2
    assert gate.is_idle and parent.is_idle


def test_a_loop_awaits_without_blocking_and_a_cancelled_wait_counts_nothing() -> None:
    gate = FlowGate("a", 1, 1_000)
    gate.acquire(1, 0)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await gate.acquire_async(1)
        waiting = asyncio.create_task(gate.acquire_async(1))
        await asyncio.sleep(0)
        threading.Thread(target=gate.release, args=(1, 1)).start()
        async with asyncio.timeout(TIMEOUT_S):
            await waiting

    asyncio.run(scenario())
    gate.release(1, 1)
    assert gate.is_idle
