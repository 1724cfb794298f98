"""How other threads and actors reach an actor: its ref, and the message to its watchers."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pykka
from pykka.messages import _ActorStop

from commitcast.actors.kernel.errors import MailboxFullError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope, Mailbox

A = TypeVar("A", bound=pykka.Actor)


class ActorStopped(msgspec.Struct, frozen=True):
    """The message to a watcher when the actor has stopped. Sent once."""

    name: str
    urn: str
    error: BaseException | None
    """Why it failed; None if it was stopped, or was gone before it was watched."""


class Watch(msgspec.Struct, frozen=True):
    """Call `callback` when the actor that receives this has stopped."""

    callback: Callable[[ActorStopped], object]


class StoppedFlag:
    """Pykka's `actor_stopped`, as a view of the mailbox."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def is_set(self) -> bool:
        """Whether the actor has stopped."""
        return self._mailbox.is_stopped


class ActorRef(pykka.ActorRef[A]):
    """The address of an actor. Stays valid when the actor is replaced after a failure. Any thread."""

    actor_inbox: Mailbox  # type: ignore[assignment]  # Pykka's protocol is of its own envelopes

    def __init__(self, actor: A) -> None:
        """Made by the actor: see `Actor.actor_ref`."""
        super().__init__(actor)
        self._name = str(actor)

    def __str__(self) -> str:
        return self._name

    def tell(self, message: Any) -> None:
        """Send a message. Never blocks.

        Raises:
            pykka.ActorDeadError: the actor has stopped.
            MailboxFullError: its mailbox is at its limit.
        """
        inbox = self.actor_inbox
        if inbox.is_stopped:
            raise pykka.ActorDeadError(f"{self} not found")
        if not inbox.put(Envelope(message), bounded=True, can_wait=True):
            raise MailboxFullError(str(self), inbox.limit_messages or 0)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and return the answer, or with `block=False` its future. The answer always comes.

        Args:
            message: what to send.
            block: wait for the answer.
            timeout: seconds in all; None waits for ever.
        """
        future: Future[Any] = Future()
        if self.actor_inbox.is_stopped:
            future.fail(pykka.ActorDeadError(f"{self} not found"))
        elif not self.actor_inbox.put(Envelope(message, future), bounded=True, can_wait=True):
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
            reply: Future[Any] = Future()
            stopped = reply.map(lambda _: True)
            self.actor_inbox.put(Envelope(_ActorStop(), reply))
        return stopped.get(timeout=timeout) if block else stopped

    def watch(self, callback: Callable[[ActorStopped], object]) -> None:
        """Call `callback` once when the actor has stopped or failed for good; at once if it is gone.

        Pass another ref's `tell` to get it as a message. Called on the thread of the actor's last turn; must not block.
        """
        self.actor_inbox.put(Envelope(Watch(callback)))
