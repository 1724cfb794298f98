"""commitcast: an actor runtime for AI agents, in which every message is durable before any subscriber receives it.

The one import place: `from commitcast import AgentRuntime, Draft, subscribe`. A name is loaded when it is first used,
so `import commitcast` costs next to nothing, and a subscriber never loads the actors. Every error is here. More names,
for hosts that build on its parts, are in `commitcast.actors`, `commitcast.gateway` and `commitcast.persistence`; a name
that is here means the same there. `python -m commitcast` is the command.
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
        CommandSource,
        Draft,
        Notice,
        RestartPolicy,
        Template,
    )
    from commitcast.actors.errors import (
        AgentBackpressureError,
        AgentEndedError,
        BackpressureError,
        CommandFailedError,
        CommandNotFoundError,
        FutureCancelledError,
        FutureTimeoutError,
        GatewayStoppedError,
        InboxFullError,
        InputRefusedError,
        LoopWouldBlockError,
        MailboxFullError,
        ReceiveTimeoutError,
        RuntimeStoppedError,
        SourceCancelledError,
        SourceError,
        TemplateFullError,
        TemplateNotFoundError,
        VerdictMissingError,
        WouldBlockError,
    )
    from commitcast.gateway import (
        BlockingClient,
        Client,
        Limits,
        StaticTokens,
        subscribe,
        subscribe_blocking,
    )
    from commitcast.gateway.protocol.errors import (
        FrameError,
        ListenError,
        RequestError,
        SubscriptionError,
    )
    from commitcast.gateway.server.errors import (
        MissingExtraError,
        TemplateUnavailableError,
        TokenError,
        VerifierUnavailableError,
    )
    from commitcast.persistence import (
        AgentRecord,
        Committed,
        MessageRecord,
        StatusChange,
    )
    from commitcast.persistence.errors import (
        AgentExistsError,
        AgentLeftError,
        AgentNotFoundError,
        CommitcastError,
        ForkedRuntimeError,
        HostError,
        IdempotencyConflictError,
        IllegalTransitionError,
        InvalidValueError,
        LinkError,
        NotADatabaseError,
        NotOwnerError,
        NotStoredError,
        PrecedingRefusedError,
        RemoteError,
        RowRefusedError,
        SchemaTooNewError,
        SequenceAheadError,
        ServerError,
        ServerLostError,
        ServerStartError,
        SettingsConflictError,
        StaleEpochError,
        StoreBusyError,
        StoreClosedError,
        StoreCorruptError,
        StoreError,
        StoreFullError,
        StoreLockedError,
        StoreOpenError,
        StorePathError,
        StoreReadError,
        StoreReadOnlyError,
        StoreReadTimeoutError,
        StoreSettingError,
        StoreUnavailableError,
        StoreUnknownError,
    )

    __version__: str

__all__ = [
    "AgentBackpressureError",
    "AgentContext",
    "AgentEndedError",
    "AgentExistsError",
    "AgentHandle",
    "AgentLeftError",
    "AgentNotFoundError",
    "AgentRecord",
    "AgentRuntime",
    "AgentStatus",
    "BackpressureError",
    "BlockingClient",
    "Client",
    "CommandFailedError",
    "CommandNotFoundError",
    "CommandSource",
    "CommitcastError",
    "Committed",
    "Draft",
    "ForkedRuntimeError",
    "FrameError",
    "FutureCancelledError",
    "FutureTimeoutError",
    "GatewayStoppedError",
    "HostError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InboxFullError",
    "InputRefusedError",
    "InvalidValueError",
    "Limits",
    "LinkError",
    "ListenError",
    "LoopWouldBlockError",
    "MailboxFullError",
    "MessageRecord",
    "MissingExtraError",
    "NotADatabaseError",
    "NotOwnerError",
    "NotStoredError",
    "Notice",
    "PrecedingRefusedError",
    "ReceiveTimeoutError",
    "RemoteError",
    "RequestError",
    "RestartPolicy",
    "RowRefusedError",
    "RuntimeStoppedError",
    "SchemaTooNewError",
    "SequenceAheadError",
    "ServerError",
    "ServerLostError",
    "ServerStartError",
    "SettingsConflictError",
    "SourceCancelledError",
    "SourceError",
    "StaleEpochError",
    "StaticTokens",
    "StatusChange",
    "StoreBusyError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreOpenError",
    "StorePathError",
    "StoreReadError",
    "StoreReadOnlyError",
    "StoreReadTimeoutError",
    "StoreSettingError",
    "StoreUnavailableError",
    "StoreUnknownError",
    "SubscriptionError",
    "Template",
    "TemplateFullError",
    "TemplateNotFoundError",
    "TemplateUnavailableError",
    "TokenError",
    "VerdictMissingError",
    "VerifierUnavailableError",
    "WouldBlockError",
    "subscribe",
    "subscribe_blocking",
]

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    _load, _names = lazy_names(
        __name__,
        "persistence.errors",
        "gateway.protocol.errors",
        "persistence",
        "gateway",
        "actors.errors",
        "actors",
    )

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        if name == "__version__":  # its module takes longer to load than all else here
            return import_module("importlib.metadata").version("commitcast")
        return _load(name)

    def __dir__() -> list[str]:
        """Return every name, loaded or not."""
        return [*_names(), "__version__"]
