"""Doubles for tests of programs that embed the runtime. Public and documented like the rest.

`MockGateway` is a real actor that takes the gateway's place and keeps what it is told, so that a test can assert what
would have been cast, in which order, and after which commit. `Probe` stands for any other actor. `SeededDispatcher`
runs a whole runtime on the test's own thread, in an order that a seed decides. The fixtures are in `pytest_plugin`.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

import pykka

from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor
from commitcast.actors.kernel.probe import Probe
from commitcast.actors.kernel.seeded import DeadlockError, SeededDispatcher
from commitcast.actors.messages import GatewayCommand, Notice
from commitcast.persistence.records import Committed, MessageRecord, StatusChange

__all__ = ["DeadlockError", "MockGateway", "MockGatewayError", "Probe", "SeededDispatcher"]

WAIT_S: Final = 5.0


class MockGatewayError(Exception):
    """What `MockGateway.fail_on` raises inside the gateway's actor."""


class MockGateway:
    """A gateway that nobody subscribes to and that remembers everything. Any thread.

    Give its `ref` to `AgentRuntime(gateway=...)`. What it receives are `Committed` and `Notice`, nothing else.
    """

    def __init__(
        self,
        on_receive: Callable[[GatewayCommand], object] | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """Start the actor.

        Args:
            on_receive: called with each message before it is kept, on the actor's thread.
            dispatcher: gives the actor its turns in place of a thread of its own.
        """
        self._changed = threading.Condition(threading.RLock())
        self._received: list[GatewayCommand] = []
        self._on_receive = on_receive
        self._fail_on: int | None = None
        self.ref: pykka.ActorRef[Any] = _MockGatewayActor.start(self._receive, dispatcher)

    @property
    def received(self) -> tuple[GatewayCommand, ...]:
        """Everything received until now, in order. One `Committed` covers a whole batch of its agent."""
        with self._changed:
            return tuple(self._received)

    @property
    def messages(self) -> tuple[MessageRecord, ...]:
        """The messages in what was received, in order."""
        return tuple(message for told in self.received if isinstance(told, Committed) for message in told.messages)

    @property
    def changes(self) -> tuple[StatusChange, ...]:
        """The changes of status in what was received, in order."""
        return tuple(change for told in self.received if isinstance(told, Committed) for change in told.changes)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notices in what was received, in order."""
        return tuple(told for told in self.received if isinstance(told, Notice))

    def wait_for(self, n: int, timeout_s: float = WAIT_S) -> tuple[GatewayCommand, ...]:
        """Block until `n` things were received, and return all of them. Counts `Committed` and `Notice`.

        Raises:
            TimeoutError: there were fewer; the error shows them.
        """
        self.wait_until(lambda: len(self._received) >= n, f"{n} things", timeout_s)
        return self.received

    def wait_for_messages(self, n: int, timeout_s: float = WAIT_S) -> tuple[MessageRecord, ...]:
        """Block until `n` messages were received, in however many batches, and return all of them.

        Raises:
            TimeoutError: there were fewer; the error shows what was received.
        """
        self.wait_until(lambda: len(self.messages) >= n, f"{n} messages", timeout_s)
        return self.messages

    def wait_for_status(self, agent: str, status: str, timeout_s: float = WAIT_S) -> StatusChange:
        """Block until it was told that an agent has a status, and return that change.

        Raises:
            TimeoutError: it was not; the error shows what was received.
        """

        def found() -> StatusChange | None:
            return next((c for c in self.changes if c.agent == agent and c.status == status), None)

        self.wait_until(lambda: found() is not None, f"agent {agent!r} to be {status}", timeout_s)
        change = found()
        assert change is not None
        return change

    def wait_until(self, predicate: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Block until `predicate` is true; it is asked again after each thing received.

        Raises:
            TimeoutError: it stayed false; the error says `what` was waited for and shows what was received.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout_s):
                raise TimeoutError(f"waited {timeout_s:g} s for {what}; received {self._received!r}")

    def fail_on(self, n: int) -> None:
        """Make the actor raise `MockGatewayError` on the `n`-th thing it receives, counted from 1; it is not kept."""
        self._fail_on = n

    def stop(self) -> None:
        """Stop the actor. Idempotent."""
        self.ref.stop(block=True, timeout=WAIT_S)

    def _receive(self, message: GatewayCommand) -> None:
        with self._changed:
            if self._fail_on == len(self._received) + 1:
                raise MockGatewayError(f"the mock gateway was told to fail on number {self._fail_on}")
        if self._on_receive is not None:
            self._on_receive(message)
        with self._changed:
            self._received.append(message)
            self._changed.notify_all()


class _MockGatewayActor(PinnedActor):
    def __init__(self, receive: Callable[[GatewayCommand], None], dispatcher: Dispatcher | None) -> None:
        super().__init__("mock-gateway", dispatcher)
        self._receive = receive

    def on_receive(self, message: GatewayCommand) -> None:
        """Hand it to the test's side."""
        self._receive(message)
