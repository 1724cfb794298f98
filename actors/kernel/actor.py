"""What every actor of ours is: a Pykka actor with a mailbox, turns, and an answer for everybody who asks.

Owns the turn, and what becomes of an error in it: it goes to the asker and to the actor's supervisor, never to another
actor. Which thread takes a turn is the dispatcher's business (`dispatch.py`); it is one at a time.
"""

import itertools
import logging
import secrets
import sys
import uuid
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

import msgspec
import pykka
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from commitcast.actors.errors import MailboxFullError
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Empty, Envelope, Mailbox

logger: Final = logging.getLogger(__name__)

A = TypeVar("A", bound="Actor")

_numbers: Final = itertools.count(1)
_process: Final = secrets.randbits(127)
"""Tells the actors of this process from those of another."""


class ActorStopped(msgspec.Struct, frozen=True):
    """What a watcher is told, once."""

    name: str
    urn: str
    error: BaseException | None
    """Why it failed; None if it was stopped, or was gone before it was watched."""


class Watch(msgspec.Struct, frozen=True):
    """Tell somebody when this actor has stopped."""

    callback: Callable[[ActorStopped], object]


_PROXIED: Final = (ProxyCall, ProxyGetAttr, ProxySetAttr)
_SPECIAL: Final = frozenset({_ActorStop, Watch, *_PROXIED})


class Supervising(Protocol):
    """Who decides what becomes of an actor that failed."""

    def replaces(self, actor: "Actor", error: BaseException) -> bool:
        """Return whether another actor will take its place, so that its mailbox stays open."""

    def lost(self, actor: "Actor", error: BaseException) -> None:
        """Take note that it failed for good; everybody who waited has been answered."""


