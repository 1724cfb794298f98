"""The runtime's methods for agents: launch them, look them up, and act on one by its id.

The other half of `AgentRuntime`, which is composition and life cycle. Any thread.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from commitcast.actors.handle import AgentHandle, Content
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.launching import Launch
from commitcast.actors.sources.runner import Source
from commitcast.actors.system import ActorSystem
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.store import PAGE_ROWS, Reader


class AgentApi(ABC):
    """The agents of a runtime."""

    @property
    @abstractmethod
    def _running(self) -> ActorSystem:
        """The actors while the runtime is running. Raises `RuntimeStoppedError`."""

    @property
    @abstractmethod
    def _reader(self) -> Reader:
        """Reads what is committed."""

    @abstractmethod
    def _handle(self, agent: str) -> AgentHandle:
        """Return the handle for an id, whether there is such an agent or not. Raises `RuntimeStoppedError`."""

    def launch(
        self,
        source: Source | None = None,
        *,
        type: str | None = None,
        prompt: str = "",
        configuration: dict[str, Any] | None = None,
        id: str | None = None,
        idempotency_key: str | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
    ) -> AgentHandle:
        """Create an agent and start its source. Blocks for one commit.

        Args:
            source: a callable that takes an `AgentContext` and returns or yields `str` or `Draft`, sync or async; or a
                `CommandSource`. None: the host drives the agent through the handle.
            type: free text; None is the type of the source if it has one, else "agent".
            prompt: kept with the agent; if not empty it is message 1, of type user.
            configuration: a JSON object, kept with the agent.
            id: 1 to 128 of A-Z a-z 0-9 . _ : -; a UUID if None.
            idempotency_key: makes a repeated launch return the agent that is there already.
            restart: "on_failure" runs the source again when it fails, five times in 30 s at most; the sequence goes
                on, and a message of type system marks each restart. A `RestartPolicy` sets other limits.

        Returns:
            A handle, once the agent is on disk.

        Raises:
            InvalidValueError: one of the arguments cannot be stored.
            AgentExistsError: the id is taken.
            IdempotencyConflictError: the key was used with another type, prompt or configuration.
            StoreError: it could not be stored.
            RuntimeStoppedError: the runtime is not running.
        """
        launch = Launch(source, type, prompt, configuration, id, idempotency_key, restart)
        return self._handle(self._running.launcher.launch(launch).get())

    async def alaunch(
        self,
        source: Source | None = None,
        *,
        type: str | None = None,
        prompt: str = "",
        configuration: dict[str, Any] | None = None,
        id: str | None = None,
        idempotency_key: str | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
    ) -> AgentHandle:
        """Create an agent without blocking the loop; an async source runs on the calling loop. See `launch`.

        Cancelling leaves the launch as it is: the agent may come to be, and its source to run.
        """
        launch = Launch(source, type, prompt, configuration, id, idempotency_key, restart)
        return self._handle(await self._running.launcher.launch(launch, asyncio.get_running_loop()))

    def launch_many(self, count: int, *, type: str = "agent", ids: Sequence[str] | None = None) -> list[AgentHandle]:
        """Create agents without a source, many to a commit. Blocks.

        Args:
            count: how many.
            type: of all.
            ids: one for each; UUIDs if None.

        Raises:
            As for `launch`; of a batch with a refused agent the others are created.
        """
        return [self._handle(agent) for agent in self._running.launcher.launch_many(count, type, ids)]

    def agent(self, id: str) -> AgentHandle:
        """Return the handle of an agent. Blocks for a short read.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        if self._reader.agent(id) is None:
            raise AgentNotFoundError(id)
        return self._handle(id)

    def agents(
        self, status: AgentStatus | str | None = None, *, after: int = 0, limit: int = PAGE_ROWS
    ) -> list[AgentRecord]:
        """Return a page of agents in order of creation.

        Args:
            status: only those that have it now.
            after: the `position` of the last record of the page before.
            limit: how many at most.

        Raises:
            InvalidValueError: there is no such status.
        """
        return self._reader.agents(None if status is None else checked_status(status), after, limit)

    def emit(
        self,
        agent_id: str,
        content: Content,
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> Future[MessageRecord]:
        """Store a message of an agent and send it to its subscribers. See `AgentHandle.emit`.

        For an unknown agent the future raises `AgentNotFoundError`, and the gateway gets a `Notice`.
        """
        handle = self._handle(agent_id)
        return handle.emit(content, type=type, role=role, metadata=metadata, raw=raw, key=key)

    async def aemit(
        self,
        agent_id: str,
        content: Content,
        *,
        type: str = "assistant",
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        key: str | None = None,
    ) -> MessageRecord:
        """Store a message of an agent, and return its record once it is on disk. See `AgentHandle.aemit`.

        Raises `AgentNotFoundError` for an unknown agent, and the gateway gets a `Notice`.
        """
        handle = self._handle(agent_id)
        return await handle.aemit(content, type=type, role=role, metadata=metadata, raw=raw, key=key)

    def complete(self, agent_id: str, result: Any = None) -> Future[AgentRecord | None]:
        """Make an agent completed. See `AgentHandle.complete`."""
        return self._handle(agent_id).complete(result)

    def fail(self, agent_id: str, error: BaseException | str, *, name: str | None = None) -> Future[AgentRecord | None]:
        """Make an agent failed. See `AgentHandle.fail`."""
        return self._handle(agent_id).fail(error, name=name)


def checked_status(status: AgentStatus | str) -> AgentStatus:
    """Return a status. Raises `InvalidValueError`."""
    try:
        return AgentStatus(status)
    except ValueError:
        known = ", ".join(AgentStatus)
        raise InvalidValueError(f"{status!r:.80} is not an agent status: use one of {known}") from None
