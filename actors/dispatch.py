"""How actors are run: many on a few threads, or one on a thread of its own.

Both kinds are Pykka actors on Pykka's hooks for new actor types, with a loop of their own: an exception of any kind in
a handler ends at most that actor, every ask is answered, and nothing is global to the process. An actor's messages are
handled one at a time and in order; an actor that waits for messages costs its mailbox and nothing else.
"""

import itertools
import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

import pykka
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from commitcast.actors.future import Future, remaining
from commitcast.actors.mailbox import Mailbox

logger: Final = logging.getLogger(__name__)

WORKERS: Final = 4
"""Threads for pooled actors. Their handlers do not block, so more would only wait for the interpreter's lock."""
TURN_MESSAGES: Final = 64
"""What one actor handles before another gets the thread."""

_numbers: Final = itertools.count(1)


class Flag:
    """Whether an actor has stopped: what Pykka keeps in an `Event`, without the event's lock and queue."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it."""
        self._set = True


class ActorBase(pykka.Actor):
    """What the two kinds have in common: the turn, and what becomes of an error in it."""

    def __init__(self, name: str) -> None:
        # Pykka's own makes an Event, a UUID and a place in a process-wide list for each actor.
        self.actor_urn = f"urn:commitcast:{next(_numbers)}"
        self.actor_inbox: Mailbox = self._create_actor_inbox()
        self.actor_stopped: Any = Flag()
        self._actor_ref = pykka.ActorRef(self)
        self._name = name

    def __str__(self) -> str:
        return f"{type(self).__name__}-{self._name}"

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Make and start an actor; raises what its `on_start` raises."""
        actor = cls(*args, **kwargs)
        actor._start_actor_loop()
        return actor.actor_ref

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> Future[Any]:
        return Future()

    def is_mailbox_empty(self) -> bool:
        """Whether nothing waits to be handled."""
        return self.actor_inbox.empty()

    def take_turn(self, budget: int) -> None:
        """Handle messages until none waits or the budget is used up. One thread at a time."""
        mailbox, stopped = self.actor_inbox, self.actor_stopped
        for _ in range(budget):
            if stopped.is_set():
                break
            try:
                envelope = mailbox.get()
            except IndexError:
                break
            self._deliver(envelope)
        if not stopped.is_set():
            mailbox.turn_ended()

    def _deliver(self, envelope: Envelope[Any]) -> None:
        message, reply_to = envelope.message, envelope.reply_to
        if isinstance(message, _ActorStop):
            self._finish(self.on_stop)
            if reply_to is not None:
                reply_to.set(None)
            return
        try:
            response = self._handle_receive(message)
            if reply_to is not None:
                reply_to.set(response)
        except BaseException as error:  # SystemExit and CancelledError too: one handler must not end the others
            is_ordinary = isinstance(error, Exception)
            if reply_to is not None:
                logger.debug("%s answers with %r", self, error)
                reply_to.set_exception(sys.exc_info())
            if reply_to is None or not is_ordinary:
                logger.error("%s failed and is stopped", self, exc_info=error)
                failure = sys.exc_info()
                self._finish(lambda: self.on_failure(*failure))

    def _finish(self, last_words: Callable[[], object]) -> None:
        self.actor_stopped.set()
        try:
            last_words()
        except Exception:  # whatever it is, the mailbox must still be closed
            logger.exception("%s failed while stopping", self)
        self.actor_inbox.close()

    def _refuse(self, envelope: Envelope[Any]) -> None:
        """Answer what reached the mailbox too late."""
        if envelope.reply_to is None:
            logger.debug("%s was not there for %r", self, type(envelope.message).__name__)
        elif isinstance(envelope.message, _ActorStop):
            envelope.reply_to.set(None)
        else:
            error = pykka.ActorDeadError(f"{self} stopped before handling the message")
            envelope.reply_to.set_exception((pykka.ActorDeadError, error, None))


class Dispatcher:
    """A few threads that give turns to any number of pooled actors."""

    def __init__(self, name: str, workers: int = WORKERS) -> None:
        self._ready: queue.SimpleQueue[PooledActor | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def schedule(self, actor: "PooledActor") -> None:
        """Give an actor a turn soon. Any thread; never blocks."""
        self._ready.put(actor)

    def stop(self) -> None:
        """End the threads once the turns that are scheduled are over. Blocks, but not for the thread that calls."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while (actor := self._ready.get()) is not None:
            actor.take_turn(TURN_MESSAGES)
            del actor  # or an idle worker would keep a dead actor


class PooledActor(ActorBase):
    """An actor that shares the threads of a dispatcher. Its handlers must not block."""

    def __init__(self, name: str, dispatcher: Dispatcher) -> None:
        super().__init__(name)
        self._dispatcher = dispatcher

    def _start_actor_loop(self) -> None:
        self.on_start()
        self.actor_inbox.open(lambda: self._dispatcher.schedule(self), self._refuse)


class PinnedActor(ActorBase):
    """An actor with a thread of its own, named `<Actor>-<name>`. Its handlers may block."""

    budget: ClassVar[int] = 4_096

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()

    def _start_actor_loop(self) -> None:
        self.on_start()
        self.actor_inbox.open(lambda: self._turns.put(None), self._refuse)
        # A host that forgets to stop its runtime must still be able to exit; what is not committed was never promised.
        threading.Thread(target=self._run, name=str(self), daemon=True).start()

    def _run(self) -> None:
        while not self.actor_stopped.is_set():
            self._turns.get()
            self.take_turn(self.budget)


def stop_actor(ref: pykka.ActorRef[Any] | None, deadline: float) -> None:
    """Stop an actor after what it was sent before; wait until a `time.monotonic()` deadline, half a second at least."""
    try:
        if ref is not None:
            ref.stop(block=True, timeout=max(0.5, remaining(deadline) or 0.0))
    except pykka.Timeout:
        logger.warning("%s did not stop in time", ref)
