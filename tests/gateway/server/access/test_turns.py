"""Turns: a bound on what is under way at once, in the order of the calls, and nothing left of those who gave up."""

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from commitcast.gateway.server.access.turns import HasRoom, Turns

SEED: Final = int(os.environ.get("COMMITCAST_SEED", "0"))


def up_to(limit: int) -> HasRoom:
    return lambda count: count <= limit


async def settled() -> None:
    """Let everything run that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


def play(scenario: Callable[[Turns], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario, after which no turn is left."""

    async def bounded() -> None:
        turns = Turns()
        async with asyncio.timeout(10):
            await scenario(turns)
        assert len(turns) == 0

    asyncio.run(bounded())


def test_those_who_wait_come_in_the_order_of_their_calls_and_no_newcomer_before_them() -> None:
    async def scenario(turns: Turns) -> None:
        begun: list[str] = []

        async def wait(name: str) -> None:
            await turns.wait("a", up_to(1))
            begun.append(name)

        assert turns.take("a", up_to(1))
        assert not turns.take("a", up_to(1))
        waiting = [asyncio.create_task(wait(name)) for name in ("first", "second")]
        await settled()
        assert begun == []
        turns.leave("a")
        assert not turns.take("a", up_to(2)), "one is waiting, so a newcomer is not served"
        await settled()
        assert begun == ["first"]
        turns.leave("a")
        await asyncio.gather(*waiting)
        assert begun == ["first", "second"]
        turns.leave("a")

    play(scenario)


def test_each_kind_has_its_own_turns() -> None:
    async def scenario(turns: Turns) -> None:
        assert turns.take("a", up_to(1)) and turns.take("b", up_to(1))
        assert len(turns) == 2
        turns.leave("a")
        turns.leave("b")

    play(scenario)


@pytest.mark.parametrize("is_handed", [False, True], ids=["while it waits", "with the turn in its hand"])
def test_a_turn_of_one_who_is_cancelled_goes_to_the_next(is_handed: bool) -> None:
    async def scenario(turns: Turns) -> None:
        turns.take("a", up_to(1))
        first, second = (asyncio.create_task(turns.wait("a", up_to(1))) for _ in range(2))
        await settled()
        if is_handed:
            turns.leave("a")
        first.cancel()
        await asyncio.wait({first})
        if not is_handed:
            turns.leave("a")
        await second
        turns.leave("a")

    play(scenario)


def test_one_who_was_cancelled_and_has_not_run_since_is_handed_nothing() -> None:
    async def scenario(turns: Turns) -> None:
        turns.take("a", up_to(1))
        waiting = asyncio.create_task(turns.wait("a", up_to(1)))
        await settled()
        waiting.cancel()
        turns.leave("a")
        await asyncio.wait({waiting})

    play(scenario)


def test_nothing_is_kept_of_those_who_gave_up_behind_one_who_still_waits() -> None:
    async def scenario(turns: Turns) -> None:
        turns.take("a", up_to(1))
        waiting = [asyncio.create_task(turns.wait("a", up_to(1))) for _ in range(100)]
        await settled()
        for each in waiting[1:]:
            each.cancel()
        await asyncio.wait(waiting[1:])
        assert len(turns._lanes["a"].waiting) == 1
        turns.leave("a")
        await waiting[0]
        turns.leave("a")

    play(scenario)


def test_one_who_finds_less_room_than_before_waits_on_ahead_of_the_others() -> None:
    async def scenario(turns: Turns) -> None:
        room = 3
        begun: list[int] = []

        async def wait(number: int) -> None:
            await turns.wait("a", lambda count: count <= room)
            begun.append(number)

        for _ in range(3):
            turns.take("a", lambda count: count <= room)
        waiting = [asyncio.create_task(wait(number)) for number in range(2)]
        await settled()
        room = 1
        for left in (2, 1):
            turns.leave("a")
            await settled()
            assert begun == [], f"{left} are under way, and there is room for one"
        turns.leave("a")
        await settled()
        assert begun == [0]
        turns.leave("a")
        await asyncio.gather(*waiting)
        assert begun == [0, 1]
        turns.leave("a")

    play(scenario)


def test_once_nothing_may_begin_all_who_wait_are_told_why() -> None:
    async def scenario(turns: Turns) -> None:
        def closed(count: int) -> bool:
            raise PermissionError("closed")

        turns.take("a", up_to(1))
        waiting = [asyncio.create_task(turns.wait("a", closed)) for _ in range(5)]
        await settled()
        turns.leave("a")
        reasons = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(reason) for reason in reasons] == ["closed"] * 5
        with pytest.raises(PermissionError):
            turns.take("a", closed)

    play(scenario)


def test_any_order_of_calls_ends_and_cancels_keeps_the_bound_and_strands_nobody() -> None:
    dice = random.Random(SEED)

    async def scenario(turns: Turns) -> None:
        under_way, most, done = 0, 4, 0

        def has_room(count: int) -> bool:
            return count <= most

        async def visit() -> None:
            nonlocal under_way, done
            if not turns.take("a", has_room):
                await turns.wait("a", has_room)
            try:
                under_way += 1
                assert under_way <= 4
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                under_way -= 1
                turns.leave("a")
            done += 1

        visits = []
        for _ in range(500):
            visits.append(asyncio.create_task(visit()))
            most = dice.randint(1, 4)
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            if dice.random() < 0.3:
                dice.choice(visits).cancel()
        outcomes = await asyncio.gather(*visits, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {type(None), asyncio.CancelledError}
        assert done == outcomes.count(None) > 100

    play(scenario)
