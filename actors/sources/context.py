"""What a source is given: who it works for, what it was asked, and the ways back.

Owns nothing but the cancel flag and its callbacks; every call goes to the agent's actor. Called from the source's own
thread or loop.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from commitcast.actors.kernel.future import Future
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.inbox import Inbox
from commitcast.actors.sources.processes.registry import Processes
from commitcast.persistence import fork
from commitcast.persistence.records import AgentRecord, MessageRecord

logger: Final = logging.getLogger(__name__)


class Cancelled:
    """Set once when the agent's life is over. Any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Whether the source should stop."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the source should stop, or for `timeout` seconds; return whether it should."""
        return self._event.wait(timeout)

    def on_set(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when it is set, on the thread that sets it; at once if it is set already."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def set(self) -> None:
        """Set it. Idempotent."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # a source's mistake must not keep its agent from ending
                logger.exception("a callback of a cancelled source failed")

    def _drop_in_child(self) -> None:
        self._lock, self._event, self._callbacks = threading.Lock(), threading.Event(), []
        self._event.set()


class Outlet(Protocol):
    """The agent's side of a context; made by the runtime."""

    def put(self, draft: Draft) -> None:
        """Queue a draft. Blocks while the agent is at its bound. Raises `SourceCancelledError`."""

    def emit(self, draft: Draft) -> Future[MessageRecord]:
        """Queue a draft and return the future of its record. Blocks like `put`."""

    def send(self, agent: str, content: str) -> Future[MessageRecord]:
        """Send a durable user message to another agent."""

    def patch(self, configuration: dict[str, Any], pid: int | None, pid_started: str | None) -> Future[AgentRecord]:
        """Merge facts into the agent's record."""


class AgentContext:
    """What a source is called with.

    Attributes:
        id: of the agent.
        prompt: what it was launched with, "" if nothing.
        configuration: a copy of the agent's configuration.
        attempt: 0 in the first run of the source, one more in each run after a failure.
        inbox: the texts that `handle.send` was given, each put here after it was committed. `inbox.get(timeout=…)`
            waits for one, and raises `SourceCancelledError` when the agent's life is over; an async source awaits
            `asyncio.to_thread(context.inbox.get)`.
        cancelled: set when the agent's life is over; what is yielded after that is discarded and counted.
        last_words: returns what the source has made and the agent has not got, when the agent is ended: it is given
            the number of drafts that were put. From then on nothing more can be put.
        processes: the commands of its runtime, for a source that runs one; None if there is no runtime.
    """

    def __init__(
        self,
        *,
        id: str,
        epoch: str,
        type: str,
        prompt: str,
        configuration: dict[str, Any],
        outlet: Outlet,
        attempt: int = 0,
        inbox: Inbox | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.id = id
        self.epoch = epoch
        self.type = type
        self.prompt = prompt
        self.configuration = configuration
        self.attempt = attempt
        self.inbox = Inbox(id) if inbox is None else inbox
        self.cancelled = Cancelled()
        self.last_words: Callable[[int], list[Draft]] | None = None
        self.processes = processes
        self._outlet = outlet
        fork.register(self)

    def _drop_in_child(self) -> None:
        """Tell a source that it is a copy in a child, which nobody hears."""
        self.inbox._drop_in_child()
        self.cancelled._drop_in_child()

    def emit(
        self,
        content: str | dict[str, Any] | list[Any],
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
    ) -> Future[MessageRecord]:
        """Say something and learn when it is durable. Blocks while the agent is at its bound.

        Raises:
            SourceCancelledError: the agent's life is over.
        """
        return self._outlet.emit(Draft(content, type, role, metadata, raw))

    def put(self, draft: Draft) -> None:
        """Say something without asking for its record. Blocks while the agent is at its bound.

        Raises:
            SourceCancelledError: the agent's life is over.
        """
        self._outlet.put(draft)

    def send(self, agent: str, content: str) -> Future[MessageRecord]:
        """Send a durable user message to another agent, which finds it in its inbox."""
        return self._outlet.send(agent, content)

    def patch(
        self, configuration: dict[str, Any] | None = None, *, pid: int | None = None, pid_started: str | None = None
    ) -> Future[AgentRecord]:
        """Merge facts learnt while running into the agent's record (a session id, a process id)."""
        self.configuration.update(configuration or {})
        return self._outlet.patch(self.configuration if configuration else {}, pid, pid_started)
