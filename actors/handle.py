"""The handle of an agent, for the host: emit and send messages, end the agent, read it, wait for it.

A handle owns nothing and may be made for any id at any time; every call goes to the agent's actor or to the store.
Any thread; calls that block say so.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from commitcast.actors import messages
from commitcast.actors.errors import FutureTimeoutError, LoopWouldBlockError, RuntimeStoppedError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.waiting import this_thread
from commitcast.actors.loop import running_loop
from commitcast.actors.readers import PAGE_BYTES, Follower, Step
from commitcast.actors.sources.draft import clean_error, error_text
from commitcast.actors.system import ActorSystem
from commitcast.persistence.clock import now
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError, StoreClosedError
from commitcast.persistence.read_timeout import read_within, remaining_s
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.store import PAGE_ROWS, AgentPage
from commitcast.persistence.writes import NewMessage, encode_json, encode_text, new_message

EMIT_TIMEOUT_S: Final = 30.0
"""How long `emit` waits at the agent's bound."""

READ_S: Final = 0.1
"""How long a read may take even when no time is left, so that `wait(0)` looks once: more than an idle file needs."""

Content = str | dict[str, Any] | list[Any]


class AgentHandle:
    """The host's interface to one agent."""

    __slots__ = ("_system", "id")

    def __init__(self, agent: str, system: ActorSystem) -> None:
        """Made by the runtime."""
        self.id = agent
        self._system = system

    def __repr__(self) -> str:
        return f"<AgentHandle {self.id}>"

    # Emitting.

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
        system = self._system
        if not system.credit.try_acquire(self.id, message.size):
            self._acquire_credit(message, "aemit")
        return system.directory.emit(self.id, messages.Emit(message))

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
        message = new_message(content, created_at=now(), type=type, role=role, metadata=metadata, raw=raw, key=key)
        await self._system.credit.acquire_async(self.id, message.size)
        return await self._system.directory.emit(self.id, messages.Emit(message))

    def send(self, content: str, *, key: str | None = None) -> Future[MessageRecord]:
        """Store a user's message, and put it into the inbox of the agent's source once it is on disk.

        A repeated call with the same `key` is answered with the first one's record, and not put there again.

        Args, Returns, Raises: as for `emit`; and the future raises `InputRefusedError` if the agent has ended, or
        runs a program that does not accept further input.
        """
        try:
            message = _user_message(content, key)
        except InvalidValueError as error:
            return Future.failed(error)
        self._acquire_credit(message, "asend")
        return self._system.directory.ask(self.id, messages.Emit(message, for_source=True))

    async def asend(self, content: str, *, key: str | None = None) -> MessageRecord:
        """Store a user's message and deliver it; awaits at the bound. See `send`."""
        message = _user_message(content, key)
        await self._system.credit.acquire_async(self.id, message.size)
        record: MessageRecord = await self._system.directory.ask(self.id, messages.Emit(message, for_source=True))
        return record

    def _acquire_credit(self, message: NewMessage, instead: str) -> None:
        timeout_s = 0 if running_loop() is not None or this_thread.in_turn else self._system.emit_timeout_s
        self._system.credit.acquire(self.id, message.size, timeout_s, instead=instead)

    # Its life cycle.

    def start(self) -> Future[AgentRecord]:
        """Set the status to running. The future raises `IllegalTransitionError` if it is anything but initializing."""
        return self._ask(messages.Start)

    def complete(self, result: Any = None) -> Future[AgentRecord | None]:
        """End the agent as completed.

        Args:
            result: a JSON value, kept with the agent.

        Returns:
            The future of the record. For an unknown agent it is None; a warning is logged, and the gateway gets a
            `Notice`. It raises `IllegalTransitionError` if the agent is not running: call `start` before.
        """
        return self._ask(lambda: messages.Complete(None if result is None else encode_json(result, "result")))

    def fail(self, error: BaseException | str, *, name: str | None = None) -> Future[AgentRecord | None]:
        """End the agent as failed.

        Args:
            error: the reason; an exception's class is kept too.
            name: kept in place of the class's name.

        Returns:
            As for `complete`.
        """
        kind, text = ("Error", clean_error(error)) if isinstance(error, str) else error_text(error)
        try:
            name = name and encode_text(name, "name").decode()
        except InvalidValueError as invalid:
            return Future.failed(invalid)
        return self._ask(lambda: messages.Fail(name or kind, text or name or kind))

    def terminate(self, reason: str | None = None) -> Future[AgentRecord]:
        """End the agent as terminated, and stop its source. The future raises as for `complete`."""
        return self._ask(lambda: messages.Terminate(None if reason is None else encode_text(reason, "reason").decode()))

    def _ask(self, make: Callable[[], messages.AgentCommand]) -> Future[Any]:
        try:
            return self._system.directory.ask(self.id, make())
        except InvalidValueError as error:
            return Future.failed(error)

    # Reading it.

    def record(self) -> AgentRecord:
        """Return the agent as it is stored now. Blocks for a short read.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        record = self._system.reader.agent(self.id)
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
        return self._system.reader.messages(self.id, after, limit)

    async def amessages(self, after: int = 0, limit: int = PAGE_ROWS) -> list[MessageRecord]:
        """Return a page of stored messages, in order. See `messages`."""
        return await asyncio.to_thread(self.messages, after, limit)

    def follow(self, after: int = 0) -> Iterator[MessageRecord]:
        """Yield every message after a sequence: those that are stored, then new ones, until the agent's end.

        Raises:
            AgentNotFoundError: there is no such agent.
            RuntimeStoppedError: the runtime stopped before the agent's end.
            LoopWouldBlockError: it would block the event loop that the agent's source runs on: use `afollow`.

        Threads: any; blocks while the agent says nothing.
        """
        with self._system.readers.of(self.id, follows=True) as log:
            log.begin_after(self._system.directory.last_sequence(self.id))
            follower = Follower(log, after)
            while (step := follower.next()) is not Step.END:
                if step is Step.READ:
                    follower.take(self._page(follower.after))
                elif step is Step.WAIT:
                    self._check_may_block("async for … in handle.afollow()")
                    log.wait(follower.version)
                else:
                    yield step

    async def afollow(self, after: int = 0) -> AsyncIterator[MessageRecord]:
        """Yield every message after a sequence until the agent's end, without blocking the loop. See `follow`."""
        with self._system.readers.of(self.id, follows=True) as log:
            log.begin_after(self._system.directory.last_sequence(self.id))
            follower = Follower(log, after)
            while (step := follower.next()) is not Step.END:
                if step is Step.READ:
                    follower.take(await asyncio.to_thread(self._page, follower.after))
                elif step is Step.WAIT:
                    await log.wait_async(follower.version)
                else:
                    yield step

    def _page(self, after: int) -> AgentPage:
        try:
            return self._system.reader.entries(self.id, after, 0, max_bytes=PAGE_BYTES)
        except StoreClosedError as error:
            raise RuntimeStoppedError.after(self._system.fatal) from error

    def wait(self, timeout: float | None = None) -> AgentRecord:
        """Return the agent's record once it has ended. Blocks.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            AgentNotFoundError: there is no such agent.
            FutureTimeoutError: it did not end in time.
            RuntimeStoppedError: the runtime stopped before the agent's end.
            LoopWouldBlockError: it would block the event loop that the agent's source runs on: use `await_`.
        """
        deadline = _Deadline(timeout)
        with self._system.readers.of(self.id, follows=False) as log:
            if self._system.directory.last_sequence(self.id) is not None:  # it is at work: nothing is to be read yet
                self._check_may_block("await handle.await_()")
                deadline.check(log.wait(None, deadline.left_s()))
            while log.record is None:
                with deadline.reading():
                    record = self._record_while_running()
                if record.status.is_terminal:
                    return record
                self._check_may_block("await handle.await_()")
                deadline.check(log.wait(None, deadline.left_s()))
            return log.record

    async def await_(self, timeout: float | None = None) -> AgentRecord:
        """Return the agent's record once it has ended, without blocking the loop. See `wait`."""
        deadline = _Deadline(timeout)
        with self._system.readers.of(self.id, follows=False) as log:
            if self._system.directory.last_sequence(self.id) is not None:  # as in `wait`
                deadline.check(await log.wait_async(None, deadline.left_s()))
            while log.record is None:
                with deadline.reading():
                    record = await asyncio.wait_for(asyncio.to_thread(self._record_while_running), remaining_s())
                if record.status.is_terminal:
                    return record
                deadline.check(await log.wait_async(None, deadline.left_s()))
            return log.record

    def _check_may_block(self, instead: str) -> None:
        """Raise `LoopWouldBlockError` on the event loop that the agent's source needs to go on."""
        loop = running_loop()
        if loop is not None and self._system.directory.source_loop(self.id) is loop:
            raise LoopWouldBlockError(instead)

    def _record_while_running(self) -> AgentRecord:
        try:
            return self.record()
        except StoreClosedError as error:
            raise RuntimeStoppedError.after(self._system.fatal) from error


class _Deadline:
    """The end of a wait."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = 0.0 if timeout is None else timeout
        self._at = None if timeout is None else time.monotonic() + timeout

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read within the deadline, also while another program holds the file. Raises `FutureTimeoutError`."""
        try:
            with read_within(None if self._at is None else max(self._at - time.monotonic(), READ_S)):
                yield
        except TimeoutError as error:
            raise FutureTimeoutError(self._timeout) from error

    def left_s(self) -> float | None:
        """Return how long to wait; None for ever. Raises `FutureTimeoutError`."""
        if self._at is None:
            return None
        left_s = self._at - time.monotonic()
        self.check(left_s > 0)
        return left_s

    def check(self, is_in_time: bool) -> None:
        """Raise `FutureTimeoutError` unless what was waited for came in time."""
        if not is_in_time:
            raise FutureTimeoutError(self._timeout)


def _user_message(content: str, key: str | None) -> NewMessage:
    text = encode_text(content, "content").decode()
    return new_message(text, created_at=now(), type="user", role="user", key=key)
