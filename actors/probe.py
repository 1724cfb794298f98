"""A probe: an actor that keeps what it receives, for tests to expect it. Public as part of `actors.testing`."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor
from commitcast.actors.kernel.ref import ActorRef
from commitcast.actors.kernel.waiting import Signal
from commitcast.persistence.deprecation import renamed_argument

T = TypeVar("T")

TIMEOUT_S: Final = 5.0
"""How long a probe waits for a message by default."""


class Probe:
    """Stands for any actor that others send messages to. Any thread.

    Its `ref` is what the others are given. It keeps every message in `received`, and answers every ask with `answer`.
    `expect` goes through the messages one by one, in order.

    Example:
        probe = Probe(answer=42)
        assert probe.ref.ask("how many?") == 42
        assert probe.expect(str) == "how many?"
        probe.stop()
    """

    def __init__(self, name: str = "probe", *, answer: Any = None, dispatcher: Dispatcher | None = None) -> None:
        """Start the actor.

        Args:
            name: of the actor.
            answer: the answer to every ask.
            dispatcher: gives the actor its turns in place of a thread of its own. With a `SeededDispatcher` every wait
                runs the actors, and its timeout is of the virtual clock.
        """
        self._answer = answer
        self._now = time.monotonic if dispatcher is None else dispatcher.now
        self._lock = threading.RLock()
        self._received: list[Any] = []
        self._expected = 0  # that many of them
        self._waiting: list[Signal] = []
        self.ref: ActorRef[Any] = _ProbeActor.start(name, dispatcher, self)

    @property
    def received(self) -> tuple[Any, ...]:
        """Every message received until now, in order."""
        with self._lock:
            return tuple(self._received)

    @renamed_argument("timeout_s", "timeout")
    def expect(self, kind: type[T], timeout: float = TIMEOUT_S, *, timeout_s: float | None = None) -> T:
        """Return the next message, which must be of a kind. Blocks until there is one.

        Args:
            kind: its class.
            timeout: seconds.

        Raises:
            AssertionError: it is of another kind, or none came in time.
        """
        is_there, message = self._next(timeout)
        assert is_there, f"expected a {kind.__name__}, but received nothing for {timeout:g} s"
        assert isinstance(message, kind), f"expected a {kind.__name__}, but received {self._show(message)}"
        return message

    def expect_no_message(self, for_s: float) -> None:
        """Let a time pass in which no message may come. By a virtual clock that takes no time.

        Raises:
            AssertionError: a message came.
        """
        is_there, message = self._next(for_s)
        assert not is_there, f"expected no message, but received {self._show(message)}"

    @renamed_argument("timeout_s", "timeout")
    def wait_until(
        self, predicate: Callable[[], bool], what: str, timeout: float = TIMEOUT_S, *, timeout_s: float | None = None
    ) -> None:
        """Block until `predicate` is true; it is asked again after each message.

        Args:
            predicate: must not block.
            what: is waited for, for the error.
            timeout: seconds.

        Raises:
            TimeoutError: it stayed false; the error says `what` was waited for and shows what was received.
        """
        if not self._wait(predicate, timeout):
            shown = ", ".join(map(self._show, self.received))
            raise TimeoutError(f"waited {timeout:g} s for {what}; received [{shown}]")

    def stop(self) -> None:
        """Stop the actor. Idempotent. Blocks for its last turn."""
        self.ref.stop(block=True, timeout=TIMEOUT_S)

    def _receive(self, message: Any) -> Any:
        """Keep a message and answer it. Called in the actor's turn."""
        with self._lock:
            self._received.append(message)
            waiting, self._waiting = self._waiting, []
        for signal in waiting:
            signal.set()
        return self._answer

    def _show(self, message: Any) -> str:
        """Return a message as the errors show it."""
        return repr(message)

    def _next(self, timeout: float) -> tuple[bool, Any]:
        self._wait(lambda: len(self._received) > self._expected, timeout)
        with self._lock:
            if len(self._received) == self._expected:
                return False, None
            self._expected += 1
            return True, self._received[self._expected - 1]

    def _wait(self, predicate: Callable[[], bool], timeout: float) -> bool:
        deadline = self._now() + timeout
        while True:
            came = Signal()
            with self._lock:
                if predicate():
                    return True
                self._waiting.append(came)
            if not came.wait(max(0.0, deadline - self._now())):
                with self._lock:
                    if came in self._waiting:
                        self._waiting.remove(came)
                    return predicate()


class _ProbeActor(PinnedActor):
    def __init__(self, name: str, dispatcher: Dispatcher | None, probe: Probe) -> None:
        super().__init__(name, dispatcher)
        self._probe = probe

    def on_receive(self, message: Any) -> Any:
        """Hand it to the test's side."""
        return self._probe._receive(message)
