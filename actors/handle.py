"""An agent as the host holds it: say something for it, end it, read it, wait for it.

A handle owns nothing and may be made for any id at any time; every call goes to the agent's actor or to the store.
Any thread; what blocks says so, and never blocks a thread that runs an event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec

from commitcast.actors.backpressure import Flow
from commitcast.actors.directory import Directory
from commitcast.actors.errors import FutureTimeoutError, RuntimeStoppedError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.waiting import is_in_turn
from commitcast.actors.loop import running_loop
from commitcast.actors.messages import AgentCommand, Complete, Emit, Fail, Start, Terminate
from commitcast.actors.signals import RECHECK_S, Watches
from commitcast.actors.sources.draft import clean_text, error_text
from commitcast.persistence.clock import now
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError, StoreClosedError
from commitcast.persistence.patience import left_s, read_within
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.store import PAGE_ROWS, Reader
from commitcast.persistence.writes import NewMessage, encode_json, encode_text, new_message

T = TypeVar("T")

EMIT_TIMEOUT_S: Final = 30.0
"""How long `emit` waits at the agent's bound."""

READ_S: Final = 0.1
"""What a read may take even when no time is left, so that `wait(0)` looks once: more than one needs on an idle file."""

Content = str | dict[str, Any] | list[Any]


class HandleServices(msgspec.Struct, frozen=True):
    """What every handle of a runtime works with."""

    directory: Directory
    flow: Flow
    store: Reader
    watches: Watches
    emit_timeout_s: float


