"""The actor: a Pykka actor with a mailbox, turns, and an answer to every ask. Pykka's API, our scheduler.

Owns the turn, and the consequences of an error in it: the error goes to the asker or to the actor's supervisor, never
to another actor. The dispatcher decides which thread takes a turn (`dispatch.py`); one thread at a time does.

A *turn* is what a thread does for one actor before another gets the thread. An actor may collect during its turn and
act at the end of it (`on_turn_end`), which is how many small messages become one large one.
"""

import itertools
import logging
import secrets
import sys
import uuid
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import pykka
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from commitcast.actors.kernel.errors import FutureCancelledError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import DETACHED, Empty, Envelope, Mailbox
from commitcast.actors.kernel.ref import ActorRef, ActorStopped, StoppedFlag, Watch

if TYPE_CHECKING:
    from commitcast.actors.kernel.dispatch import Dispatcher
    from commitcast.actors.kernel.supervision import Supervisor

logger: Final = logging.getLogger(__name__)

TURN_MESSAGES: Final = 64
"""What one actor handles before another gets the thread."""
_numbers: Final = itertools.count(1)
_process: Final = secrets.randbits(127)
"""Tells the actors of this process from those of another."""

_PROXIED: Final = (ProxyCall, ProxyGetAttr, ProxySetAttr)
_SPECIAL: Final = frozenset({_ActorStop, Watch, *_PROXIED})
"""By type: 0.04 us for each message, where `isinstance` of the five takes 0.2."""

# +-------------------------------------------------------------------------------------------------------------------+
# | What an idle actor may not cost. A runtime holds 100,000 agents that wait, at 2 KiB each with all that belongs to |
# | them; the bare actor has 450 bytes. So an actor                                                                   |
# |   - skips `pykka.Actor.__init__` and `start`, which make an Event, a UUID, a ref and a global registry entry;     |
# |   - has a number, from which its URN is computed when it is asked for;                                            |
# |   - makes its ref (450 bytes more) when it is first asked for, and `actor_stopped` as a view of the mailbox;      |
# |   - has class attributes as defaults for everything that few actors ever set;                                     |
# |   - has a thread only while it is in a turn.                                                                      |
# +-------------------------------------------------------------------------------------------------------------------+


