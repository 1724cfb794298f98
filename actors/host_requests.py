"""Performs what the server asks of this runtime for its clients: launch, send, terminate, verify a token, metrics.

Each request is a task on an event loop of its own thread, which starts with the first. Must never let a request wait
without an answer.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec

from commitcast.actors.loop import LoopThread
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Answer, Ask, Frame
from commitcast.persistence.remote.values import pack_record

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.access.auth import Verifier
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
        verifier: "Verifier | None",
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

    @cached_property
    def _control(self) -> "AgentControl":
        return self._make_control()

    def perform(self, ask: Ask) -> None:
        """Begin a request. Any thread; returns at once."""
        asyncio.run_coroutine_threadsafe(self._answer(ask), self._loop.get())

    def stop(self) -> None:
        """Cancel what is under way, and end the thread. Blocks."""
        if not self._loop.stop(STOP_S):
            logger.warning("a request of the server did not end in time: its thread is left running")

    async def _answer(self, ask: Ask) -> None:
        try:
            answer = Answer(ask.id, await self._perform(ask.method, ask.arguments))
        except CommitcastError as error:
            answer = Answer(ask.id, failure=failure_of(error))
        except asyncio.CancelledError:
            self._send(Answer(ask.id, failure=failure_of(CommitcastError("the runtime is stopping"))))
            raise
        except Exception as error:  # the host's own code, or a defect: this request fails
            logger.exception("a request of the server failed: %s", ask.method)
            answer = Answer(ask.id, failure=failure_of(error))
        self._send(answer)

    async def _perform(self, method: str, arguments: list[Any]) -> Any:
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
        grant: Any = self._verifier.verify(token)
        if inspect.isawaitable(grant):
            grant = await grant
        return msgspec.to_builtins(grant)
