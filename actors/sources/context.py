"""The argument of a source: its agent, its prompt, and the calls back to the agent.

Owns nothing; every call goes to the agent's actor. Called from the source's own thread or loop, and from any thread
that the source starts.
"""

import asyncio
import queue
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from commitcast.actors.errors import LoopWouldBlockError, ReceiveTimeoutError, SourceCancelledError
from commitcast.actors.kernel.future import Future
from commitcast.actors.loop import running_loop
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.emitter import Emitter
from commitcast.actors.sources.inbox import Inbox
from commitcast.actors.sources.processes.registry import Processes
from commitcast.persistence import fork
from commitcast.persistence.records import AgentRecord, MessageRecord

if TYPE_CHECKING:

    class Text(str):
        """What `receive` returns: text in a blocking source; in an async one it has to be awaited first.

        No type says which of the two a call is in, so a forgotten `await` is found at run time only.
        """

        def __await__(self) -> Generator[Any, None, str]:
            """Return the text."""

else:
    Text = str


class AgentContext:
    """The argument of a source.

    Iterating over it receives: `for text in context`, in an async source `async for text in context`.

    Attributes:
        id: of the agent.
        prompt: what it was launched with, "" if nothing.
        configuration: a copy of the agent's configuration.
        attempt: 0 in the first run of the source, one more in each run after a failure.
        inbox: the texts that `receive` takes, as a queue: `inbox.get_nowait()`, `inbox.qsize()`.
        cancelled: set when the agent has ended; what is yielded after that is discarded.
        last_words: called when the agent is ended, with the number of drafts that were put; returns those that the
            source has made beside them. From then on nothing more can be put.
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
        emitter: Emitter,
        attempt: int = 0,
        inbox: Inbox | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Made by the runtime."""
        self.id = id
        self.epoch = epoch
        self.type = type
        self.prompt = prompt
        self.configuration = configuration
        self.attempt = attempt
        self.inbox = Inbox(id) if inbox is None else inbox
        self.cancelled = emitter.cancelled
        self.last_words: Callable[[int], list[Draft]] | None = None
        self.processes = processes
        self._emitter = emitter
        fork.register(self)

    def _drop_in_child(self) -> None:
        """Make the copy of a source in a child stop: nothing that it does reaches the agent."""
        self.inbox._drop_in_child()
        self.cancelled._drop_in_child()

    # Receiving.

    def receive(self, timeout: float | None = None) -> Text:
        """Return the oldest text that was sent to the agent; wait if there is none.

        In an async source `await context.receive()`; in a blocking one, or on a thread, `context.receive()` is the
        text. Each text comes once, after it was committed; one that no run of the source has taken when the source
        fails is there for the next run.

        Args:
            timeout: seconds; None waits for as long as the agent lives.

        Raises:
            ReceiveTimeoutError: nothing was sent in time. It is a `TimeoutError`.
            SourceCancelledError: the agent has ended. Let it pass: that is how the source ends.

        Threads: any. Blocks, but never an event loop: where one runs, the call returns an awaitable at once. Cancelling
            the awaitable is safe: no text is lost.
        """
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout must be 0 or more seconds, or None, not {timeout}")
        if running_loop() is not None:
            return self._receive_async(timeout)  # type: ignore[return-value]  # see `Text`
        try:
            return Text(self.inbox.get(timeout=timeout))
        except queue.Empty:
            assert timeout is not None
            raise ReceiveTimeoutError(self.id, timeout) from None

    async def _receive_async(self, timeout: float | None) -> str:
        try:
            async with asyncio.timeout(timeout):
                return await self.inbox.get_async()
        except TimeoutError:
            assert timeout is not None
            raise ReceiveTimeoutError(self.id, timeout) from None
        except SourceCancelledError:
            self._emitter.raise_cancelled()
        except asyncio.CancelledError:
            self._emitter.raise_if_cancelled()
            raise

    def __iter__(self) -> "AgentContext":
        return self

    def __next__(self) -> str:
        if running_loop() is not None:
            raise LoopWouldBlockError("async for text in context")
        return self.inbox.get()

    def __aiter__(self) -> "AgentContext":
        return self

    async def __anext__(self) -> str:
        return await self._receive_async(None)

    # Emitting.

    def emit(
        self,
        content: str | dict[str, Any] | list[Any],
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> Future[MessageRecord]:
        """Emit a message from a blocking source or a thread that it has started; the future is complete once it is
        on disk.

        On an event loop use `await context.aemit(...)`: this call cannot wait there, so at the agent's bound it refuses
        the message. A function of yours that a library calls on its loop is such a place, and many libraries log what
        it raises and go on; the first refusal of a run is logged.

        Args:
            content, type, role, metadata, raw: as for `Draft`.
            key: makes a repeated call harmless, also in the next run of the source: the record that is there is
                returned.

        Raises:
            SourceCancelledError: the agent has ended.
            BackpressureError: the agent is at its bound, and this is an event loop or an actor's thread (a future's
                callback), which must not block. The message is not queued.

        Durability: none on return; when the future is complete the message is on disk.
        Threads: any; blocks while the agent is at its bound. The messages of one thread keep their order.
        """
        return self._emitter.emit(Draft(content, type, role, metadata, raw, key))

    async def aemit(
        self,
        content: str | dict[str, Any] | list[Any],
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> MessageRecord:
        """Emit a message from an event loop, awaiting room at the agent's bound, and return its record.

        For async sources and the async functions that a library calls back. See `emit`.

        Raises:
            SourceCancelledError: the agent has ended.

        Durability: on return the message is on disk.
        Threads: any with a running loop. Cancelling is safe: the message is either not sent at all, or stored.
        """
        return await self._emitter.emit_async(Draft(content, type, role, metadata, raw, key))

    def put(self, draft: Draft) -> None:
        """Emit a draft without asking for its record. Blocks while the agent is at its bound, and refuses it on an
        event loop: use `await context.aput(draft)` there. Raises as `emit`.
        """
        self._emitter.put(draft)

    async def aput(self, draft: Draft) -> None:
        """Emit a draft without asking for its record, awaiting room at the agent's bound. See `put`.

        Raises:
            SourceCancelledError: the agent has ended.

        Durability: none on return; use `aemit` to wait for the disk.
        Threads: any with a running loop. Cancelling is safe: the draft is either not sent at all, or stored.
        """
        await self._emitter.put_async(draft)

    def send(self, agent: str, content: str, *, key: str | None = None) -> Future[MessageRecord]:
        """Send a durable user message to another agent, which receives it; the future is complete once it is on disk.

        Blocks while that agent is at its bound, and refuses the message on an event loop: use
        `await context.asend(...)` there.

        Args:
            agent: its id.
            content: the text.
            key: as for `emit`.

        Raises:
            SourceCancelledError: the source's own agent has ended.
            BackpressureError: as for `emit`.
        """
        return self._emitter.send(agent, content, key)

    async def asend(self, agent: str, content: str, *, key: str | None = None) -> MessageRecord:
        """Send a durable user message to another agent from an event loop, awaiting room at that agent's bound.

        See `send`.

        Returns:
            Its record, once it is on disk.

        Raises:
            SourceCancelledError: the source's own agent has ended.
            InputRefusedError: the other agent has ended, or runs a program that does not accept further input.
            InboxFullError: the other agent has not received earlier texts yet.

        Threads: any with a running loop. Cancelling is safe: the message is either not sent at all, or stored.
        """
        return await self._emitter.send_async(agent, content, key)

    def patch(
        self, configuration: dict[str, Any] | None = None, *, pid: int | None = None, pid_started: str | None = None
    ) -> Future[AgentRecord]:
        """Merge facts that became known at run time into the agent's record (a session id, a process id)."""
        self.configuration.update(configuration or {})
        return self._emitter.patch(self.configuration if configuration else {}, pid, pid_started)
