"""Turns of verifications: how many of each kind are under way at once, and the order of those that wait for a turn.

A verification that is awaited may take seconds, so without a limit one address could begin any number at once. Whether
there is room is asked of the caller, each time that a turn could begin. A turn that ends is handed to the first that
waits, so that no newcomer is served before it. Runs on one event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable

HasRoom = Callable[[int], bool]
"""Whether this many may be under way at once, which is true of one; or it raises why nothing may begin at all."""
_Turn = asyncio.Future[None]


class _Lane:
    """The turns of one kind."""

    __slots__ = ("count", "waiting")

    def __init__(self) -> None:
        self.count = 0
        """Under way, those included that were handed a turn and have not run since."""
        self.waiting: OrderedDict[_Turn, HasRoom] = OrderedDict()

    def hand_on(self) -> None:
        """Hand turns to those that wait, in their order, as far as there is room."""
        while self.waiting:
            turn, has_room = next(iter(self.waiting.items()))
            if not turn.done():  # else it was cancelled
                try:
                    if not has_room(self.count + 1):
                        return
                except Exception as reason:  # of any kind: it is the waiting one's
                    turn.set_exception(reason)
                else:
                    self.count += 1
                    turn.set_result(None)
            del self.waiting[turn]


class Turns:
    """The turns of all kinds; kinds without any take no memory."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def take(self, kind: Hashable, has_room: HasRoom) -> bool:
        """Begin a turn at once, if none waits and there is room; return whether it began.

        Raises:
            Exception: what `has_room` raises.
        """
        lane = self._lanes.get(kind)
        if lane is None:
            if not has_room(1):
                return False
            lane = self._lanes[kind] = _Lane()
        elif lane.waiting or not has_room(lane.count + 1):
            return False
        lane.count += 1
        return True

    async def wait(self, kind: Hashable, has_room: HasRoom) -> None:
        """Begin a turn as soon as there is room, after those that wait already. Cancelling is safe.

        Call it right after `take` has returned False: others are under way, and their ends are what ends the wait.

        Raises:
            Exception: what `has_room` raises.
        """
        lane = self._lanes[kind]
        turn: _Turn = asyncio.get_running_loop().create_future()
        lane.waiting[turn] = has_room
        try:
            await turn
        except asyncio.CancelledError:
            lane.waiting.pop(turn, None)
            if not turn.cancelled() and turn.exception() is None:  # it was handed over at the same time
                self.leave(kind)
            raise

    def leave(self, kind: Hashable) -> None:
        """End a turn: the first that waits may begin."""
        lane = self._lanes[kind]
        lane.count -= 1
        lane.hand_on()
        if not lane.count:
            del self._lanes[kind]
