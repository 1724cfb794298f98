"""How actors are run: many on a few threads, or one on a thread of its own.

All are Pykka actors on Pykka's hooks for new actor types, with a loop of their own: an exception of any kind in a
handler ends at most that actor, every ask is answered, and no registry of the process knows them. An actor's messages
are handled one at a time and in order; an actor that waits for messages costs its mailbox and nothing else.
"""

import _signal  # type: ignore[import-not-found]  # no stubs; see `is_interruptible`
import asyncio
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol
from weakref import WeakSet

import pykka

from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.future import remaining
from commitcast.actors.kernel.timers import Timer, Timers
from commitcast.actors.kernel.waiting import this_thread

logger: Final = logging.getLogger(__name__)

WORKERS: Final = 2
"""Threads for pooled actors. Their handlers hold the interpreter's lock, so more would only wait for it; a second one
serves the others while the first loads an agent from the disk."""
TOGETHER: Final = 256
"""Turns of one call that a thread takes in one go: 1 or 2 ms of work, in which other actors have the other thread."""
_main_thread = threading.main_thread().ident


class RunTogether(Protocol):
    """`Dispatcher.run_together`."""

    def __call__(self, call: Callable[[], object], /, *, inline: bool) -> None: ...


class Dispatcher(Protocol):
    """Gives turns to actors, and calls functions later."""

    dead_letters: DeadLetters
    """Counts the messages that its actors do not handle."""

    def schedule(self, actor: Actor) -> None:
        """Give an actor a turn soon. Any thread; never blocks."""

    def try_run_inline(self, actor: Actor) -> None:
        """Let an actor handle one message on this thread if that can be done, else give it a turn soon."""

    def run_together(self, call: Callable[[], object], *, inline: bool) -> None:
        """Call `call`; then give the actors that it has woken their turns one after another.

        Args:
            call: wakes them.
            inline: on this thread, before the return; else on one of the dispatcher's.
        """

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay_s` seconds. It must not block."""

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Call `work`, which may block, beside everything else."""

    def now(self) -> float:
        """Return the seconds of a clock that only goes forward."""

    def stop(self) -> None:
        """End the threads once the turns that are scheduled are over. Blocks, but not for the thread that calls."""


class _Woken(threading.local):
    """The actors that were woken by this thread in `run_together`; None outside of it."""

    actors: "list[Actor] | None" = None


class ThreadDispatcher:
    """A few threads that give turns to any number of pooled actors."""

    def __init__(
        self,
        name: str,
        workers: int = WORKERS,
        dead_letters: DeadLetters | None = None,
        *,
        may_block: bool = False,
    ) -> None:
        """Start the threads.

        Args:
            name: of the threads: `<name>-<number>`, or just `<name>` if there is one.
            workers: how many.
            dead_letters: counts messages that reach no actor; None makes a counter of its own.
            may_block: whether its actors' handlers may wait for other actors.
        """
        self._may_block = may_block
        self.dead_letters = dead_letters or DeadLetters()
        self._ready: queue.SimpleQueue[Actor | list[Actor] | None] = queue.SimpleQueue()
        self._woken = _Woken()
        self._timers = Timers(name)
        # Daemons: a host that forgets to stop its runtime must still be able to exit, and what is not committed was
        # never promised to anybody.
        self._threads = [
            threading.Thread(target=self._work, name=name if workers == 1 else f"{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        _dispatchers.add(self)

    def _drop_in_child(self) -> None:
        """Let a thread of its own end that has forked, in a callback, and comes back here in the child."""
        self._ready = queue.SimpleQueue()
        self._ready.put(None)

    def schedule(self, actor: Actor) -> None:
        """Give an actor a turn soon."""
        woken = self._woken.actors
        if woken is None:
            self._ready.put(actor)
        else:
            woken.append(actor)

    def try_run_inline(self, actor: Actor) -> None:
        """Let an actor handle one message on this thread, unless this thread is in a turn already.

        On the main thread only under an event loop that takes Ctrl-C as an event, as `asyncio.run` does: else Ctrl-C
        could interrupt the turn between any two steps, and the actor would not wake.
        """
        if this_thread.in_turn or is_interruptible():
            self._ready.put(actor)
            return
        this_thread.in_turn = True
        woken = self._woken.actors = []
        try:
            actor.take_turn(1)
        finally:
            self._woken.actors = None
            self._pass_on(woken)
            this_thread.in_turn = False

    def run_together(self, call: Callable[[], object], *, inline: bool) -> None:
        """Call `call`; then give the actors that it has woken their turns one after another.

        Event loops are woken once, and so is an actor that follows (`Actor.follows_its_senders`): for each of many
        turns these would take the interpreter from the thread that takes them.
        """
        before = self._woken.actors
        woken = self._woken.actors = []
        try:
            call()
        finally:
            self._woken.actors = before
            if inline:
                was_in_turn, this_thread.in_turn = this_thread.in_turn, True
                self._take_turns(woken)
                this_thread.in_turn = was_in_turn
            else:
                for start in range(0, len(woken), TOGETHER):
                    self._ready.put(woken[start : start + TOGETHER])

    def _take_turns(self, actors: list[Actor]) -> None:
        before, gathered_before = self._woken.actors, this_thread.gathered
        woken = self._woken.actors = []
        gathered = this_thread.gathered = {}
        for actor in actors:
            _take_turn(actor)
        self._woken.actors = before
        self._pass_on(woken)
        this_thread.gathered = gathered_before
        for waiting in gathered:  # last: it gives the interpreter to the thread of that loop
            waiting.wake()

    def _pass_on(self, woken: list[Actor]) -> None:
        """Give the actors their turns that were woken in those of others."""
        for actor in woken:
            if actor.follows_its_senders:
                _take_turn(actor)
            else:
                self._ready.put(actor)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay_s` seconds, on the timers' thread."""
        return self._timers.call_later(delay_s, callback)

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Call `work` on a thread of its own."""
        threading.Thread(target=work, name=name, daemon=True).start()

    def now(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def stop(self) -> None:
        """End the threads once the turns that are scheduled are over."""
        _dispatchers.discard(self)
        self._timers.stop()
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        this_thread.in_turn = not self._may_block
        while (ready := self._ready.get()) is not None:
            if isinstance(ready, list):
                self._take_turns(ready)
            elif self._may_block:  # what it wakes does not wait for it
                _take_turn(ready)
            else:
                self._take_turns([ready])
            del ready  # or an idle worker would keep a dead actor


class PinnedActor(Actor):
    """An actor with a thread of its own, named `<Actor>-<name>`. Its handlers may block."""

    turn_messages: ClassVar[int] = 4_096

    def __init__(
        self, name: str, dispatcher: Dispatcher | None = None, dead_letters: DeadLetters | None = None
    ) -> None:
        """Make the actor; its thread begins with it.

        Args:
            name: what to call it; its thread has it too.
            dispatcher: gives it turns in place of a thread of its own (for tests on one thread).
            dead_letters: counts messages that reach no actor, if it has a thread of its own.
        """
        self._own: ThreadDispatcher | None = None
        if dispatcher is None:
            thread_name = f"{type(self).__name__}-{name}"
            dispatcher = self._own = ThreadDispatcher(thread_name, 1, dead_letters, may_block=True)
        super().__init__(name, dispatcher)

    def begin(self) -> None:
        """Start it; its thread ends if that fails. See `Actor.begin`."""
        try:
            super().begin()
        except BaseException:  # Ctrl-C too: its thread ends
            self.on_end()
            raise

    def on_end(self) -> None:
        """End the thread. It may be the one that calls."""
        if self._own is not None:
            self._own.stop()


def is_interruptible() -> bool:
    """Whether Ctrl-C could raise between any two steps of a turn on this thread, after which its actor would not wake.

    True on the main thread without a loop, and under one that leaves Python's handler. Asked for each message:
    `signal.getsignal` looks for a name of the handler, which takes 15 us under `asyncio.run`.
    """
    if threading.get_ident() != _main_thread:
        return False
    return asyncio._get_running_loop() is None or _signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _take_turn(actor: Actor) -> None:
    try:
        actor.take_turn(actor.turn_messages)
    except BaseException:  # a defect of ours, which must not end the thread: the other actors need it
        logger.critical("the turn of %s failed", actor, exc_info=True)


def stop_actor(ref: pykka.ActorRef[Any] | None, deadline: float) -> None:
    """Stop an actor after what it was sent before; wait until a `time.monotonic()` deadline, half a second at least."""
    try:
        if ref is not None:
            ref.stop(block=True, timeout=max(0.5, remaining(deadline) or 0.0))
    except pykka.Timeout:
        logger.warning("%s did not stop in time", ref)


_dispatchers: Final[WeakSet[ThreadDispatcher]] = WeakSet()


def _in_child() -> None:
    global _main_thread
    _main_thread = threading.main_thread().ident  # the one that has forked
    for dispatcher in list(_dispatchers):
        dispatcher._drop_in_child()
    _dispatchers.clear()


os.register_at_fork(after_in_child=_in_child)
