"""Doubles for tests of programs that embed the runtime. Public and documented like the rest.

`MockGateway` is a real actor that takes the gateway's place and keeps what it receives, so that a test can assert which
messages would have been cast, in which order, and after which commit. `Probe` stands for any other actor.
`HeldStore` and `FailingStore` wrap a store, and hold or fail its commits. The fixtures are in `pytest_plugin`.

`SeededDispatcher` runs a whole runtime on the test's own thread, in an order that a seed decides. While it is
entered, every call that blocks on that thread (`future.get`, `handle.wait`, `emit` at its bound) runs actors and
sources instead. A source that waits, in `context.receive()` for example, is put aside until the event that it waits
for. Async sources run on one loop by the virtual clock, unless they are launched on a running loop.

Example:
    with SeededDispatcher(seed=1) as dispatcher, AgentRuntime(":memory:", dispatcher=dispatcher) as runtime:
        assert runtime.launch(lambda context: ["Hel", "lo"]).wait(timeout=5).head == 2
"""

import copy
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from commitcast.actors.agent_api import checked_status
from commitcast.actors.in_process import store_of
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.errors import DeadlockError
from commitcast.actors.kernel.seeded import SeededDispatcher
from commitcast.actors.messages import GatewayCommand, Notice
from commitcast.actors.probe import TIMEOUT_S, Probe
from commitcast.persistence.deprecation import renamed_argument
from commitcast.persistence.errors import NotStoredError
from commitcast.persistence.records import Committed, MessageRecord, StatusChange
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites, Outcome

__all__ = [
    "DeadlockError",
    "FailingStore",
    "HeldStore",
    "MockGateway",
    "MockGatewayError",
    "Probe",
    "SeededDispatcher",
]

Work = Sequence[AgentWrites]

HOLD_S: Final = 60.0
"""Limit on the time that a commit is held: a test that forgets to release it fails, and does not hang."""


class MockGatewayError(Exception):
    """Raised in the gateway's actor by `MockGateway.fail_on`."""


class MockGateway(Probe):
    """A probe in the gateway's place, with views of what it receives: `Committed` and `Notice`. Any thread.

    Example:
        gateway = MockGateway()
        with AgentRuntime(":memory:", gateway=gateway) as runtime:
            runtime.launch(lambda context: ["Hel", "lo"])
            assert [message.content for message in gateway.wait_for_messages(2)] == ["Hel", "lo"]
        gateway.stop()
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
        self._on_receive = on_receive
        self._fail_on: int | None = None
        super().__init__("mock-gateway", dispatcher=dispatcher)

    @property
    def messages(self) -> tuple[MessageRecord, ...]:
        """The messages of agents in what was received, in order. One `Committed` holds a whole batch of its agent."""
        return tuple(record for batch in self._committed() for record in batch.messages)

    @property
    def changes(self) -> tuple[StatusChange, ...]:
        """The changes of status in what was received, in order."""
        return tuple(change for batch in self._committed() for change in batch.changes)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notices in what was received, in order."""
        return tuple(command for command in self.received if isinstance(command, Notice))

    def _committed(self) -> list[Committed]:
        return [command for command in self.received if isinstance(command, Committed)]

    @renamed_argument("timeout_s", "timeout")
    def wait_for(
        self, n: int, timeout: float = TIMEOUT_S, *, timeout_s: float | None = None
    ) -> tuple[GatewayCommand, ...]:
        """Block until `n` things were received, and return all of them. Counts `Committed` and `Notice`.

        Raises:
            TimeoutError: there were fewer; the error shows them.
        """
        self.wait_until(lambda: len(self.received) >= n, f"{n} things", timeout)
        return self.received

    @renamed_argument("timeout_s", "timeout")
    def wait_for_messages(
        self, n: int, timeout: float = TIMEOUT_S, *, timeout_s: float | None = None
    ) -> tuple[MessageRecord, ...]:
        """Block until `n` messages were received, in however many batches, and return all of them.

        Raises:
            TimeoutError: there were fewer; the error shows what was received.
        """
        self.wait_until(lambda: len(self.messages) >= n, f"{n} messages", timeout)
        return self.messages

    @renamed_argument("timeout_s", "timeout")
    def wait_for_status(
        self, agent: str, status: str, timeout: float = TIMEOUT_S, *, timeout_s: float | None = None
    ) -> StatusChange:
        """Block until a change of an agent to a status was received, and return that change.

        Raises:
            TimeoutError: it was not; the error shows what was received.
            InvalidValueError: there is no such status.
        """
        wanted = checked_status(status)

        def matching() -> list[StatusChange]:
            return [change for change in self.changes if change.agent == agent and change.status is wanted]

        self.wait_until(lambda: bool(matching()), f"agent {agent!r} to be {status}", timeout)
        return matching()[0]

    def fail_on(self, n: int) -> None:
        """Make the actor raise `MockGatewayError` on the `n`-th thing it receives, counted from 1; it is not kept."""
        self._fail_on = n

    def _receive(self, message: GatewayCommand) -> Any:
        if self._fail_on == len(self.received) + 1:
            raise MockGatewayError(f"the test made the mock gateway fail on number {self._fail_on}")
        if self._on_receive is not None:
            self._on_receive(message)
        return super()._receive(message)

    def _show(self, message: GatewayCommand) -> str:
        if not isinstance(message, Committed):
            return repr(message)
        parts = [f"{record.sequence} {record.content!r:.200}" for record in message.messages]
        parts += [f"{change.previous} -> {change.status}" for change in message.changes]
        return f"Committed({message.agent!r}: {', '.join(parts) or 'created'})"


