"""One connection's conversation: client frames in, replies out. Runs on the gateway's loop.

Owns the caller's grant, its rate, and the liveness of its connection. A client's mistake must never end anything but
that client's request.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Final, NamedTuple, assert_never

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.hub import Hub
from commitcast.gateway.hub.subscription import Subscription
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, FrameError
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.access.authentication import Authenticator
from commitcast.gateway.server.access.limits import BYTES_PER_REQUEST, Bucket, Limits
from commitcast.gateway.server.errors import TokenError, VerifierUnavailableError
from commitcast.gateway.server.metrics import Traffic
from commitcast.gateway.server.peer import LivenessMonitor, Peer
from commitcast.gateway.server.pump import Pump
from commitcast.gateway.server.requests import ControlFrame, Refusal, Requests, check_may_read, refusal_of
from commitcast.gateway.server.tasks import BackgroundTasks
from commitcast.persistence.errors import CommitcastError

logger: Final = logging.getLogger(__name__)

INTERNAL_ERROR: Final = 1011
"""RFC 6455 section 7.4.1; a client reconnects after it."""
MAX_BAD_FRAMES: Final = 100
"""Invalid ones in a row: such a client speaks another protocol."""
_COSTS: Final[dict[type[frames.ClientFrame], float]] = {frames.Send: 5.0, frames.Launch: 20.0, frames.Terminate: 20.0}
"""In requests; see `Limits.requests_per_s`."""

_CLOSE_CODES: Final = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
    ErrorCode.RATE_LIMITED: CloseCode.RATE,
    ErrorCode.UNAVAILABLE: CloseCode.UNAVAILABLE,
}


class SessionContext(NamedTuple):
    """What all sessions of one gateway share."""

    hub: Hub
    pump: Pump
    tasks: BackgroundTasks
    requests: Requests
    authenticator: Authenticator
    limits: Limits
    traffic: Traffic
    heartbeat_s: float


class Session:
    """One connection's requests."""

    def __init__(self, peer: Peer, context: SessionContext) -> None:
        self.peer = peer
        self._context = context
        self._grant: Grant | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._verifying: asyncio.Timeout | None = None
        """Ends the wait for a verification, while there is one."""
        self._running_requests = asyncio.Semaphore(context.limits.running_requests)
        self._bad_frames = 0
        self._is_closing = False
        self._liveness = LivenessMonitor()

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        self._welcome()
        try:
            if not await self._accept(self.peer.token) and not self._is_closing:
                self._set_timer(self._context.limits.hello_timeout_s, self._on_no_hello)
            async for data in self.peer.receive():
                await self._on_data(data)
        except (TokenError, VerifierUnavailableError) as error:
            await self._reject(None, error)
        except OSError:  # the connection was lost
            pass
        except Exception:  # a defect: this client is told of it, and no other client is affected
            logger.exception("a session failed")
            await self.close(INTERNAL_ERROR, "internal error: the server's log has the details")
        finally:
            self._end()

    def _end(self) -> None:
        """Answer nothing more. Requests that are running continue to their end."""
        self._is_closing = True
        self._set_timer(None)
        self._context.hub.disconnect(self.peer.subscriber)

    def _set_timer(self, delay_s: float | None, function: Callable[[], object] = lambda: None) -> None:
        """Set the only timer, for the `hello` or for the token to expire; it replaces the one before."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if delay_s is None else loop.call_later(delay_s, function)

    def _welcome(self) -> None:
        limits = self._context.limits
        self._send(
            frames.Welcome(
                protocol=frames.SUBPROTOCOL,
                server=_server_name(),
                session=secrets.token_hex(8),
                heartbeat_s=self._context.heartbeat_s,
                limits={
                    "control_bytes": frames.MAX_CONTROL_BYTES,
                    "content_bytes": frames.MAX_CONTENT_BYTES,
                    "subscriptions": limits.subscriptions,
                    "hello_timeout_ms": round(limits.hello_timeout_s * 1000),
                    "stall_timeout_ms": round(limits.stall_timeout_s * 1000),
                },
                needs_hello=self.peer.token is None and self._context.authenticator.needs_token,
            )
        )

    # Authentication.

    async def _accept(self, token: str | None) -> bool:
        """Take over what a token grants; return False if one is needed and missing, or the connection was closed.

        While a verification is under way no further frame is answered, what the connection had keeps its rights, and
        at their expiry it is closed.

        Raises:
            TokenError: the token is not accepted.
            VerifierUnavailableError: tokens cannot be checked now.
        """
        if self._grant is None:
            self._set_timer(None)  # the `hello` is here; verifications have a limit of their own
        grant = await self._grant_of(token)
        if grant is None:
            return False
        if self._grant is None:
            self.peer.bucket = Bucket(self._context.limits.requests_per_s, self._context.limits.burst, time.monotonic())
        self._grant = grant
        self._set_timer(
            None if grant.expires_at is None else max(0.0, grant.expires_at - time.time()), self._on_expired
        )
        return True

    async def _grant_of(self, token: str | None) -> Grant | None:
        """Return what a token grants; None if one is needed and missing, or the connection was closed meanwhile."""
        try:
            async with asyncio.timeout(None) as self._verifying:
                grant = await self._context.authenticator.grant_of(token, self.peer.peer_address)
        except (TimeoutError, TokenError, VerifierUnavailableError):
            if not self._is_closing:
                raise
            return None  # `close` has ended the wait, and nothing more is answered
        finally:
            self._verifying = None
        return None if self._is_closing else grant

    def _on_expired(self) -> None:
        assert self._grant is not None
        left_s = (self._grant.expires_at or 0.0) - time.time()
        if left_s > 0:  # the clock was set back, or the timer was early
            self._set_timer(left_s, self._on_expired)
            return
        self._context.tasks.spawn(self.close(CloseCode.TOKEN_EXPIRED, "the token expired: reconnect with a new one"))

    def _on_no_hello(self) -> None:
        reason = "a token is needed: send hello with it, or an Authorization header"
        self._context.tasks.spawn(self.close(CloseCode.NO_HELLO, reason))

    async def _on_hello(self, frame: frames.Hello) -> None:
        try:
            if frame.token is not None or self._grant is None:
                if not await self._accept(frame.token):
                    if self._is_closing:
                        return
                    raise TokenError("a token is needed: send hello with one")
                self._end_forbidden_subscriptions()
        except (TokenError, VerifierUnavailableError) as error:
            if self._grant is None:
                await self._reject(frame.id, error)
            else:  # the one before is valid until it expires
                self._refuse(frame.id, None, refusal_of(error))
            return
        assert self._grant is not None
        at = self._grant.expires_at
        expires_at = None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
        self._send(frames.Ok(id=frame.id, expires_at=expires_at))

    def _end_forbidden_subscriptions(self) -> None:
        """End those that the new token does not allow."""
        assert self._grant is not None
        for agent in list(self.peer.subscriber.subscriptions):
            try:
                check_may_read(self._grant, agent)
            except Refusal as refusal:
                self._context.hub.unsubscribe(self.peer.subscriber, agent)
                self._refuse(None, agent, refusal)

    async def _reject(self, id: frames.FrameId, error: TokenError | VerifierUnavailableError) -> None:
        refusal = refusal_of(error)
        self._refuse(id, None, refusal)
        await self.close(_CLOSE_CODES[refusal.code], refusal.message)

    # Frames.

    def _send(self, frame: frames.ServerFrame) -> None:
        self.peer.write(PreparedFrame(frame))

    def _refuse(self, id: frames.FrameId, agent: str | None, refusal: Refusal) -> None:
        code, message = refusal.code.value, refusal.message
        self._send(frames.Error(id=id, agent=agent, code=code, message=message, retry=refusal.retry, head=refusal.head))

    async def _on_data(self, data: str | bytes) -> None:
        """Answer a frame; return once the client has read enough of its answers for the next one."""
        if self._is_closing:
            return
        self.peer.bucket.take(time.monotonic(), decoding.size_of(data) // BYTES_PER_REQUEST)
        try:
            frame = decoding.decode_client(data, is_known=self._grant is not None)
        except FrameError as error:
            self._bad_frames += 1
            self.peer.bucket.take(time.monotonic(), 1.0)
            self._refuse(error.id, None, Refusal(error.error_code, str(error)))
        else:
            self._bad_frames = 0
            await self._attempt(frame, self._answer)
        if self._bad_frames >= MAX_BAD_FRAMES:
            await self.close(CloseCode.BAD_REQUEST, f"the frames received are not {frames.SUBPROTOCOL}")
        if self.peer.bucket.is_overdrawn:
            await self.close(CloseCode.RATE, "too many requests: slow down")
        await self.peer.wait_until_writable()

    async def _attempt(
        self, frame: frames.ClientFrame, answer: Callable[..., Awaitable[None]], *arguments: object
    ) -> None:
        """Answer a frame; a refusal and a defect end nothing but the request that met it."""
        try:
            await answer(frame, *arguments)
        except (Refusal, CommitcastError) as error:
            agent = getattr(frame, "agent", None)
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            self._refuse(frame.id, agent if isinstance(agent, str) else None, refusal)
        except Exception:  # a defect of ours: this frame fails, the connection goes on
            logger.exception("a %s failed", type(frame).__name__)
            message = "internal error: the server's log has the details"
            self._refuse(frame.id, None, Refusal(ErrorCode.INTERNAL, message, retry=True))

    async def _answer(self, frame: frames.ClientFrame) -> None:
        cost = 1.0 if self._grant is None else _COSTS.get(type(frame), 1.0)
        is_within = self.peer.bucket.take(time.monotonic(), cost)
        if not is_within and not isinstance(frame, frames.Ack):  # without it the window would stay exhausted
            raise Refusal(ErrorCode.RATE_LIMITED, "too many requests: slow down", retry=True)
        if isinstance(frame, frames.Hello):
            await self._on_hello(frame)
            return
        grant = self._authorized()
        match frame:
            case frames.Subscribe():
                await self._on_subscribe(grant, frame)
            case frames.Unsubscribe():
                self._on_unsubscribe(frame)
            case frames.Ack():
                self._on_ack(frame)
            case frames.Ping():
                self._send(frames.Ok(id=frame.id))
            case frames.Launch() | frames.Send() | frames.Terminate():
                await self._on_request(grant, frame)
            case _:
                assert_never(frame)

    def _authorized(self) -> Grant:
        """Return the grant.

        Raises:
            Refusal: the connection has none, or it has expired.
        """
        if self._grant is None:
            raise Refusal(ErrorCode.UNAUTHENTICATED, "a token is needed: send hello with it first")
        if self._grant.has_expired(time.time()):
            raise Refusal(ErrorCode.TOKEN_EXPIRED, "the token expired: send hello with a new one", retry=True)
        return self._grant

    async def _on_request(self, grant: Grant, frame: ControlFrame) -> None:
        """Begin a request and go on without waiting for its reply: a program may take long to end."""
        await self._running_requests.acquire()
        task = self._context.tasks.spawn(self._attempt(frame, self._perform, grant))
        task.add_done_callback(lambda _: self._running_requests.release())

    async def _perform(self, frame: ControlFrame, grant: Grant) -> None:
        self._send(await self._context.requests.perform(grant, frame))

    # Subscriptions.

    async def _on_subscribe(self, grant: Grant, frame: frames.Subscribe) -> None:
        subscriptions, limit = self.peer.subscriber.subscriptions, self._context.limits.subscriptions
        if len(subscriptions) >= limit and frame.agent not in subscriptions:
            message = f"a connection may have {limit} subscriptions at most: end one, or open another connection"
            raise Refusal(ErrorCode.LIMIT, message)
        reply, position, epoch = await self._context.requests.resolve(grant, frame)
        if self._is_closing:
            return
        self._send(reply)  # and subscribe in the same turn of the loop, so that no frame can come between
        self._context.hub.subscribe(
            Subscription(
                self.peer.subscriber,
                frame.agent,
                reply.after,
                position,
                epoch,
                raw=frame.raw,
                window=frame.window,
                slow=frame.slow,
            )
        )
        self._context.pump.schedule()

    def _on_unsubscribe(self, frame: frames.Unsubscribe) -> None:
        if not self._context.hub.unsubscribe(self.peer.subscriber, frame.agent):
            message = f"this connection has no subscription to {frame.agent[:128]!r}"
            raise Refusal(ErrorCode.NOT_FOUND, message)
        self._send(frames.Ok(id=frame.id))

    def _on_ack(self, frame: frames.Ack) -> None:
        for agent, cursor in frame.agent.items():
            self._context.hub.ack(self.peer.subscriber, agent, cursor)
        self._context.pump.schedule()

    # The connection.

    async def close(self, code: int, reason: str, reconnect_ms: int | None = None) -> None:
        """Say goodbye and close the connection. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._verifying is not None:
            self._verifying.reschedule(asyncio.get_running_loop().time())
        self._context.hub.disconnect(self.peer.subscriber)  # nothing more is sent to it, not even while it closes
        self._context.traffic.closes[code] += 1
        self._send(frames.Goodbye(code=code, reason=reason, reconnect_ms=reconnect_ms))
        await self.peer.finish(code, reason)

    def beat(self, heads: dict[str, int]) -> None:
        """Send a heartbeat and a ping; close the connection if its peer was silent for too long."""
        subscriber = self.peer.subscriber
        if subscriber.is_paused or self._is_closing:
            return  # a ping would wait behind what is not read
        if self._liveness.is_silent(self.peer.was_heard):
            self._context.tasks.spawn(self.close(CloseCode.NO_HEARTBEAT, "the peer sent nothing for two heartbeats"))
            return
        self.peer.was_heard = False
        known = {agent: heads[agent] for agent in subscriber.subscriptions if agent in heads}
        self._send(frames.Heartbeat(heads=known))
        self.peer.send_ping()

    def check_stalled(self, now: float) -> None:
        """Close the connection if its peer has read nothing for too long."""
        unsent = self.peer.unsent_bytes if self.peer.subscriber.is_paused else None
        if self._liveness.stalled_s(unsent, now) >= self._context.limits.stall_timeout_s:
            self._context.tasks.spawn(self.close(CloseCode.SLOW, "the client read nothing for too long"))


@cache
def _server_name() -> str:
    return f"commitcast/{metadata.version('commitcast')}"
