"""What a client may have done to agents: launch, send and terminate. Rights are checked here, for each request anew.

The work itself is the host's, behind `Operations`. Must never tell a caller of an agent that it may not know of: such
an agent is answered for like one that there is not. Runs on the gateway's loop.
"""

import hashlib
from typing import Final, Protocol, assert_never

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import Grant, Operation
from commitcast.persistence.errors import (
    AgentNotFoundError,
    CommitcastError,
    IdempotencyConflictError,
    StoreError,
)
from commitcast.persistence.records import AgentRecord, MessageRecord

Request = frames.Launch | frames.Send | frames.Terminate

_CODES: Final = frozenset(code.value for code in ErrorCode)


class Operations(Protocol):
    """What the host does for clients. Errors are `CommitcastError`s, whose text the client is told."""

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent from a template, with an id that begins with a prefix; return it once it is on disk."""

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Store a user's message and deliver it; return it once it is on disk."""

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """End an agent, or find it ended; return it once that is on disk."""


class Refusal(Exception):
    """A request is answered with an `error` frame."""

    def __init__(self, code: ErrorCode, message: str, *, retry: bool = False, head: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry = retry
        self.head = head


def refusal_of(error: CommitcastError) -> Refusal:
    """Return what a client is told of an error: its own words, but of a store's none, for they name files."""
    code = ErrorCode(error.code) if error.code in _CODES else ErrorCode.INTERNAL
    if isinstance(error, StoreError):
        code, message = ErrorCode.UNAVAILABLE, "the store cannot be read or written now: try again later"
        return Refusal(code, message, retry=True)
    return Refusal(code, str(error), retry=error.retryable)


def check_may_read(grant: Grant, agent: str) -> None:
    """Check the right to subscribe to an agent, or to all.

    Raises:
        Refusal: there is none.
    """
    if agent == frames.ALL:
        if not grant.allows_everywhere(Operation.READ):
            raise Refusal(ErrorCode.FORBIDDEN, "this needs the right to read every agent: subscribe to one of yours")
    elif not grant.allows(Operation.READ, agent):
        raise refusal_of(AgentNotFoundError(agent))


async def perform(operations: Operations | None, grant: Grant, request: Request) -> frames.Ok:
    """Do what was asked for, if the caller may.

    Raises:
        Refusal: it may not, or it could not be done.
    """
    try:
        match request:
            case frames.Launch():
                return await _launch(operations, grant, request)
            case frames.Send():
                _check(grant, Operation.SEND, request.agent)
                return await _send(_given(operations), grant, request)
            case frames.Terminate():
                _check(grant, Operation.TERMINATE, request.agent)
                ended = await _given(operations).terminate(request.agent, request.reason)
                return frames.Ok(id=request.id, agent=ended.id, status=ended.status.value)
            case _:
                assert_never(request)
    except IdempotencyConflictError as error:
        message = "the key was used with something else before: choose a new one for each thing that is wanted"
        raise Refusal(ErrorCode.BAD_REQUEST, message) from error
    except CommitcastError as error:
        raise refusal_of(error) from error


async def _launch(operations: Operations | None, grant: Grant, request: frames.Launch) -> frames.Ok:
    prefix = grant.launch_prefix()
    if prefix is None:
        raise Refusal(ErrorCode.FORBIDDEN, "this needs the right to launch: present a token that has it")
    key = _own_key(grant, request.key)
    launched = await _given(operations).launch(request.template, request.prompt, key=key, prefix=prefix)
    return frames.Ok(id=request.id, agent=launched.id, status=launched.status.value)


async def _send(operations: Operations, grant: Grant, request: frames.Send) -> frames.Ok:
    sent = await operations.send(request.agent, request.content, key=_own_key(grant, request.key))
    return frames.Ok(id=request.id, agent=sent.agent, sequence=sent.sequence)


def _given(operations: Operations | None) -> Operations:
    if operations is None:
        raise Refusal(ErrorCode.FORBIDDEN, "this server is read-only")
    return operations


def _check(grant: Grant, operation: Operation, agent: str) -> None:
    if grant.allows(operation, agent):
        return
    if grant.allows(Operation.READ, agent):
        raise Refusal(ErrorCode.FORBIDDEN, f"this needs the right to {operation.value}: present a token that has it")
    raise AgentNotFoundError(agent)


def _own_key(grant: Grant, key: str | None) -> str | None:
    """Return the key as it is stored: two callers that choose the same one do not meet, nor do they meet the host's."""
    if key is None:
        return None
    return "client:" + hashlib.sha256(f"{grant.subject}\n{key}".encode()).hexdigest()[:40]
