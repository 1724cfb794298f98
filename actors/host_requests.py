"""Performs what the server asks of this runtime for its clients: launch, send, terminate, verify a token, metrics.

Each request is a task on an event loop of its own thread, which starts with the first. Must never let a request wait
without an answer, whatever the host's own code does, and never log a token.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec

from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.loop import LoopThread
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Answer, Ask, Frame
from commitcast.persistence.remote.values import pack_record

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.access.verifying import Verification
    from commitcast.gateway.server.metrics import Collector
    from commitcast.gateway.server.requests import AgentControl

logger: Final = logging.getLogger(__name__)

STOP_S: Final = 2.0
"""For requests that are under way at the end."""


class HostRequests:
    """The requests of the server."""

    def __init__(
        self,
        control: "Callable[[], AgentControl]",
        verifier: "Verification | None",
        numbers: "Collector",
        send: Callable[[Frame], object],
    ) -> None:
        """Make it.

        Args:
            control: makes what carries out launch, send and terminate, when it is first needed.
            verifier: of tokens; None if nobody presents any.
            numbers: the metrics of the actors.
            send: sends an answer.
        """
        self._make_control = control
        self._verifier = verifier
        self._numbers = numbers
        self._send = send
        self._loop = LoopThread("host-requests")
        self._lock = threading.Lock()
        self._has_stopped = False
        self._unanswered: set[int] = set()
        self._verifications: dict[int, asyncio.Task[None]] = {}
        """Under way, and cancelled when nobody waits for them any more. The loop's thread only."""

    @cached_property
    def _control(self) -> "AgentControl":
        return self._make_control()

    def perform(self, ask: Ask) -> None:
        """Begin a request. Any thread; returns at once."""
        failure: Exception
        with self._lock:
            self._unanswered.add(ask.id)
            if self._has_stopped:
                failure = RuntimeStoppedError()
            else:
                try:
                    self._loop.get().call_soon_threadsafe(self._begin, ask)
                    return
                except RuntimeError as error:  # the system has no thread for it
                    failure = error
        self._answer(Answer(ask.id, failure=failure_of(failure)))

    def withdraw(self, id: int) -> None:
        """Take note that nobody waits for a request any more. Any thread; returns at once."""
        with self._lock:
            is_under_way = id in self._unanswered
            self._unanswered.discard(id)
            if is_under_way and not self._has_stopped:
                self._loop.get().call_soon_threadsafe(self._cancel, id)

    def stop(self) -> None:
        """Refuse further requests, cancel those that are under way, and end the thread. Blocks. Idempotent."""
        with self._lock:
            self._has_stopped = True
        if not self._loop.stop(STOP_S):
            logger.warning("a request of the server did not end in time: its thread is left running")
        for id in list(self._unanswered):
            self._answer(Answer(id, failure=failure_of(RuntimeStoppedError())))

    # On the loop.

    def _begin(self, ask: Ask) -> None:
        task = asyncio.ensure_future(self._perform(ask))
        if ask.method == "verify":
            self._verifications[ask.id] = task
            task.add_done_callback(lambda _: self._verifications.pop(ask.id, None))

    def _cancel(self, id: int) -> None:
        if (task := self._verifications.get(id)) is not None:
            task.cancel()

    async def _perform(self, ask: Ask) -> None:
        try:
            answer = Answer(ask.id, await self._value(ask.method, ask.arguments))
        except CommitcastError as error:
            answer = Answer(ask.id, failure=failure_of(error))
        except asyncio.CancelledError:
            answer = Answer(ask.id, failure=failure_of(RuntimeStoppedError()))
        except BaseException as error:  # the host's own code, or a defect: this request fails, and not the loop
            logger.exception("a request of the server failed: %s", ask.method)
            answer = Answer(ask.id, failure=failure_of(error))
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        """Answer a request, unless it was answered."""
        with self._lock:
            if answer.id not in self._unanswered:
                return
            self._unanswered.discard(answer.id)
        try:
            self._send(answer)
        except CommitcastError as error:  # it cannot be sent, and must be answered
            self._send(Answer(answer.id, failure=failure_of(error)))

    async def _value(self, method: str, arguments: list[Any]) -> Any:
        match method, arguments:
            case "launch", [template, prompt, key, prefix]:
                return pack_record(await self._control.launch(template, prompt, key=key, prefix=prefix))
            case "send", [agent, content, key]:
                return pack_record(await self._control.send(agent, content, key=key))
            case "terminate", [agent, reason]:
                return pack_record(await self._control.terminate(agent, reason))
            case "verify", [token]:
                return await self._verify(token)
            case "metrics", []:
                return [msgspec.to_builtins(metric) for metric in self._numbers.collect()]
            case _:
                raise CommitcastError(f"there is no request {method[:40]!r}")

    async def _verify(self, token: str) -> Any:
        if self._verifier is None:
            raise CommitcastError("this runtime verifies no tokens")
        return msgspec.to_builtins(await self._verifier.verify(token))
