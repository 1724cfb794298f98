"""A host's own actor in the gateway's place: checked before anything is opened, and watched until the runtime stops.

It may be any Pykka actor. When it ends before the runtime does, agents go on and lose nothing, but no gateway receives
their messages any more: that is logged once, and each command that was meant for it is a dead letter.
"""

import logging
import threading
from typing import Any, Final, Protocol

import pykka

from commitcast.actors.errors import GatewayStoppedError
from commitcast.actors.kernel.ref import ActorRef, ActorStopped
from commitcast.persistence.errors import InvalidValueError

logger: Final = logging.getLogger(__name__)


class HasRef(Protocol):
    """A double that stands for an actor: `MockGateway`, or any `Probe`."""

    @property
    def ref(self) -> pykka.ActorRef[Any]:
        """Of the actor."""


class GivenGateway:
    """The way to the actor that a host has given. Any thread."""

    def __init__(self, given: object) -> None:
        """Take a ref, or a double that has one.

        Raises:
            InvalidValueError: it is neither.
            GatewayStoppedError: its actor is not alive.
        """
        ref = given if isinstance(given, pykka.ActorRef) else getattr(given, "ref", None)
        if not isinstance(ref, pykka.ActorRef):
            raise InvalidValueError(
                "gateway must be an actor's ref (what its `start()` returns) or a MockGateway, "
                f"not {type(given).__name__}"
            )
        self._ref: pykka.ActorRef[Any] = ref
        self._is_watched = isinstance(ref, ActorRef)  # an ordinary Pykka actor has to be looked at
        self._lock = threading.Lock()
        self._is_over = False
        self._failure: Exception | None = None
        self.check()

    def check(self) -> None:
        """Check that the actor is alive.

        Raises:
            GatewayStoppedError: its actor is not alive.
        """
        if not self._ref.is_alive():
            raise GatewayStoppedError(str(self._ref))

    def begin(self) -> None:
        """Watch the actor, if it can be watched."""
        if isinstance(self._ref, ActorRef):
            self._ref.watch(self._on_stopped)

    def end(self) -> None:
        """Stop watching, after a last look: the runtime has sent it everything."""
        self.look()
        self._is_over = True

    def tell(self, message: Any) -> None:
        """Send it a message. Raises what the ref raises."""
        try:
            self._ref.tell(message)
        except pykka.ActorDeadError:
            self.look()
            raise

    def look(self) -> Exception | None:
        """Return why its actor receives nothing any more; None while that is alive."""
        if not self._is_watched and not self._is_over and not self._ref.is_alive():
            self._on_lost(GatewayStoppedError(str(self._ref)))
        return self._failure

    def _on_stopped(self, stopped: ActorStopped) -> None:
        if not self._is_over:
            error = stopped.error
            self._on_lost(error if isinstance(error, Exception) else GatewayStoppedError(str(self._ref)))

    def _on_lost(self, error: Exception) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
        logger.critical("the gateway's actor %s has ended, so stored messages reach no gateway: %s", self._ref, error)
