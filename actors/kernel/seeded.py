"""A dispatcher without concurrency: one thread at a time runs, in an order that a seed decides, by a virtual clock.

The same seed gives the same order, and `trace` says what it was. What may happen at the same time in production happens
here in one of its possible orders; another seed gives another. Public as part of `actors.testing`.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.errors import DeadlockError
from commitcast.actors.kernel.fiber import Fiber
from commitcast.actors.kernel.timers import Timer
from commitcast.actors.kernel.waiting import Signal, scheduled_by, this_thread

MAX_STEPS: Final = 1_000_000
"""Actors that are not at rest after that many steps never will be."""


class SeededDispatcher:
    """Gives turns in an order that a seed decides. Used by one thread, inside `with`.

    While it is entered, every call that blocks on this thread (`future.get`, `Signal.wait`) runs actors and fibers
    instead; time passes only when none of them has work. A fiber that waits is put aside until the event that it waits
    for. An event loop that a fiber runs by this clock is run like any other work; the clock goes on slowly while the
    loop has sockets, and does not wait for other threads (`asyncio.to_thread`).

    Example:
        with SeededDispatcher(seed=1) as dispatcher:
            fired = []
            dispatcher.call_later(3_600, lambda: fired.append(dispatcher.now()))
            dispatcher.run()  # at once: the clock is virtual
            assert fired == [3_600]
    """

    def __init__(self, seed: int) -> None:
        """Begin at time 0 with nothing to do."""
        self.dead_letters = DeadLetters()
        self.trace: list[str] = []
        """What ran, in order: the time, and the actor with the number of messages that it might handle."""
        self._random = random.Random(seed)
        self._ready: list[Actor | Fiber] = []
        self._blocked: list[Fiber] = []
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._scheduling: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        self._scheduling = scheduled_by(self)
        self._scheduling.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._scheduling is not None
        self._scheduling.__exit__(kind, error, traceback)
        blocked, self._blocked = self._blocked, []
        for fiber in blocked:
            fiber.abandon()

    # What actors ask of a dispatcher.

    def schedule(self, actor: Actor) -> None:
        """Give an actor a turn, some time."""
        self._ready.append(actor)

    def try_run_inline(self, actor: Actor) -> None:
        """Let an actor handle one message now or later, as the seed says."""
        if this_thread.in_turn or self._random.random() < 0.5:
            self._ready.append(actor)
        else:
            self._run(actor, 1)

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Call `work` some time; what blocks in it lets others run."""
        self._ready.append(Fiber(name, work, self._block))

    def run_together(self, call: Callable[[], object], *, inline: bool) -> None:
        """Only call: every turn is taken on the one thread there is."""
        call()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` when the clock has gone on by `delay_s`."""
        timer = Timer(self._now + delay_s, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def now(self) -> float:
        """Return the seconds of the virtual clock."""
        return self._now

    def stop(self) -> None:
        """Do nothing: there are no threads."""

    # What a test does.

    def step(self, until: float | None = None) -> bool:
        """Give a turn to one of the actors that have work, or else let the next timer fire.

        Args:
            until: the time beyond which no timer fires.

        Returns:
            Whether there was work, or a timer.
        """
        self._unblock(lambda fiber: fiber.waits_for is not None and fiber.waits_for.is_set)
        if self._ready:
            chosen = self._ready.pop(self._random.randrange(len(self._ready)))
            if isinstance(chosen, Fiber):
                self._note(chosen.name)
                chosen.resume()
            else:
                self._run(chosen, self._random.choice((1, 2, chosen.turn_messages)))
            return True
        if self._timers and (until is None or self._timers[0].due <= until):
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.due)
            timer.fire()
            return True
        return False

    def run(self) -> None:
        """Go on until no actor has work and no timer is left."""
        for _ in range(MAX_STEPS):
            if not self.step():
                return
        raise DeadlockError(f"the actors are not idle after {MAX_STEPS} steps; the last were {self.trace[-5:]}")

    def pause(self) -> None:
        """Let other actors run for up to three steps, as the seed says. For a fiber, between two steps of its work."""
        for _ in range(self._random.randrange(4)):
            self.step(until=self._now)

    def run_until(self, signal: Signal, timeout: float | None) -> bool:
        """Run until a signal is set, or the clock has gone on by `timeout` seconds. See `waiting.Scheduler`."""
        until = None if timeout is None else self._now + timeout
        while not signal.is_set:
            if not self.step(until):
                if until is None:
                    raise DeadlockError(f"what the test waits for cannot happen; the last steps were {self.trace[-5:]}")
                self._now = max(self._now, until)
                return False
        return True

    def _block(self, fiber: Fiber, timeout_s: float | None) -> None:
        """Put a fiber aside until its signal is given or its time is up."""
        self._blocked.append(fiber)
        if timeout_s is not None:
            signal = fiber.waits_for
            self.call_later(timeout_s, lambda: self._unblock(lambda blocked: blocked.waits_for is signal))

    def _unblock(self, is_due: Callable[[Fiber], bool]) -> None:
        """Make those fibers ready that are due."""
        due = [fiber for fiber in self._blocked if is_due(fiber)]
        self._ready += due
        self._blocked = [fiber for fiber in self._blocked if fiber not in due]

    def _run(self, actor: Actor, limit: int) -> None:
        self._note(f"{type(actor).__name__}-{actor.name} {limit}")
        this_thread.in_turn = True
        try:
            actor.take_turn(limit)
        finally:
            this_thread.in_turn = False

    def _note(self, what: str) -> None:
        self.trace.append(f"{self._now:.6f} {what}")
