"""What can go wrong above the store: an agent at its bound, a runtime that stopped, a source that failed.

CommitcastError
├── BackpressureError (TimeoutError)      the agent is at its bound; try again
│   └── MailboxFullError                  an actor has as many messages waiting as it may have; try again
├── WouldBlockError (RuntimeError)        a callback wanted to wait on a thread that runs actors
│   └── LoopWouldBlockError               a source was about to block its event loop
├── FutureTimeoutError (TimeoutError)     no answer within the time given; it may still come
├── ReceiveTimeoutError (TimeoutError)    nothing was sent to the agent within the time given
├── FutureCancelledError                  the request was taken back
├── RuntimeStoppedError (RuntimeError)    the runtime is not running
├── GatewayStoppedError (RuntimeError)    the actor that the host gave as the gateway is not alive
├── InputRefusedError (RuntimeError)      the agent takes no (further) messages of a user
├── InboxFullError (RuntimeError)         the agent has not taken what was sent to it before; try again
├── TemplateNotFoundError (LookupError)   a client wants to launch what nobody has configured
├── TemplateFullError (RuntimeError)      too many agents of a template are at work; try again
├── AgentEndedError (RuntimeError)        the agent's source spoke after its end
│   └── SourceCancelledError
└── SourceError                           a source could not do its work
    ├── CommandNotFoundError (LookupError)
    ├── CommandFailedError
    └── VerdictMissingError
"""

import pykka

from commitcast.persistence.errors import CommitcastError


class BackpressureError(CommitcastError, TimeoutError):
    """The agent has as many unacknowledged messages as it may have."""

    code = "unavailable"
    retryable = True

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return (
            f"agent {self.agent!r} has as many unacknowledged messages as it may have: "
            "wait for the futures of earlier ones, or use `await ….aemit(...)`, which waits for room"
        )


class WouldBlockError(CommitcastError, RuntimeError):
    """A thread that runs actors was asked to wait for one: it could wait for itself."""

    code = "internal"

    def __str__(self) -> str:
        return (
            "this would wait inside an actor's turn, or a future's callback, on a thread that runs actors: "
            "use add_done_callback, or hand the work to a thread of your own"
        )


class LoopWouldBlockError(WouldBlockError):
    """A source on an event loop was about to block it, and with it everything else that runs there."""

    def __str__(self) -> str:
        return "this would block the event loop that it is called on: use `await context.receive()`"


class MailboxFullError(BackpressureError):
    """As many messages wait for an actor as may wait."""

    def __init__(self, actor: str, limit_messages: int) -> None:
        super().__init__(actor)
        self.limit_messages = limit_messages

    def __str__(self) -> str:
        return f"{self.agent} has {self.limit_messages} messages waiting, as many as it may have: send it less at once"


class FutureTimeoutError(CommitcastError, pykka.Timeout, TimeoutError):
    """A future had no answer within the time given. What was asked for goes on."""

    code = "unavailable"
    retryable = True

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"no answer within {self.timeout:g} seconds: it may still come, so wait again before you repeat it"


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


class FutureCancelledError(CommitcastError):
    """The request was taken back before its actor had begun with it; nothing was done."""

    code = "unavailable"
    retryable = True

    def __str__(self) -> str:
        return "the request was cancelled before it was begun: nothing was done"


class RuntimeStoppedError(CommitcastError, RuntimeError):
    """The runtime is not running, so nothing can be done through it."""

    code = "unavailable"
    retryable = True

    def __init__(self, why: str = "it was stopped") -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the runtime is not running: {self.why}"


class GatewayStoppedError(CommitcastError, RuntimeError):
    """The actor that a host gave as the gateway is not alive, so nobody would be told of anything."""

    code = "unavailable"

    def __init__(self, actor: str) -> None:
        super().__init__(actor)
        self.actor = actor

    def __str__(self) -> str:
        return f"the gateway's actor {self.actor} is not alive: start another, and make a runtime with its ref"


class InputRefusedError(CommitcastError, RuntimeError):
    """A user's message that nobody would read: the agent has ended, or its program takes no further input."""

    code = "conflict"

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(agent, why)
        self.agent = agent
        self.why = why

    def __str__(self) -> str:
        return f"agent {self.agent!r} {self.why}: launch another with this message as its prompt"


class InboxFullError(CommitcastError, RuntimeError):
    """An agent's inbox holds as much as it may. Nothing was stored."""

    code = "limit"
    retryable = True

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"the inbox of agent {self.agent!r} is full: send this again when the agent has taken some of it"


class TemplateNotFoundError(CommitcastError, LookupError):
    """A client wants to launch what nobody has configured."""

    code = "not_found"

    def __init__(self, template: str) -> None:
        super().__init__(template)
        self.template = template

    def __str__(self) -> str:
        return f"there is no template {self.template!r:.80}: the server's owner writes them"


class TemplateFullError(CommitcastError, RuntimeError):
    """As many agents of a template are at work as may be."""

    code = "limit"
    retryable = True

    def __init__(self, template: str, most: int, *, in_all: bool = False) -> None:
        super().__init__(template, most)
        self.template = template
        self.most = most
        self.in_all = in_all

    def __str__(self) -> str:
        if self.in_all:
            return f"the server runs as many agents of the template {self.template!r} as it may: try again later"
        return f"{self.most} agents of the template {self.template!r} are at work: wait until one has ended"


class AgentEndedError(CommitcastError, RuntimeError):
    """A source spoke after the end of its agent; what it said was discarded and counted."""

    code = "bad_request"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"agent {self.agent!r} has ended: what its source says now is discarded"


class SourceCancelledError(AgentEndedError):
    """Raised inside a source to make it stop."""


class SourceError(CommitcastError):
    """A source could not do its work."""

    code = "internal"


class CommandNotFoundError(SourceError, LookupError):
    """There is no such program."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"there is no program {self.command!r}: install it, or give its full path"


class CommandFailedError(SourceError):
    """The program ended with an error, or said itself that it failed."""


class VerdictMissingError(SourceError):
    """The program ended without the final line that programs of its kind always print."""
