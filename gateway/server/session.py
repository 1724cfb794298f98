"""What one connection asks for: client frames in, replies out. Runs on the gateway's loop.

Owns the caller's grant, its rate, and the signs of life of its connection. Must never let a client's mistake end
anything but that client's request.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, assert_never

from commitcast.gateway.hub.prepared import PreparedFrame
from commitcast.gateway.hub.subscription import Subscription
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, FrameError
from commitcast.gateway.server.access.auth import Grant, TokenError
from commitcast.gateway.server.access.limits import BYTES_PER_REQUEST, Bucket
from commitcast.gateway.server.liveness import Pulse
from commitcast.gateway.server.operations import Refusal, Request, check_may_read, perform
from commitcast.gateway.server.peer import Peer, SessionServices
from commitcast.gateway.server.subscribing import find

logger: Final = logging.getLogger(__name__)

INTERNAL_ERROR: Final = 1011
"""RFC 6455 section 7.4.1; a client comes back after it."""
MAX_BAD_FRAMES: Final = 100
"""In a row, that are none of the protocol; whoever sends them speaks another one."""
_COSTS: Final[dict[type[frames.ClientFrame], float]] = {frames.Send: 5.0, frames.Launch: 20.0, frames.Terminate: 20.0}
"""In requests; see `Limits.requests_per_s`."""

_CLOSE_CODES: Final = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
    ErrorCode.RATE_LIMITED: CloseCode.RATE,
}


class Session:
    """One connection's requests."""

    def __init__(self, services: SessionServices, peer: Peer) -> None:
        self.peer = peer
        self._services = services
        self._pump = services.pump
        self._grant: Grant | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._places = asyncio.Semaphore(services.limits.running_requests)
        self._bad_frames = 0
        self._is_closing = False
        self._pulse = Pulse()

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        self._welcome()
        try:
            if not self._accept(self.peer.token):
                self._set_timer(self._services.limits.hello_timeout_s, self._on_no_hello)
            async for data in self.peer.receive():
                await self._on_data(data)
        except TokenError as error:
            await self._reject(None, error)
        except OSError:  # however it was lost, there is nobody left to tell
            pass
        except Exception:  # whatever it was, the client hears of it, and no other client does
            logger.exception("a session failed")
            await self.close(INTERNAL_ERROR, "the server could not go on, and its log says why")
        finally:
            self._end()

    def _end(self) -> None:
        """Answer nothing more. What was asked for goes on to its end."""
        self._is_closing = True
        self._set_timer(None)
        self._pump.hub.disconnect(self.peer.subscriber)

    def _set_timer(self, delay_s: float | None, function: Callable[[], object] = lambda: None) -> None:
        """Have a function called in place of the one that was set before: no hello came, or the token expires."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if delay_s is None else loop.call_later(delay_s, function)

    def _welcome(self) -> None:
        limits = self._services.limits
        self._send(
            frames.Welcome(
                protocol=frames.SUBPROTOCOL,
                server=self._services.server,
                session=secrets.token_hex(8),
                heartbeat_s=self._services.heartbeat_s,
                limits={
                    "control_bytes": frames.MAX_CONTROL_BYTES,
                    "content_bytes": frames.MAX_CONTENT_BYTES,
                    "subscriptions": limits.subscriptions,
                    "hello_timeout_ms": round(limits.hello_timeout_s * 1000),
                    "stall_timeout_ms": round(limits.stall_timeout_s * 1000),
                },
                needs_hello=self.peer.token is None and self._grant_of(None) is None,
            )
        )

    # Who it is.

    def _accept(self, token: str | None) -> bool:
        """Take a token's grant; return whether there is one.

        Raises:
            TokenError: the token is not accepted.
        """
        grant = self._grant_of(token)
        if grant is None:
            return False
        if self._grant is None:
            limits = self._services.limits
            self.peer.bucket = Bucket(limits.requests_per_s, limits.burst, time.monotonic())
        self._grant = grant
        self._set_timer(
            None if grant.expires_at is None else max(0.0, grant.expires_at - time.time()), self._on_expired
        )
        return True

    def _grant_of(self, token: str | None) -> Grant | None:
        return self._services.grant_of(token, self.peer.peer_address)

    def _on_expired(self) -> None:
        assert self._grant is not None
        left_s = (self._grant.expires_at or 0.0) - time.time()
        if left_s > 0:  # the clock was set back, or the timer was early
            self._set_timer(left_s, self._on_expired)
            return
        self._pump.spawn(self.close(CloseCode.TOKEN_EXPIRED, "the token expired: come back with a new one"))

    def _on_no_hello(self) -> None:
        reason = "a token is needed: send hello with it, or an Authorization header"
        self._pump.spawn(self.close(CloseCode.NO_HELLO, reason))

    async def _on_hello(self, frame: frames.Hello) -> None:
        try:
            if frame.token is not None or self._grant is None:
                if not self._accept(frame.token):
                    raise TokenError("a token is needed: send hello with one")
                self._withdraw()
        except TokenError as error:
            if self._grant is None:
                await self._reject(frame.id, error)
            else:  # the old one is good until it expires
                self._refuse(frame.id, None, Refusal(error.error_code, str(error), retry=error.error_code.retry))
            return
        assert self._grant is not None
        at = self._grant.expires_at
        expires_at = None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
        self._send(frames.Ok(id=frame.id, expires_at=expires_at))

    def _withdraw(self) -> None:
        """End the subscriptions that the new token does not allow."""
        assert self._grant is not None
        for agent in list(self.peer.subscriber.subscriptions):
            try:
                check_may_read(self._grant, agent)
            except Refusal as refusal:
                self._pump.hub.unsubscribe(self.peer.subscriber, agent)
                self._refuse(None, agent, refusal)

    async def _reject(self, id: frames.FrameId, error: TokenError) -> None:
        self._refuse(id, None, Refusal(error.error_code, str(error), retry=error.error_code.retry))
        await self.close(_CLOSE_CODES[error.error_code], str(error))

    # Frames.

    def _send(self, frame: frames.ServerFrame) -> None:
        self.peer.write(PreparedFrame(frame))

    def _refuse(self, id: frames.FrameId, agent: str | None, refusal: Refusal) -> None:
        code, message = refusal.code.value, refusal.message
        self._send(frames.Error(id=id, agent=agent, code=code, message=message, retry=refusal.retry, head=refusal.head))

    async def _on_data(self, data: str | bytes) -> None:
        """Answer a frame, and take no further one before the client has taken its answers."""
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
            await self._on_frame(frame)
        if self._bad_frames >= MAX_BAD_FRAMES:
            await self.close(CloseCode.BAD_REQUEST, f"nothing that comes is {frames.SUBPROTOCOL}")
        if self.peer.bucket.is_overdrawn:
            await self.close(CloseCode.RATE, "too many requests: slow down")
        await self.peer.wait_until_it_takes_more()

    async def _on_frame(self, frame: frames.ClientFrame) -> None:
        agent = getattr(frame, "agent", None)
        agent = agent if isinstance(agent, str) else None
        try:
            cost = 1.0 if self._grant is None else _COSTS.get(type(frame), 1.0)
            is_within = self.peer.bucket.take(time.monotonic(), cost)
            if not is_within and not isinstance(frame, frames.Ack):  # a lost one would leave its window closed
                raise Refusal(ErrorCode.RATE_LIMITED, "too many requests: slow down", retry=True)
            await self._answer(frame)
        except Refusal as refusal:
            self._refuse(frame.id, agent, refusal)
        except Exception:  # whatever a request ran into must not end anything but that request
            self._log_failure(frame)

    def _log_failure(self, frame: frames.ClientFrame) -> None:
        logger.exception("a %s failed", type(frame).__name__)
        message = "the server could not do this, and its log says why"
        self._refuse(frame.id, None, Refusal(ErrorCode.INTERNAL, message, retry=True))

    async def _answer(self, frame: frames.ClientFrame) -> None:
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
        """Return the grant as it is now.

        Raises:
            Refusal: there is none, or it has expired.
        """
        if self._grant is None:
            raise Refusal(ErrorCode.UNAUTHENTICATED, "a token is needed: send hello with it first")
        if self._grant.has_expired(time.time()):
            raise Refusal(ErrorCode.TOKEN_EXPIRED, "the token expired: send hello with a new one", retry=True)
        return self._grant

    async def _on_request(self, grant: Grant, request: Request) -> None:
        """Begin with a request beside everything else: it may take as long as a program takes to end."""
        await self._places.acquire()
        task = self._pump.spawn(self._perform(grant, request))
        task.add_done_callback(lambda _: self._places.release())

    async def _perform(self, grant: Grant, request: Request) -> None:
        try:
            self._send(await perform(self._services.operations, grant, request))
        except Refusal as refusal:
            self._refuse(request.id, getattr(request, "agent", None), refusal)
        except Exception:  # see `_on_frame`
            self._log_failure(request)

    # Subscriptions.

    async def _on_subscribe(self, grant: Grant, frame: frames.Subscribe) -> None:
        subscriptions, most = self.peer.subscriber.subscriptions, self._services.limits.subscriptions
        if len(subscriptions) >= most and frame.agent not in subscriptions:
            message = f"a connection may have {most} subscriptions: unsubscribe one, or open another"
            raise Refusal(ErrorCode.LIMIT, message)
        reply, position, log = await find(self._pump, grant, frame)
        if self._is_closing:
            return
        self._send(reply)  # and subscribe, in one step of the loop, so that nothing can come between
        self._pump.hub.subscribe(
            Subscription(
                self.peer.subscriber,
                frame.agent,
                reply.after,
                position,
                log,
                raw=frame.raw,
                window=frame.window,
                slow=frame.slow,
            )
        )
        self._pump.schedule()

    def _on_unsubscribe(self, frame: frames.Unsubscribe) -> None:
        if not self._pump.hub.unsubscribe(self.peer.subscriber, frame.agent):
            message = f"this connection has no subscription to {frame.agent[:128]!r}"
            raise Refusal(ErrorCode.NOT_FOUND, message)
        self._send(frames.Ok(id=frame.id))

    def _on_ack(self, frame: frames.Ack) -> None:
        for agent, cursor in frame.agent.items():
            self._pump.hub.ack(self.peer.subscriber, agent, cursor)
        self._pump.schedule()

    # Its connection.

    async def close(self, code: int, reason: str, reconnect_ms: int | None = None) -> None:
        """Say goodbye and close the connection. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        self._pump.hub.disconnect(self.peer.subscriber)  # nothing more for it, not even while it closes
        self._services.count_close(code)
        self._send(frames.Goodbye(code=code, reason=reason, reconnect_ms=reconnect_ms))
        await self.peer.finish(code, reason)

    def beat(self, heads: dict[str, int]) -> None:
        """Send a heartbeat and ask for a sign of life; close the connection if none came for too long."""
        subscriber = self.peer.subscriber
        if subscriber.is_paused or self._is_closing:
            return  # what is asked now would be heard too late
        if self._pulse.is_silent(self.peer.was_heard):
            self._pump.spawn(self.close(CloseCode.NO_HEARTBEAT, "the peer gave no sign of life"))
            return
        self.peer.was_heard = False
        known = {agent: heads[agent] for agent in subscriber.subscriptions if agent in heads}
        self._send(frames.Heartbeat(heads=known))
        self.peer.send_ping()

    def check_stalled(self, now: float) -> None:
        """Close the connection if its socket has taken nothing for too long."""
        unsent = self.peer.unsent_bytes if self.peer.subscriber.is_paused else None
        if self._pulse.stalled_s(unsent, now) >= self._services.limits.stall_timeout_s:
            self._pump.spawn(self.close(CloseCode.SLOW, "nothing was read for too long"))
