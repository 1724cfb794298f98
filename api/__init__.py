"""commitcast: an actor runtime for AI agents, in which every message is durable before any subscriber receives it.

The one import place: `from commitcast import AgentRuntime, Draft, subscribe`. A name is loaded when it is first used,
so `import commitcast` costs next to nothing, and a subscriber never loads the actors. More names, for hosts that build
on its parts, are in `commitcast.actors`, `commitcast.gateway` and `commitcast.persistence`; a name that is here means
the same there. `python -m commitcast` is the command.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from commitcast.persistence.lazy import lazy_names

if TYPE_CHECKING:
    from commitcast.actors import (
        AgentContext,
        AgentHandle,
        AgentRuntime,
        AgentStatus,
        BackpressureError,
        CommandSource,
        Draft,
        FutureTimeoutError,
        RestartPolicy,
        RuntimeStoppedError,
        Template,
    )
    from commitcast.gateway import (
        BlockingClient,
        Client,
        Limits,
        ListenError,
        MissingExtraError,
        RequestError,
        StaticTokens,
        SubscriptionError,
        TokenError,
        subscribe,
        subscribe_blocking,
    )
    from commitcast.persistence import (
        AgentExistsError,
        AgentNotFoundError,
        AgentRecord,
        CommitcastError,
        ForkedRuntimeError,
        IdempotencyConflictError,
        IllegalTransitionError,
        InvalidValueError,
        MessageRecord,
        NotStoredError,
        StoreError,
        StoreOpenError,
        StoreUnknownError,
    )

    __version__: str

__all__ = [
    "AgentContext",
    "AgentExistsError",
    "AgentHandle",
    "AgentNotFoundError",
    "AgentRecord",
    "AgentRuntime",
    "AgentStatus",
    "BackpressureError",
    "BlockingClient",
    "Client",
    "CommandSource",
    "CommitcastError",
    "Draft",
    "ForkedRuntimeError",
    "FutureTimeoutError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InvalidValueError",
    "Limits",
    "ListenError",
    "MessageRecord",
    "MissingExtraError",
    "NotStoredError",
    "RequestError",
    "RestartPolicy",
    "RuntimeStoppedError",
    "StaticTokens",
    "StoreError",
    "StoreOpenError",
    "StoreUnknownError",
    "SubscriptionError",
    "Template",
    "TokenError",
    "subscribe",
    "subscribe_blocking",
]

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    _load, _names = lazy_names(__name__, "persistence", "gateway", "actors")

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        if name == "__version__":  # its module takes longer to load than all else here
            return import_module("importlib.metadata").version("commitcast")
        return _load(name)

    def __dir__() -> list[str]:
        """Return every name, loaded or not."""
        return [*_names(), "__version__"]
