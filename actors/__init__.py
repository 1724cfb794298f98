"""The agent runtime, its actors, and the sources that feed them.

The top floor: it imports the gateway and persistence.
"""

from typing import TYPE_CHECKING

from commitcast.persistence.lazy import lazy_names

if TYPE_CHECKING:
    from commitcast.actors.errors import BackpressureError, FutureTimeoutError, RuntimeStoppedError
    from commitcast.actors.handle import AgentHandle
    from commitcast.actors.kernel.supervision import RestartPolicy
    from commitcast.actors.messages import Notice
    from commitcast.actors.metrics import RuntimeStats
    from commitcast.actors.runtime import AgentRuntime
    from commitcast.actors.sources.command import CommandSource
    from commitcast.actors.sources.context import AgentContext
    from commitcast.actors.sources.draft import Draft
    from commitcast.actors.templates import Template
    from commitcast.persistence.records import AgentStatus, Committed, StatusChange

__all__ = [
    "AgentContext",
    "AgentHandle",
    "AgentRuntime",
    "AgentStatus",
    "BackpressureError",
    "CommandSource",
    "Committed",
    "Draft",
    "FutureTimeoutError",
    "Notice",
    "RestartPolicy",
    "RuntimeStats",
    "RuntimeStoppedError",
    "StatusChange",
    "Template",
]

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    __getattr__, __dir__ = lazy_names(
        __name__,
        "errors",
        "sources.draft",
        "sources.context",
        "messages",
        "kernel.supervision",
        "metrics",
        "handle",
        "runtime",
        "sources.command",  # behind the runtime, which does without these two
        "templates",
        "agent",
    )