class AgentHandle:
    """One agent."""

    __slots__ = ("_services", "id")

    def __init__(self, agent: str, services: HandleServices) -> None:
        """Made by the runtime."""
        self.id = agent
        self._services = services

    def __repr__(self) -> str:
        return f"<AgentHandle {self.id}>"

    # Saying something.

    def emit(
        self,
        content: Content,
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> Future[MessageRecord]:
        """Store a message of the agent and send it to its subscribers.

        Args:
            content: text, or a dict or list to be kept as JSON. A text that looks like a number stays text.
            type: assistant, user, system, error, tool or response.
            role: the speaker, if that says more than the type.
            metadata: a JSON object.
            raw: the producer's own bytes.
            key: makes a repeated call harmless: the record that is there already is returned.

        Returns:
            The future of the record as stored. It raises `InvalidValueError` for what cannot be stored,
            `AgentNotFoundError`, or the store's own error.

        Raises:
            BackpressureError: the agent was at its bound for `emit_timeout_s`; at once on an event loop's thread and
                in a future's callback.

        Durability: none on return; when the future is complete the message is on disk.
        Threads: any; blocks at the bound. The messages of one thread keep their order.
        """
        try:
            message = new_message(content, created_at=now(), type=type, role=role, metadata=metadata, raw=raw, key=key)
        except InvalidValueError as error:
            return Future.failed(error)
        services = self._services
        if not services.flow.try_acquire(self.id, message.size):
            self._wait_for_place(message)
        return services.directory.emit(self.id, Emit(message))

    async def aemit(
        self,
        content: Content,
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> MessageRecord:
        """Store a message and return its record once it is on disk; awaits at the bound. See `emit`.

        Cancelling is safe: the message is either not sent at all, or stored.
        """
        message = _message(content, type, role, metadata, raw, key)
        await self._services.flow.acquire_async(self.id, message.size)
        return await self._services.directory.emit(self.id, Emit(message))

    def send(self, content: str, *, key: str | None = None) -> Future[MessageRecord]:
        """Store a user's message, and put it into the inbox of the agent's source once it is on disk.

        One that comes again under its `key` is answered with the first one's record, and not put there again.

        Args, Returns, Raises: as for `emit`; and the future raises `InputRefusedError` if the agent has ended, or
        runs a program that takes no further input.
        """
        try:
            message = _message(encode_text(content, "content").decode(), "user", "user", None, None, key)
        except InvalidValueError as error:
            return Future.failed(error)
        self._wait_for_place(message)
        return self._ask_to_send(message)

    async def asend(self, content: str, *, key: str | None = None) -> MessageRecord:
        """Store a user's message and deliver it; awaits at the bound. See `send`."""
        message = _message(encode_text(content, "content").decode(), "user", "user", None, None, key)
        await self._services.flow.acquire_async(self.id, message.size)
        return await self._ask_to_send(message)

    def _ask_to_send(self, message: NewMessage) -> Future[MessageRecord]:
        return self._services.directory.ask(self.id, Emit(message, for_source=True))

    def _wait_for_place(self, message: NewMessage) -> None:
        timeout_s = 0 if running_loop() is not None or is_in_turn() else self._services.emit_timeout_s
        self._services.flow.acquire(self.id, message.size, timeout_s)

    # Its life.

    def start(self) -> Future[AgentRecord]:
        """Make it running. The future raises `IllegalTransitionError` if it is anything but initializing."""
        return self._ask(Start)

    def complete(self, result: Any = None) -> Future[AgentRecord | None]:
        """Make it completed.

        Args:
            result: a JSON value, kept with the agent.

        Returns:
            The future of the record; of None for an unknown agent, of which a warning is logged and the gateway told.
            It raises `IllegalTransitionError` if the agent is not running.
        """
        return self._ask(lambda: Complete(None if result is None else encode_json(result, "result")))

    def fail(self, error: BaseException | str, *, name: str | None = None) -> Future[AgentRecord | None]:
        """Make it failed.

        Args:
            error: why; of an exception its class is kept too.
            name: in place of the class's name.

        Returns:
            As for `complete`.
        """
        kind, text = ("Error", clean_text(error)) if isinstance(error, str) else error_text(error)
        return self._ask(lambda: Fail(name or kind, text or name or kind))

    def terminate(self, reason: str | None = None) -> Future[AgentRecord]:
        """End it, whatever it is doing, and make its source stop. The future raises as for `complete`."""
        return self._ask(lambda: Terminate(None if reason is None else encode_text(reason, "reason").decode()))

    def _ask(self, make: Callable[[], AgentCommand]) -> Future[Any]:
        try:
            return self._services.directory.ask(self.id, make())
        except InvalidValueError as error:
            return Future.failed(error)

    # Reading it.

    def record(self) -> AgentRecord:
        """Return the agent as it is stored now. Blocks for a short read.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        record = self._services.store.agent(self.id)
        if record is None:
            raise AgentNotFoundError(self.id)
        return record

    async def arecord(self) -> AgentRecord:
        """Return the agent as it is stored now. See `record`."""
        return await asyncio.to_thread(self.record)

    def messages(self, after: int = 0, limit: int = PAGE_ROWS) -> list[MessageRecord]:
        """Return a page of stored messages, in order.

        Args:
            after: the sequence before the first of them.
            limit: how many at most; a page of very large messages may be shorter, but is empty only at the end.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        if after < 0 or limit < 1:
            raise InvalidValueError(f"after must be 0 or more and limit 1 or more, not {after} and {limit}")
        return self._services.store.messages(self.id, after, limit)

    async def amessages(self, after: int = 0, limit: int = PAGE_ROWS) -> list[MessageRecord]:
        """Return a page of stored messages, in order. See `messages`."""
        return await asyncio.to_thread(self.messages, after, limit)

    def follow(self, after: int = 0) -> Iterator[MessageRecord]:
        """Yield every message after a sequence: those that are stored, then new ones, until the agent's end.

        Raises:
            AgentNotFoundError: there is no such agent.
            RuntimeStoppedError: the runtime stopped before the agent's end.

        Threads: any; blocks while the agent says nothing.
        """
        watch = self._services.watches.enter(self.id)
        try:
            while True:
                version = watch.version
                is_over = self._guard(self.record).status.is_terminal  # before the page: what was said before it is in
                page = self._guard(lambda after=after: self._services.store.messages(self.id, after))  # type: ignore[misc]
                yield from page
                if page:
                    after = page[-1].sequence
                elif is_over:
                    return
                else:
                    watch.wait(version, RECHECK_S)
        finally:
            self._services.watches.leave(self.id)

    async def afollow(self, after: int = 0) -> AsyncIterator[MessageRecord]:
        """Yield every message after a sequence until the agent's end, without blocking the loop. See `follow`."""
        watch = self._services.watches.enter(self.id)
        try:
            while True:
                version = watch.version
                is_over = (await asyncio.to_thread(self._guard, self.record)).status.is_terminal
                page = await asyncio.to_thread(
                    self._guard, lambda after=after: self._services.store.messages(self.id, after)
                )
                for message in page:
                    yield message
                if page:
                    after = page[-1].sequence
                elif is_over:
                    return
                else:
                    await watch.wait_async(version, RECHECK_S)
        finally:
            self._services.watches.leave(self.id)

    def wait(self, timeout: float | None = None) -> AgentRecord:
        """Return the agent's record once it has ended. Blocks.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            AgentNotFoundError: there is no such agent.
            FutureTimeoutError: it did not end in time.
            RuntimeStoppedError: the runtime stopped before the agent's end.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        watch = self._services.watches.enter(self.id)
        try:
            while True:
                version = watch.version
                with _in_time(deadline, timeout):
                    record = self._guard(self.record)
                if record.status.is_terminal:
                    return record
                watch.wait(version, _left(deadline, timeout))
        finally:
            self._services.watches.leave(self.id)

    async def await_(self, timeout: float | None = None) -> AgentRecord:
        """Return the agent's record once it has ended, without blocking the loop. See `wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        watch = self._services.watches.enter(self.id)
        try:
            while True:
                version = watch.version
                with _in_time(deadline, timeout):
                    reading = asyncio.to_thread(self._guard, self.record)
                    record = await asyncio.wait_for(reading, left_s())
                if record.status.is_terminal:
                    return record
                await watch.wait_async(version, _left(deadline, timeout))
        finally:
            self._services.watches.leave(self.id)

    def _guard(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except StoreClosedError as error:
            raise RuntimeStoppedError from error


@contextmanager
def _in_time(deadline: float | None, timeout: float | None) -> Iterator[None]:
    """Read within a deadline, also while another program holds the file."""
    try:
        with read_within(None if deadline is None else max(deadline - time.monotonic(), READ_S)):
            yield
    except TimeoutError as error:
        raise FutureTimeoutError(timeout or 0.0) from error


def _left(deadline: float | None, timeout: float | None) -> float:
    if deadline is None or timeout is None:
        return RECHECK_S
    left = deadline - time.monotonic()
    if left <= 0:
        raise FutureTimeoutError(timeout)
    return min(left, RECHECK_S)


def _message(
    content: Content,
    type: str,
    role: str | None,
    metadata: dict[str, Any] | None,
    raw: bytes | str | None,
    key: str | None,
) -> NewMessage:
    return new_message(content, created_at=now(), type=type, role=role, metadata=metadata, raw=raw, key=key)
