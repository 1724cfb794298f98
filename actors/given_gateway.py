"""A host's own actor in the gateway's place: checked before anything is opened, and missed when it is gone.

It may be any Pykka actor. When it ends before the runtime does, agents go on and lose nothing, but nobody is told of
what they say any more; so that is said once, and each thing that was meant for it is a dead letter.
"""

import logging
import threading
from typing import Any, Final, Protocol

import pykka

from commitcast.actors.errors import GatewayStoppedError
from commitcast.actors.kernel.actor import ActorRef, ActorStopped
from commitcast.persistence.errors import InvalidValueError

logger: Final = logging.getLogger(__name__)


class HasRef(Protocol):
    """A double that stands for an actor."""

    ref: pykka.ActorRef[Any]


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
                f"gateway must be the ref of an actor, as `start()` returns it, not {type(given).__name__}"
            )
        self._ref: pykka.ActorRef[Any] = ref
        self._tells = isinstance(ref, ActorRef)  # itself when it has ended, and why
        self._lock = threading.Lock()
        self._is_over = False
        self._failure: Exception | None = None
        self.check()

    def check(self) -> None:
        """Check that there is somebody.

        Raises:
            GatewayStoppedError: its actor is not alive.
        """
        if not self._ref.is_alive():
            raise GatewayStoppedError(str(self._ref))

    def begin(self) -> None:
        """Be told when it ends, if it is an actor that tells."""
        if isinstance(self._ref, ActorRef):
            self._ref.watch(self._on_stopped)

    def end(self) -> None:
        """Miss it no longer, after a last look: the runtime has told it everything."""
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
        """Return why nobody is told any more; None while the actor is alive."""
        if not self._tells and not self._is_over and not self._ref.is_alive():
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
        logger.critical("the gateway's actor %s has ended, and nobody is told of what is stored: %s", self._ref, error)