class Actor(pykka.Actor):
    """An actor that shares the threads of a dispatcher. A subclass defines those of the hooks that it needs.

    Its handlers must not block; for one that has to there is `PinnedActor`.

    Example:
        class Counter(Actor):
            mailbox_limit_messages = 1_000                     # at the limit `tell` raises MailboxFullError

            def on_start(self): ...                            # before the first message; `start` raises its error
            def on_receive(self, message): ...                 # returns the answer; an asker gets its error
            def on_turn_end(self): ...                         # acts on what the turn's messages left to do
            def on_dropped(self, message): ...                 # its asker has cancelled it before it was handled
            def on_stop(self): ...                             # after a stop
            def on_failure(self, kind, error, traceback): ...  # in its place, after an error without an asker
            def on_end(self): ...                              # the very last call, after either

        ref = Counter.start("counter", dispatcher)
        ref.tell("one more")
        count = ref.ask("how many?", timeout=5)
        ref.stop()
    """

    turn_messages: ClassVar[int] = TURN_MESSAGES
    mailbox_limit_messages: ClassVar[int | None] = None
    """How many ordinary messages may wait for it; None where the senders keep the bound."""
    follows_its_senders: ClassVar[bool] = False
    """Whether it takes its turn on the thread of those that woke it, after theirs: it must be short."""

    sleeps_on: ClassVar[bool] = False
    """Whether `may_wait` may let messages wait for another one."""

    actor_inbox: Mailbox  # type: ignore[assignment]  # see `ActorRef`
    supervisor: "Supervisor | None" = None
    _asker: Future[Any] | None = None
    _watching: "list[Callable[[ActorStopped], object]] | None" = None
    _ref: "ActorRef[Any] | None" = None
    _has_begun: bool = False

    def __init__(self, name: str, dispatcher: "Dispatcher") -> None:
        """Make the actor.

        Args:
            name: what to call it in logs and errors.
            dispatcher: gives it turns, and counts the messages that it does not handle.
        """
        self.number = next(_numbers)
        self.name = name
        self.dispatcher = dispatcher
        self.actor_inbox = self._create_actor_inbox()

    def __str__(self) -> str:
        return f"{type(self).__name__}-{self.name} ({self.actor_urn})"

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # computed
        """What tells this actor from every other in the process."""
        return uuid.UUID(int=_process + self.number, version=4).urn

    @property
    def actor_stopped(self) -> Any:  # type: ignore[override]  # computed
        """Whether it has stopped: `actor_stopped.is_set()`."""
        return StoppedFlag(self.actor_inbox)

    @property
    def actor_ref(self) -> ActorRef[Self]:
        """Its address."""
        if self._ref is None:
            self._ref = ActorRef(self)
        return self._ref

    # Pykka's hooks for new actor types.

    def _create_actor_inbox(self) -> Mailbox:  # type: ignore[override]  # Pykka calls it on the instance too
        return Mailbox(self.mailbox_limit_messages)

    @staticmethod
    def _create_future() -> Future[Any]:
        return Future()

    def _start_actor_loop(self) -> None:
        self.begin()

    # Hooks beside Pykka's own.

    def on_turn_end(self) -> None:
        """Act on what was collected during the turn. An error in it is one of the actor, not of any message."""

    def may_wait(self, waiting: int) -> bool:
        """Whether it would do nothing now with `waiting` messages that can wait, and another message is sure to come.

        Called while no turn is taken, on the thread of a sender.
        """
        return False

    def on_dropped(self, message: Any) -> None:
        """Give back what belongs to a message that is not going to be handled: its asker has cancelled it."""

    def on_end(self) -> None:
        """Give back what the actor itself was given. The very last call."""

    # For handlers.

    def defer_reply(self) -> Future[Any] | None:
        """Take over the answer to the message that is being handled; None after a `tell`. Complete it in any case."""
        asker, self._asker = self._asker, None
        return asker

    @property
    def is_asked(self) -> bool:
        """Whether an asker waits for the answer to the message that is being handled."""
        return self._asker is not None

    # Start.

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> ActorRef[Self]:
        """Make and start an actor; raises what its `on_start` raises."""
        actor = cls(*args, **kwargs)
        actor.begin()
        return actor.actor_ref

    def begin(self) -> None:
        """Start an actor that was made already; raises what its `on_start` raises.

        For those that make actors for others: a supervisor, a directory. `start` does both.

        Raises:
            RuntimeError: it was begun before. An actor begins once, also if its `on_start` failed.
        """
        if self._has_begun:
            raise RuntimeError(f"{self} was begun before, and an actor begins once: make another one")
        self._has_begun = True
        self.on_start()
        if self.actor_inbox.state is DETACHED:  # else it has stopped itself
            self.actor_inbox.attach(self)

    def take_over(self, failed: "Actor") -> None:
        """Start in the place of an actor that failed: with its ref, its mailbox and what waits there, its watchers."""
        self.number = failed.number
        self._watching = failed._watching
        self._ref = failed._ref
        self.actor_inbox = failed.actor_inbox
        if self._ref is not None:
            self._ref._actor_weakref = weakref.ref(self)
        self.begin()

    # Loop.

    def take_turn(self, limit: int) -> None:
        """Handle the messages that wait, up to a limit, and answer them. One thread at a time; for the dispatcher.

        Raises nothing that a handler or a hook raises: SystemExit and CancelledError too end at most this actor.
        """
        mailbox = self.actor_inbox
        mailbox.is_wanted = False
        for _ in range(limit):
            if mailbox.empty():  # asked first: to raise `Empty` takes 0.5 us
                break
            try:
                envelope = mailbox.get(False)
            except Empty:  # the directory has taken it, at the end of the runtime
                break
            message, self._asker = envelope.message, envelope.reply_to
            if self._asker is not None and self._asker.is_unwanted:
                self._drop(envelope)
                continue
            try:
                response = self._on_special(message) if type(message) in _SPECIAL else self.on_receive(message)
                asker, self._asker = self._asker, None
                if asker is not None:
                    asker.set(response)
            except BaseException as error:  # SystemExit and CancelledError too: one handler must not end the others
                self._on_error(envelope, error)
            if mailbox.owner is not self:  # it has failed or stopped
                return
        else:
            mailbox.is_wanted = True  # what is left may be what must not wait
        try:
            self.on_turn_end()
        except BaseException as error:  # as above: it ends this actor alone
            self._fail(error)
        if mailbox.owner is self:
            mailbox.turn_ended()

    def _drop(self, envelope: Envelope) -> None:
        """Answer a message that its asker has cancelled before it was begun."""
        asker, self._asker = self._asker, None
        if asker is not None:
            asker.fail(FutureCancelledError())
        self.on_dropped(envelope.message)

    def _on_special(self, message: Any) -> Any:
        if isinstance(message, _ActorStop):
            self.on_turn_end()
            self.stop_now()
            return None
        if isinstance(message, Watch):
            self._watching = [*(self._watching or ()), message.callback]
            return None
        return self._handle_receive(message)  # Pykka's own, for proxies

    def _on_error(self, envelope: Envelope, error: BaseException) -> None:
        """Fail the asker's future; end the actor if there is no asker, or if the error would end a thread."""
        self._asker = None
        reply_to = envelope.reply_to
        if reply_to is not None and not reply_to.done():
            logger.info("Exception returned from %s to caller:", self, exc_info=error)
            reply_to.set_exception(sys.exc_info())
        if reply_to is None or not isinstance(error, Exception):
            self._fail(error)

    # End.

    def stop(self) -> None:
        """Stop once it has handled what it was sent before. Never refused, however full its mailbox. Any thread."""
        self.actor_ref.stop(block=False)

    def stop_now(self) -> None:
        """Stop without handling what waits, which is rejected. In the actor's own turn only; idempotent."""
        if not self.actor_inbox.is_stopped:
            self._finish(self.on_stop, None)

    def _fail(self, error: BaseException) -> None:
        failure = (type(error), error, error.__traceback__)
        logger.error("Unhandled exception in %s:", self, exc_info=failure)
        if self.actor_inbox.is_stopped:  # a defect in its end, which goes on
            return
        self.actor_inbox.detach()  # no turn is taken until a successor has taken over
        if self.supervisor is not None and self.supervisor.on_failure(self, error):
            self._call(lambda: self.on_failure(*failure))
            self.on_end()
        else:
            self._finish(lambda: self.on_failure(*failure), error)
            self._report_given_up(error)

    def abandon(self, error: BaseException) -> None:
        """End for good an actor that failed and that could not be replaced."""
        self._finish(lambda: None, error)
        self._report_given_up(error)

    def _report_given_up(self, error: BaseException) -> None:
        if self.supervisor is not None:
            self.supervisor.on_given_up(error)

    def _finish(self, last_hook: Callable[[], object], error: BaseException | None) -> None:
        mailbox = self.actor_inbox
        mailbox.stop()
        self._call(last_hook)
        mailbox.close(self)
        if error is not None or not mailbox.empty():
            self.drain_closed_mailbox()
        watching, self._watching = self._watching, None
        for callback in watching or ():
            self._call(lambda callback=callback: callback(self._stopped(error)))  # type: ignore[misc]
        self.on_end()

    def _call(self, hook: Callable[[], object]) -> None:
        try:
            hook()
        except BaseException:  # SystemExit too: the actor's end must go on
            logger.exception("Unhandled exception in %s:", self)

    def _stopped(self, error: BaseException | None) -> ActorStopped:
        return ActorStopped(self.name, self.actor_urn, error)

    def drain_closed_mailbox(self) -> None:
        """Reject what reached the mailbox too late. Called by the actor's end, and by each later sender."""
        while True:
            try:
                envelope = self.actor_inbox.get(False)
            except Empty:
                return
            self.reject(envelope)

    def reject(self, envelope: Envelope) -> None:
        """Answer one message that will not be handled."""
        message, reply_to = envelope.message, envelope.reply_to
        if isinstance(message, Watch):
            self._call(lambda: message.callback(self._stopped(None)))
        elif reply_to is None:
            self.dispatcher.dead_letters.add(str(self), message, "the actor had stopped")
        elif isinstance(message, _ActorStop):
            reply_to.set(None)
        else:
            reply_to.fail(pykka.ActorDeadError(f"{self} stopped before handling the message"))