class StoppedFlag:
    """Pykka's `actor_stopped`, as a view of the mailbox: an `Event` for each actor would cost more than the actor."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def is_set(self) -> bool:
        """Whether the actor has stopped."""
        return self._mailbox.is_stopped

    def set(self) -> None:
        """Let it take no more turns."""
        self._mailbox.is_stopped = True


class ActorRef(pykka.ActorRef[A]):
    """How others reach an actor. Stays valid when the actor is replaced after a failure. Any thread."""

    actor_inbox: Mailbox  # type: ignore[assignment]  # Pykka's protocol is of its own envelopes

    def __init__(self, actor: A) -> None:
        """Made by the actor."""
        super().__init__(actor)
        self._name = str(actor)

    def __str__(self) -> str:
        return self._name

    def tell(self, message: Any) -> None:
        """Send a message. Never blocks.

        Raises:
            pykka.ActorDeadError: there is no actor any more.
            MailboxFullError: as many wait as may wait.
        """
        if self.actor_inbox.is_stopped:
            raise pykka.ActorDeadError(f"{self} not found")
        if not self.actor_inbox.offer(Envelope(message)):
            raise MailboxFullError(str(self), self.actor_inbox.limit_messages or 0)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and get the answer, or with `block=False` its future. The answer always comes.

        Args:
            message: what to send.
            block: wait for the answer.
            timeout: seconds in all; None waits for ever.
        """
        future: Future[Any] = Future()
        if self.actor_inbox.is_stopped:
            future.fail(pykka.ActorDeadError(f"{self} not found"))
        elif not self.actor_inbox.offer(Envelope(message, future)):
            future.fail(MailboxFullError(str(self), self.actor_inbox.limit_messages or 0))
        return future.get(timeout=timeout) if block else future

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Stop the actor once it has handled what it was sent before. Never refused, however full its mailbox.

        Returns:
            Whether it was alive; with `block=False` the future of that.
        """
        if self.actor_inbox.is_stopped:
            stopped: Future[bool] = Future.of(False)
        else:
            asked: Future[Any] = Future()
            stopped = asked.map_result(lambda _: True)
            self.actor_inbox.put(Envelope(_ActorStop(), asked))
        return stopped.get(timeout=timeout) if block else stopped

    def watch(self, callback: Callable[[ActorStopped], object]) -> None:
        """Call `callback` once when the actor has stopped or failed for good; at once if it is gone.

        Pass another ref's `tell` to be told by message. Called on the thread of the actor's last turn; must not block.
        """
        self.actor_inbox.put(Envelope(Watch(callback)))


class Actor(pykka.Actor):
    """What pooled and pinned actors have in common."""

    mailbox_limit_messages: ClassVar[int | None] = None
    """How many ordinary messages may wait for it; None where the senders keep the bound."""

    actor_inbox: Mailbox  # type: ignore[assignment]  # see `ActorRef`
    supervisor: Supervising | None = None
    _asker: Future[Any] | None = None
    _watching: "list[Callable[[ActorStopped], object]] | None" = None
    _ref: "ActorRef[Any] | None" = None

    def __init__(self, name: str, dead_letters: DeadLetters) -> None:
        # Pykka's own makes an Event, a UUID, a ref and a place in a process-wide list for each actor.
        self.number = next(_numbers)
        self.name = name
        self._dead_letters = dead_letters
        self.actor_inbox = self._create_actor_inbox()

    def __str__(self) -> str:
        return f"{type(self).__name__}-{self.name} ({self.actor_urn})"

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> ActorRef[Self]:
        """Make and start an actor; raises what its `on_start` raises."""
        actor = cls(*args, **kwargs)
        actor._start_actor_loop()
        return actor.actor_ref

    def _create_actor_inbox(self) -> Mailbox:  # type: ignore[override]  # Pykka calls it on the instance too
        return Mailbox(self.mailbox_limit_messages)

    @staticmethod
    def _create_future() -> Future[Any]:
        return Future()

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # Pykka's is made beforehand, ours when it is asked for
        """What tells this actor from every other in the process."""
        return uuid.UUID(int=_process + self.number, version=4).urn

    @property
    def actor_stopped(self) -> Any:  # type: ignore[override]  # as above
        """Whether it has stopped."""
        return StoppedFlag(self.actor_inbox)

    @property
    def actor_ref(self) -> ActorRef[Self]:
        """How others reach it."""
        if self._ref is None:
            self._ref = ActorRef(self)
        return self._ref

    def wake(self) -> None:
        """Have a turn scheduled: there is work, and none is scheduled or under way."""
        raise NotImplementedError

    def wake_here(self) -> None:
        """Take a turn on this thread if that can be done, else have one scheduled."""
        self.wake()

    # What an actor may do.

    def reply_later(self) -> Future[Any] | None:
        """Take over the answer to the message that is being handled; None if nobody asked. Complete it in any case."""
        asker, self._asker = self._asker, None
        return asker

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for the answer to the message that is being handled."""
        return self._asker is not None

    def is_mailbox_empty(self) -> bool:
        """Whether nothing waits to be handled."""
        return self.actor_inbox.empty()

    # What an actor may define.

    def on_turn_end(self) -> None:
        """Act on what was collected during the turn. An error in it is one of the actor, not of any message."""

    def on_dropped(self, message: Any) -> None:
        """Give back what belongs to a message that is not going to be handled: its asker has cancelled it."""

    def on_end(self) -> None:
        """Give back what the actor itself was given. The very last call."""

    # The turn.

    def take_turn(self, most: int) -> None:
        """Handle `most` messages, or those that wait. One thread at a time; called by the dispatcher."""
        mailbox = self.actor_inbox
        for _ in range(most):
            try:
                envelope = mailbox.get(False)
            except Empty:
                break
            self.handle(envelope)
            if mailbox.is_stopped or mailbox.owner is not self:
                return
        try:
            self.on_turn_end()
        except BaseException as error:  # as in `handle`
            self._crash(error)
        if not mailbox.is_stopped and mailbox.owner is self:
            mailbox.turn_ended()

    def handle(self, envelope: Envelope) -> None:
        """Handle one message and answer it. Raises nothing."""
        message, reply_to = envelope.message, envelope.reply_to
        if reply_to is not None and not reply_to.begin():
            self.on_dropped(message)
            return
        self._asker = reply_to
        try:
            response = self._on_special(message) if type(message) in _SPECIAL else self.on_receive(message)
            asker, self._asker = self._asker, None
            if asker is not None:
                asker.set(response)
        except BaseException as error:  # SystemExit and CancelledError too: one handler must not end the others
            self._on_error(envelope, error)

    def _on_error(self, envelope: Envelope, error: BaseException) -> None:
        """Tell the asker; end the actor if nobody asked, or if it is an error that would end a thread."""
        self._asker = None
        reply_to = envelope.reply_to
        if reply_to is not None and not reply_to.done():
            logger.info("Exception returned from %s to caller:", self, exc_info=error)
            reply_to.set_exception(sys.exc_info())
        if reply_to is None or not isinstance(error, Exception):
            self._crash(error)

    def _on_special(self, message: Any) -> Any:
        if isinstance(message, _ActorStop):
            self.on_turn_end()
            self.stop_now()
            return None
        if isinstance(message, Watch):
            self._watching = [*(self._watching or ()), message.callback]
            return None
        return self._handle_receive(message)  # Pykka's own, for proxies

    # Its end.

    def stop_now(self) -> None:
        """Stop without handling what waits, which is refused. In the actor's own turn only; idempotent."""
        if not self.actor_inbox.is_stopped:
            self._finish(self.on_stop, None)

    def _crash(self, error: BaseException) -> None:
        failure = (type(error), error, error.__traceback__)
        logger.error("Unhandled exception in %s:", self, exc_info=failure)
        self.actor_inbox.owner = None  # nobody takes a turn until a successor has taken over
        if self.supervisor is not None and self.supervisor.replaces(self, error):
            self._call(lambda: self.on_failure(*failure))
            self.on_end()
        else:
            self.actor_inbox.owner = self
            self._finish(lambda: self.on_failure(*failure), error)
            if self.supervisor is not None:
                self.supervisor.lost(self, error)

    def give_up(self, error: BaseException) -> None:
        """End for good an actor that failed and that nothing could take the place of."""
        self.actor_inbox.owner = self
        self._finish(lambda: None, error)
        if self.supervisor is not None:
            self.supervisor.lost(self, error)

    def _finish(self, last_words: Callable[[], object], error: BaseException | None) -> None:
        mailbox = self.actor_inbox
        mailbox.is_stopped = True
        self._call(last_words)
        mailbox.is_closed = True
        if error is not None or not mailbox.empty():
            self.answer_late()
        watching, self._watching = self._watching, None
        for callback in watching or ():
            self._call(lambda callback=callback: callback(self._stopped(error)))  # type: ignore[misc]
        self.on_end()

    def _call(self, last_words: Callable[[], object]) -> None:
        try:
            last_words()
        except BaseException:  # whatever it is, the actor's end must go on
            logger.exception("Unhandled exception in %s:", self)

    def _stopped(self, error: BaseException | None) -> ActorStopped:
        return ActorStopped(self.name, self.actor_urn, error)

    def take_over(self, failed: "Actor") -> None:
        """Take the place of an actor that failed: its ref, its mailbox with what waits in it, its watchers."""
        self.number = failed.number
        self._watching = failed._watching
        self._ref = failed._ref
        self.actor_inbox = failed.actor_inbox
        if self._ref is not None:
            self._ref._actor_weakref = weakref.ref(self)
        self.on_start()
        self.actor_inbox.open(self)

    def answer_late(self) -> None:
        """Answer what reached the mailbox too late. Any thread."""
        while True:
            try:
                envelope = self.actor_inbox.get(False)
            except Empty:
                return
            self.refuse(envelope)

    def refuse(self, envelope: Envelope) -> None:
        """Answer one message that will not be handled."""
        message, reply_to = envelope.message, envelope.reply_to
        if isinstance(message, Watch):
            self._call(lambda: message.callback(self._stopped(None)))
        elif reply_to is None:
            self._dead_letters.add(str(self), message, "the actor had stopped")
        elif isinstance(message, _ActorStop):
            reply_to.set(None)
        else:
            reply_to.fail(pykka.ActorDeadError(f"{self} stopped before handling the message"))
