"""The way from one run of a source to its agent: each draft is made storable, counted at the agent's bound, and queued.

Must never block an event loop or an actor, and never drop a message in silence: what cannot be queued raises. Called
from the source's own thread or loop, and from any thread that the source starts.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Never

from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.errors import AgentEndedError, BackpressureError, SourceCancelledError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.waiting import this_thread
from commitcast.actors.loop import running_loop
from commitcast.actors.messages import AgentCommand, Emit, Patch
from commitcast.actors.sources.cancelled import Cancelled
from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.tasks import SourceTask
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.writes import AgentPatch, NewMessage, encode_json, new_message

logger: Final = logging.getLogger(__name__)

Ask = Callable[[str, AgentCommand], Future[Any]]
Tell = Callable[[str, AgentCommand], bool]


class Emitter:
    """What one run of a source emits, sends and patches.

    Attributes:
        cancelled: set when the agent has ended; from then on everything raises `SourceCancelledError`.
        task: of an async source, while it runs.
    """

    def __init__(self, agent: str, ask: Ask, tell: Tell, credit: CreditLimiter, now: Callable[[], str]) -> None:
        """Make an emitter.

        Args:
            agent: whose source emits.
            ask: sends a command to the actor of an agent and returns the future of its reply.
            tell: sends a command to the actor of an agent and returns whether there was one.
            credit: counts what is on its way to the disk.
            now: the clock.
        """
        self.cancelled = Cancelled()
        self.task: SourceTask | None = None
        self._agent = agent
        self._ask = ask
        self._tell = tell
        self._credit = credit
        self._now = now
        self._has_warned = False
        self._lock = threading.RLock()  # of the two below
        self._put_messages = 0
        self._is_silenced = False

    def put(self, draft: Draft) -> None:
        """Queue a draft. Blocks while the agent is at its bound. Raises `SourceCancelledError`."""
        message = self.storable(draft)
        self._acquire(self._agent, message.size, "aput")
        self._queue(message)

    async def put_async(self, draft: Draft) -> None:
        """Queue a draft, awaiting at the bound. Raises `SourceCancelledError`."""
        message = self.storable(draft)
        if self.try_put(message):
            return
        if not await self._credit.acquire_async(self._agent, message.size, self.cancelled):
            self.raise_cancelled()
        self._queue(message)

    def try_put(self, message: NewMessage) -> bool:
        """Queue a message if the agent is not at its bound; return whether it was. Raises `SourceCancelledError`."""
        if self.cancelled.is_set() or not self._credit.try_acquire(self._agent, message.size):
            return False
        self._queue(message)
        return True

    def emit(self, draft: Draft) -> Future[MessageRecord]:
        """Queue a draft and return the future of its record. Blocks like `put`, but never an event loop."""
        message = self.storable(draft)
        self._acquire(self._agent, message.size, "aemit")
        return self._ask(self._agent, Emit(message, from_source=True))

    async def emit_async(self, draft: Draft) -> MessageRecord:
        """Queue a draft, awaiting at the bound, and return its record once it is on disk.

        Raises:
            SourceCancelledError: the agent has ended, before the call or while it waited.
        """
        message = self.storable(draft)
        try:
            await self._acquire_async(self._agent, message.size)
            record: MessageRecord = await self._ask(self._agent, Emit(message, from_source=True))
        except asyncio.CancelledError:
            self.raise_if_cancelled()
            raise
        except SourceCancelledError:
            raise
        except AgentEndedError:  # it ended when the message was on its way
            self.raise_cancelled()
        return record

    def send(self, agent: str, content: str, key: str | None) -> Future[MessageRecord]:
        """Send a durable user message to another agent. Blocks at that agent's bound like `put`."""
        message = self._user_message(content, key)
        self._acquire(agent, message.size, "asend")
        return self._ask(agent, Emit(message, for_source=True))

    async def send_async(self, agent: str, content: str, key: str | None) -> MessageRecord:
        """Send a durable user message to another agent, awaiting at that agent's bound; return its record."""
        message = self._user_message(content, key)
        try:
            await self._acquire_async(agent, message.size)
            record: MessageRecord = await self._ask(agent, Emit(message, for_source=True))
        except asyncio.CancelledError:
            self.raise_if_cancelled()
            raise
        return record

    def _user_message(self, content: str, key: str | None) -> NewMessage:
        return new_message(content, created_at=self._now(), type="user", role="user", key=key)

    def patch(self, configuration: dict[str, Any], pid: int | None, pid_started: str | None) -> Future[AgentRecord]:
        """Merge facts into the agent's record."""
        encoded = encode_json(configuration, "configuration") if configuration else None
        patch = AgentPatch(configuration_json=encoded, pid=pid, pid_started=pid_started)
        return self._ask(self._agent, Patch(patch))

    def silence(self) -> int | None:
        """Queue nothing more; return how many drafts were put. None if it was silenced before. Any thread."""
        with self._lock:
            if self._is_silenced:
                return None
            self._is_silenced = True
            return self._put_messages

    def storable(self, draft: Draft) -> NewMessage:
        """Return a draft as a message, with U+FFFD for bad text.

        Raises:
            InvalidValueError: something else in it cannot be stored.
        """
        try:  # `suppress` would cost 0.3 µs, 3 % of what a message costs
            return self._message(draft)
        except InvalidValueError:
            pass
        return self._message(draft.repaired())

    def raise_cancelled(self) -> Never:
        """Raise `SourceCancelledError`. In the source's own task, the cancelling on its way then does no more."""
        if self.task is not None and self.task.is_current():
            self.task.will_close()  # else its clean-up would be broken off
        raise SourceCancelledError(self._agent)

    def raise_if_cancelled(self) -> None:
        """Raise `SourceCancelledError` in place of a `CancelledError` that came because the agent has ended."""
        if self.task is not None and self.task.take_cancellation():
            raise SourceCancelledError(self._agent) from None

    def _message(self, draft: Draft) -> NewMessage:
        return new_message(
            draft.content,
            created_at=self._now(),
            type=draft.type,
            role=draft.role,
            metadata=draft.metadata,
            raw=draft.raw,
            key=draft.key,
        )

    def _queue(self, message: NewMessage) -> None:
        with self._lock:
            self._put_messages += not self._is_silenced  # before the agent, perhaps on this thread, asks for last words
            is_queued = not self._is_silenced and self._tell(self._agent, Emit(message, from_source=True))
        if not is_queued:
            self._credit.release(self._agent, 1, message.size)
            self.raise_cancelled()

    def _acquire(self, agent: str, size: int, instead: str) -> None:
        if not self.cancelled.is_set() and self._credit.try_acquire(agent, size):
            return
        may_block = running_loop() is None and not this_thread.in_turn
        try:
            is_counted = self._credit.acquire(
                agent, size, None if may_block else 0, instead=instead, given_up=self.cancelled
            )
        except BackpressureError:
            self._warn_of_refusal(agent, instead)
            raise
        if not is_counted:
            self.raise_cancelled()

    async def _acquire_async(self, agent: str, size: int) -> None:
        if not await self._credit.acquire_async(agent, size, self.cancelled):
            self.raise_cancelled()

    def _warn_of_refusal(self, agent: str, instead: str) -> None:
        """Log the first refusal of a run: a library that calls the source back may swallow the error."""
        if not self._has_warned:
            self._has_warned = True
            where = "an event loop" if running_loop() is not None else "a thread that runs actors"
            logger.warning(
                "agent %s is at its limit, so what the source of %s gives it on %s, which must not block, is refused: "
                "use `await context.%s(...)`, or another thread",
                agent,
                self._agent,
                where,
                instead,
            )
