"""The errors of the actors: an agent at its limit, a stopped runtime, a failed source.

Those of the actor library (`kernel/errors.py`) are exported here too.

CommitcastError
├── BackpressureError (TimeoutError)      the receiver has reached its limit; try again
│   ├── AgentBackpressureError            it is an agent, with too many unacknowledged messages
│   └── MailboxFullError                  an actor's mailbox is full; try again
├── WouldBlockError (RuntimeError)        a callback would have waited on a thread that runs actors
│   └── LoopWouldBlockError               a source would have blocked its event loop
├── FutureTimeoutError (TimeoutError)     no answer within the time given; it may still come
├── ReceiveTimeoutError (TimeoutError)    nothing was sent to the agent within the time given
├── FutureCancelledError                  the request was cancelled before it began
├── RuntimeStoppedError (RuntimeError)    the runtime is not running
├── GatewayStoppedError (RuntimeError)    the actor that the host gave as the gateway is not alive
├── InputRefusedError (RuntimeError)      the agent does not accept a user's message
├── InboxFullError (RuntimeError)         the agent has not read earlier messages yet; try again
├── TemplateNotFoundError (LookupError)   a client named a template that is not configured
├── TemplateFullError (RuntimeError)      too many agents of a template are at work; try again
├── AgentEndedError (RuntimeError)        the agent's source emitted after the agent's end
│   └── SourceCancelledError
└── SourceError                           a source could not do its work
    ├── CommandNotFoundError (LookupError)
    ├── CommandFailedError
    └── VerdictMissingError
"""

from typing import Self

from commitcast.actors.kernel.errors import (
    BackpressureError,
    FutureCancelledError,
    FutureTimeoutError,
    MailboxFullError,
    WouldBlockError,
)
from commitcast.persistence.errors import CommitcastError

__all__ = [
    "AgentBackpressureError",
    "AgentEndedError",
    "BackpressureError",
    "CommandFailedError",
    "CommandNotFoundError",
    "FutureCancelledError",
    "FutureTimeoutError",
    "GatewayStoppedError",
    "InboxFullError",
    "InputRefusedError",
    "LoopWouldBlockError",
    "MailboxFullError",
    "ReceiveTimeoutError",
    "RuntimeStoppedError",
    "SourceCancelledError",
    "SourceError",
    "TemplateFullError",
    "TemplateNotFoundError",
    "VerdictMissingError",
    "WouldBlockError",
]


class AgentBackpressureError(BackpressureError):
    """An agent has reached its limit of unacknowledged messages."""

    def __init__(self, agent: str, instead: str = "aemit") -> None:
        """Say so of an agent; `instead` is the method that waits on an event loop in place of the one called."""
        super().__init__(agent)
        self.agent = agent
        self.instead = instead

    def __str__(self) -> str:
        return (
            f"agent {self.agent!r} has reached its limit of unacknowledged messages: "
            f"wait for the futures of earlier ones, or use `await ….{self.instead}(...)`, which waits for room"
        )


class LoopWouldBlockError(WouldBlockError):
    """A source on an event loop would have blocked it, and with it everything else that runs there."""

    def __init__(self, instead: str = "await context.receive()") -> None:
        super().__init__(instead)
        self.instead = instead

    def __str__(self) -> str:
        return f"this call would block its event loop: use `{self.instead}`"


class ReceiveTimeoutError(CommitcastError, TimeoutError):
    """A source waited for a text, and none was sent to its agent within the time given."""

    code = "unavailable"
    retryable = True

    def __init__(self, agent: str, timeout: float) -> None:
        super().__init__(agent, timeout)
        self.agent = agent
        self.timeout = timeout

    def __str__(self) -> str:
        return f"nothing was sent to agent {self.agent!r} within {self.timeout:g} seconds: receive again to wait longer"


class RuntimeStoppedError(CommitcastError, RuntimeError):
    """The runtime is not running, so nothing can be done through it."""

    code = "unavailable"
    retryable = True

    def __init__(self, why: str = "it was stopped") -> None:
        super().__init__(why)
        self.why = why

    @classmethod
    def after(cls, failure: Exception | None) -> Self:
        """Return the error of what is called after a stop, with the failure that has caused it."""
        return cls() if failure is None else cls(str(failure))

    def __str__(self) -> str:
        return f"the runtime is not running: {self.why}"


class GatewayStoppedError(CommitcastError, RuntimeError):
    """The actor that a host gave as the gateway is not alive, so nothing would be cast."""

    code = "unavailable"

    def __init__(self, actor: str) -> None:
        super().__init__(actor)
        self.actor = actor

    def __str__(self) -> str:
        return f"the gateway's actor {self.actor} is not alive: start another actor, and create a runtime with its ref"


class InputRefusedError(CommitcastError, RuntimeError):
    """A user's message would not be read: the agent has ended, or its program does not read further input."""

    code = "conflict"

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(agent, why)
        self.agent = agent
        self.why = why

    def __str__(self) -> str:
        return f"agent {self.agent!r} {self.why}: launch another with this message as its prompt"


class InboxFullError(CommitcastError, RuntimeError):
    """An agent's inbox is full. Nothing was stored."""

    code = "limit"
    retryable = True

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"the inbox of agent {self.agent!r} is full: send this again when the agent has read some messages"


class TemplateNotFoundError(CommitcastError, LookupError):
    """A client named a template that is not configured."""

    code = "not_found"

    def __init__(self, template: str) -> None:
        super().__init__(template)
        self.template = template

    def __str__(self) -> str:
        return f"there is no template {self.template!r:.80}: use one that the server's owner has configured"


class TemplateFullError(CommitcastError, RuntimeError):
    """The limit of running agents of a template is reached."""

    code = "limit"
    retryable = True

    def __init__(self, template: str, most: int, *, in_all: bool = False) -> None:
        super().__init__(template, most)
        self.template = template
        self.most = most
        self.in_all = in_all

    def __str__(self) -> str:
        if self.in_all:
            return f"the server's limit of running agents of the template {self.template!r} is reached: try again later"
        return f"{self.most} agents of the template {self.template!r} are running, the limit: wait until one has ended"


class AgentEndedError(CommitcastError, RuntimeError):
    """A source emitted after the end of its agent; the message was discarded."""

    code = "bad_request"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"agent {self.agent!r} has ended: messages that its source emits now are discarded"


class SourceCancelledError(AgentEndedError):
    """Raised inside a source to make it stop."""


class SourceError(CommitcastError):
    """A source could not do its work."""

    code = "internal"


class CommandNotFoundError(SourceError, LookupError):
    """The program was not found."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"the program {self.command!r} was not found: install it, or give its full path"


class CommandFailedError(SourceError):
    """The program ended with an error, or reported itself that it failed."""


class VerdictMissingError(SourceError):
    """The program ended without the final line that programs of its kind always print."""