_Delegates: Any = object
"""For type checkers: what is not defined here is the wrapped store's, whichever store that is."""


class _WrappedStore(_Delegates):  # type: ignore[misc]  # Any, so that it is a Store
    """A store whose `commit` a test decides about. Everything else is done by the store inside."""

    def __init__(self, store: str | os.PathLike[str] | Store) -> None:
        """Wrap a store that is not open yet.

        Args:
            store: any, or the path of a SQLite file; the wrapper takes its place, also as `AgentRuntime(wrapper)`.

        Raises:
            InvalidValueError: it is neither.
        """
        self._store = store_of(store)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class HeldStore(_WrappedStore):
    """A store whose commits can be held: they wait until they are released. Any thread.

    Not for a `SeededDispatcher`, whose only thread would wait for itself.

    Example:
        store = HeldStore("agents.db")
        with AgentRuntime(store) as runtime:
            agent = runtime.launch()
            store.hold()
            future = agent.emit("on its way")
            store.wait_until_held()
            assert not future.done() and agent.messages() == []
            store.release()
    """

    def __init__(self, store: str | os.PathLike[str] | Store) -> None:
        """Wrap a store. See `FailingStore`, which may be the one inside, to let a held commit fail."""
        super().__init__(store)
        self._changed = threading.Condition()
        self._holds: Callable[[Work], bool] | None = None
        self._held = 0

    def hold(self, when: Callable[[Work], bool] = lambda _: True) -> None:
        """Hold every commit that begins from now on.

        Args:
            when: holds only those for whose writes it returns True.
        """
        with self._changed:
            self._holds = when

    def release(self) -> None:
        """Let the held commit, and all later ones, go on. Idempotent."""
        with self._changed:
            self._holds = None
            self._changed.notify_all()

    def wait_until_held(self, timeout: float = TIMEOUT_S) -> None:
        """Block until a commit is held.

        Raises:
            TimeoutError: none was.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._held, timeout):
                raise TimeoutError(f"waited {timeout:g} s for a commit to be held, but none began")

    def close(self) -> None:
        """Release what is held, and close the store."""
        self.release()
        self._store.close()

    def commit(self, work: Work) -> list[Outcome]:
        """Commit when it is not held any more. Raises `NotStoredError` if it is never released."""
        with self._changed:
            if self._holds is not None and self._holds(work):
                self._held += 1
                self._changed.notify_all()
                is_released = self._changed.wait_for(lambda: self._holds is None, HOLD_S)
                self._held -= 1
                if not is_released:
                    raise NotStoredError(f"the commit was held for {HOLD_S:g} s: the test did not call `release`")
        return self._store.commit(work)


class FailingStore(_WrappedStore):
    """A store whose commits fail on order. Any thread.

    Example:
        store = FailingStore("agents.db")
        with AgentRuntime(store) as runtime:
            agent = runtime.launch()
            store.fail(NotStoredError("the disk said no"))
            assert isinstance(agent.emit("lost").exception(timeout=5), NotStoredError)
            assert agent.emit("kept").get(timeout=5).sequence == 1
    """

    def __init__(self, store: str | os.PathLike[str] | Store) -> None:
        """Wrap a store; nothing fails yet."""
        super().__init__(store)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._left: int | None = 0
        self._when: Callable[[Work], bool] = lambda _: True
        self._commits: list[Work] = []

    @property
    def commits(self) -> tuple[Work, ...]:
        """The writes of every commit that was tried, in order, failed or not."""
        with self._lock:
            return tuple(self._commits)

    def fail(
        self, error: BaseException, *, times: int | None = 1, when: Callable[[Work], bool] = lambda _: True
    ) -> None:
        """Make commits raise an error, before anything of them is written. Replaces what was ordered before.

        Args:
            error: raised itself at first, then a copy each time: `NotStoredError` for a transaction that was rolled
                back, `StoreUnknownError` for one that may be on disk, or a defect.
            times: how many commits fail; None for all from now on.
            when: fails only those for whose writes it returns True.
        """
        with self._lock:
            self._error, self._left, self._when = error, times, when

    def commit(self, work: Work) -> list[Outcome]:
        """Commit, or raise what `fail` has ordered."""
        with self._lock:
            self._commits.append(work)
            if self._error is not None and self._left != 0 and self._when(work):
                self._left = None if self._left is None else self._left - 1
                error, self._error = self._error, _another(self._error)
                raise error
        return self._store.commit(work)


def _another(error: BaseException) -> BaseException:
    """Return an equal error to be raised next: one that is raised again would keep the traceback of the last time."""
    try:
        return copy.copy(error)
    except TypeError:  # its constructor takes other arguments than it has given to `BaseException`
        return error.with_traceback(None)
