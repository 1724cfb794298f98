"""Answers the clients' requests: subscribe, launch, send and terminate. Rights are checked each time.

`AgentControl` is the host, which does the work. Must never reveal an agent that the caller may not read: such an agent
is answered for exactly like one that does not exist. Runs on the gateway's loop.
"""

import hashlib
from typing import Final, NamedTuple, Protocol, assert_never

from commitcast.gateway.hub.encoding import agent_view
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import Grant, Permission
from commitcast.gateway.server.errors import TokenError
from commitcast.gateway.server.reader import StoreReader
from commitcast.persistence.errors import (
    AgentNotFoundError,
    CommitcastError,
    IdempotencyConflictError,
    SequenceAheadError,
    StoreError,
)
from commitcast.persistence.records import AgentRecord, MessageRecord

ControlFrame = frames.Launch | frames.Send | frames.Terminate

_CODES: Final = frozenset(code.value for code in ErrorCode)


class AgentControl(Protocol):
    """What the host does for clients. Errors are `CommitcastError`s, whose text is sent to the client."""

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent from a template, with an id that begins with a prefix; return it once it is on disk."""

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Store a user's message and deliver it; return it once it is on disk."""

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """End an agent unless it has ended; return it once that is on disk."""


class Refusal(Exception):
    """A request is answered with an `error` frame."""

    def __init__(self, code: ErrorCode, message: str, *, retry: bool = False, head: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry = retry
        self.head = head


def refusal_of(error: CommitcastError) -> Refusal:
    """Return what a client is told of an error: its text, except that of a store's errors, which names files."""
    match error:
        case StoreError():
            message = "the store cannot be read or written now: try again later"
            return Refusal(ErrorCode.UNAVAILABLE, message, retry=True)
        case TokenError():
            return Refusal(error.error_code, str(error), retry=error.error_code.retry)
        case IdempotencyConflictError():
            message = "the key was already used for a different request: use a new key for each request"
            return Refusal(ErrorCode.BAD_REQUEST, message)
        case SequenceAheadError():
            return Refusal(ErrorCode.AHEAD, str(error), head=error.head)
        case _:
            code = ErrorCode(error.code) if error.code in _CODES else ErrorCode.INTERNAL
            return Refusal(code, str(error), retry=error.retryable)


def check_may_read(grant: Grant, agent: str) -> None:
    """Check the permission to subscribe to an agent, or to all.

    Raises:
        Refusal: the grant does not have it.
    """
    if agent == frames.ALL:
        if not grant.allows_everywhere(Permission.READ):
            raise Refusal(ErrorCode.FORBIDDEN, "this needs the right to read every agent: subscribe to one of yours")
    elif not grant.allows(Permission.READ, agent):
        raise refusal_of(AgentNotFoundError(agent))


class ResolvedSubscription(NamedTuple):
    """Where a subscription begins."""

    reply: frames.Subscribed
    position: int
    """Of the last entry that the client has."""
    epoch: str
    """The agent's own, which its entries carry; empty for all agents."""


class Requests:
    """Answers the requests of all clients of one gateway."""

    def __init__(self, reader: StoreReader, control: AgentControl | None, redactor: Redactor) -> None:
        """Make it; without a `control`, the host, the gateway is read-only."""
        self.control = control
        self._reader = reader
        self._redactor = redactor

    # Subscribe.

    async def resolve(self, grant: Grant, frame: frames.Subscribe) -> ResolvedSubscription:
        """Check a `subscribe`: the permission to read, and the cursor against the log. Return its reply.

        Raises:
            Refusal: the agent does not exist or may not be read.
            CommitcastError: as well, or the cursor does not belong to its log. See `refusal_of`.
        """
        if frame.agent == frames.ALL:
            return await self._resolve_all(grant, frame)
        return await self._resolve_agent(grant, frame)

    async def _resolve_agent(self, grant: Grant, frame: frames.Subscribe) -> ResolvedSubscription:
        after = None if frame.after == "tail" else frame.after
        try:
            cursor = await self._reader.read(self._reader.store.resolve_cursor, frame.agent, after, frame.epoch)
        finally:  # after the read, so that it takes as long as for an agent that does not exist; and before its errors
            check_may_read(grant, frame.agent)
        record = cursor.record
        reply = frames.Subscribed(
            id=frame.id,
            agent=frame.agent,
            epoch=cursor.epoch,
            after=record.head if after is None else after,
            head=record.head,
            first=1,
            status=record.status.value,
            record=agent_view(record, self._redactor),
        )
        _check_cursor(reply)
        return ResolvedSubscription(reply, cursor.position, record.epoch)

    async def _resolve_all(self, grant: Grant, frame: frames.Subscribe) -> ResolvedSubscription:
        check_may_read(grant, frame.agent)
        known = None if frame.after == "tail" else frame.after
        last, epoch = await self._reader.read(self._reader.store.position, known, frame.epoch)
        after = last if known is None else known
        reply = frames.Subscribed(
            id=frame.id, agent=frame.agent, epoch=epoch, after=after, head=last, first=1, status=None, record=None
        )
        _check_cursor(reply)
        return ResolvedSubscription(reply, after, "")

    # Launch, send, terminate.

    async def perform(self, grant: Grant, frame: ControlFrame) -> frames.Ok:
        """Have the host do what a frame asks for, if the caller may; return the reply.

        Raises:
            Refusal: the caller may not.
            CommitcastError: it could not be done. See `refusal_of`.
        """
        match frame:
            case frames.Launch():
                return await self._launch(grant, frame)
            case frames.Send():
                return await self._send(grant, frame)
            case frames.Terminate():
                return await self._terminate(grant, frame)
            case _:
                assert_never(frame)

    async def _launch(self, grant: Grant, frame: frames.Launch) -> frames.Ok:
        prefix = grant.launch_prefix()
        if prefix is None:
            raise Refusal(ErrorCode.FORBIDDEN, "this needs the right to launch: present a token that has it")
        key = _stored_key(grant, frame.key)
        launched = await self._host().launch(frame.template, frame.prompt, key=key, prefix=prefix)
        return frames.Ok(id=frame.id, agent=launched.id, status=launched.status.value)

    async def _send(self, grant: Grant, frame: frames.Send) -> frames.Ok:
        _check(grant, Permission.SEND, frame.agent)
        sent = await self._host().send(frame.agent, frame.content, key=_stored_key(grant, frame.key))
        return frames.Ok(id=frame.id, agent=sent.agent, sequence=sent.sequence)

    async def _terminate(self, grant: Grant, frame: frames.Terminate) -> frames.Ok:
        _check(grant, Permission.TERMINATE, frame.agent)
        ended = await self._host().terminate(frame.agent, frame.reason)
        return frames.Ok(id=frame.id, agent=ended.id, status=ended.status.value)

    def _host(self) -> AgentControl:
        if self.control is None:
            raise Refusal(ErrorCode.FORBIDDEN, "this server is read-only")
        return self.control


def _check_cursor(reply: frames.Subscribed) -> None:
    if reply.after > reply.head:
        raise SequenceAheadError(reply.after, reply.head)


def _check(grant: Grant, permission: Permission, agent: str) -> None:
    if grant.allows(permission, agent):
        return
    if grant.allows(Permission.READ, agent):
        raise Refusal(ErrorCode.FORBIDDEN, f"this needs the right to {permission.value}: present a token that has it")
    raise AgentNotFoundError(agent)


def _stored_key(grant: Grant, key: str | None) -> str | None:
    """Return an idempotency key as it is stored: unlike the same key of another caller, and unlike any of the host."""
    if key is None:
        return None
    return "client:" + hashlib.sha256(f"{grant.subject}\n{key}".encode()).hexdigest()[:40]
