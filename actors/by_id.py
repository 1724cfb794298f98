"""What can be done for an agent by its id, without its handle."""

from abc import ABC, abstractmethod
from typing import Any

from commitcast.actors.handle import AgentHandle, Content
from commitcast.actors.kernel.future import Future
from commitcast.persistence.records import AgentRecord, MessageRecord


class AgentsById(ABC):
    """Agents that can be spoken for by id."""

    @abstractmethod
    def _handle(self, agent: str) -> AgentHandle:
        """Return the handle of an agent, whether there is one or not."""

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

    def complete(self, agent_id: str, result: Any = None) -> Future[AgentRecord | None]:
        """Make an agent completed. See `AgentHandle.complete`."""
        return self._handle(agent_id).complete(result)

    def fail(self, agent_id: str, error: BaseException | str, *, name: str | None = None) -> Future[AgentRecord | None]:
        """Make an agent failed. See `AgentHandle.fail`."""
        return self._handle(agent_id).fail(error, name=name)
