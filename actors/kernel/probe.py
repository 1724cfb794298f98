"""A probe: an actor that keeps what it is told, for tests to expect it. Public as part of `actors.testing`."""

import threading
from collections import deque
from typing import Any, Final, TypeVar

from commitcast.actors.kernel.actor import ActorRef
from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor
from commitcast.actors.kernel.waiting import Signal

T = TypeVar("T")

PATIENCE_S: Final = 5.0


class Probe:
    """Stands for any actor that others speak to; what it hears is expected one by one, in order. Any thread.

    Give its `ref` to whoever should speak to it. It answers every ask with `answer`.
    """

    def __init__(self, name: str = "probe", *, answer: Any = None, dispatcher: Dispatcher | None = None) -> None:
        """Start the actor.

        Args:
            name: of the actor.
            answer: what whoever asks it gets.
            dispatcher: gives the actor its turns in place of a thread of its own.
        """
        self._answer = answer
        self._lock = threading.Lock()
        self._heard: deque[Any] = deque()
        self._waiting: list[Signal] = []
        self.ref: ActorRef[Any] = _ProbeActor.start(name, dispatcher, self)

    def expect(self, kind: type[T], timeout_s: float = PATIENCE_S) -> T:
        """Return the next message, which must be of a kind. Blocks until there is one.

        Raises:
            AssertionError: it is of another kind, or none came in time.
        """
        message = self._next(timeout_s)
        assert message is not _NOTHING, f"expected a {kind.__name__}, and heard nothing for {timeout_s:g} s"
        assert isinstance(message, kind), f"expected a {kind.__name__}, and heard {message!r}"
        return message

    def expect_no_message(self, for_s: float) -> None:
        """Let a time pass in which nothing may come. By a virtual clock that takes no time.

        Raises:
            AssertionError: something came.
        """
        message = self._next(for_s)
        assert message is _NOTHING, f"expected no message, and heard {message!r}"

    def stop(self) -> None:
        """Stop the actor. Idempotent."""
        self.ref.stop(block=True, timeout=PATIENCE_S)

    def hear(self, message: Any) -> Any:
        """Keep a message. Called by the actor."""
        with self._lock:
            self._heard.append(message)
            waiting, self._waiting = self._waiting, []
        for signal in waiting:
            signal.give()
        return self._answer

    def _next(self, timeout_s: float) -> Any:
        came = Signal()
        with self._lock:
            if self._heard:
                return self._heard.popleft()
            self._waiting.append(came)
        came.wait(timeout_s)
        with self._lock:
            if came in self._waiting:
                self._waiting.remove(came)
            return self._heard.popleft() if self._heard else _NOTHING


_NOTHING: Final = object()


class _ProbeActor(PinnedActor):
    def __init__(self, name: str, dispatcher: Dispatcher | None, probe: Probe) -> None:
        super().__init__(name, dispatcher)
        self._probe = probe

    def on_receive(self, message: Any) -> Any:
        """Hand it to the test's side."""
        return self._probe.hear(message)
