"""What one connection asks for: client frames in, replies out. Runs on the gateway's loop.

Must never let a client's mistake end anything but that client's request.
"""

import asyncio
import logging
from typing import Final, assert_never

from websockets.exceptions import ConnectionClosed

from commitcast.gateway import frames, views
from commitcast.gateway.access import Access
from commitcast.gateway.connection import GatewayConnection
from commitcast.gateway.errors import CloseCode, ErrorCode, FrameError
from commitcast.gateway.pump import Pump
from commitcast.persistence.errors import AgentNotFoundError, SequenceAheadError, StoreError

logger: Final = logging.getLogger(__name__)

MAX_SUBSCRIPTIONS: Final = 1_024
"""For one connection; each costs a cursor, and a read when it begins."""
HELLO_TIMEOUT_S: Final = 5.0
"""How long a connection that needs a token may wait with it."""


class Session:
    """One connection's requests."""

    def __init__(self, pump: Pump, access: Access, connection: GatewayConnection) -> None:
        self._pump = pump
        self._access = access
        self._connection = connection

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        try:
            if not self._connection.is_authenticated and not await self._wait_for_hello():
                return
            async for data in self._connection:
                await self._on_data(data)
        except (ConnectionClosed, OSError):
            pass  # however it was lost, there is nobody left to tell

    async def _wait_for_hello(self) -> bool:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                async for data in self._connection:
                    await self._on_data(data)
                    if self._connection.is_authenticated:
                        return True
        except TimeoutError:
            await self.close(CloseCode.NO_HELLO, "a token is needed: send hello with it, or an Authorization header")
        return False

    async def close(self, code: CloseCode, reason: str, reconnect_ms: int | None = None) -> None:
        """Say goodbye and close the connection."""
        self._send(frames.Goodbye(code=code, reason=reason, reconnect_ms=reconnect_ms))
        await self._connection.finish(code, reason)

    def _send(self, frame: frames.ServerFrame) -> None:
        self._connection.write(frames.encode(frame))

    async def _on_data(self, data: str | bytes) -> None:
        """Answer a frame, and take no further one before the client has taken its answers."""
        try:
            frame = frames.decode_client(data)
        except FrameError as error:
            self._refuse(error.id, None, error.error_code, str(error))
        else:
            await self._on_frame(frame)
        await self._connection.wait_until_it_takes_more()

    async def _on_frame(self, frame: frames.ClientFrame) -> None:
        if not self._connection.is_authenticated and not isinstance(frame, frames.Hello):
            self._refuse(frame.id, None, ErrorCode.UNAUTHENTICATED, "a token is needed: send hello with it first")
            return
        try:
            await self._answer(frame)
        except Exception:  # whatever a request ran into must not end anything but that request
            logger.exception("a %s failed", type(frame).__name__)
            self._refuse(frame.id, None, ErrorCode.INTERNAL, "the server could not do this, and its log says why")

    async def _answer(self, frame: frames.ClientFrame) -> None:
        match frame:
            case frames.Hello():
                await self._on_hello(frame)
            case frames.Subscribe():
                await self._on_subscribe(frame)
            case frames.Unsubscribe():
                self._on_unsubscribe(frame)
            case frames.Ack():
                self._on_ack(frame)
            case frames.Ping():
                self._send(frames.Ok(id=frame.id))
            case frames.Launch() | frames.Send() | frames.Terminate():
                self._refuse(frame.id, None, ErrorCode.FORBIDDEN, "this server is read-only")
            case _:
                assert_never(frame)

    def _refuse(
        self,
        id: frames.FrameId,
        agent: str | None,
        code: ErrorCode,
        message: str,
        *,
        retry: bool = False,
        head: int | None = None,
    ) -> None:
        self._send(frames.Error(id=id, agent=agent, code=code.value, message=message, retry=retry, head=head))

    async def _on_hello(self, frame: frames.Hello) -> None:
        if self._connection.is_authenticated or self._access.accepts_token(frame.token):
            self._connection.is_authenticated = True
            self._send(frames.Ok(id=frame.id))
            return
        self._refuse(frame.id, None, ErrorCode.UNAUTHENTICATED, "this token is not accepted: ask for a new one")
        await self.close(CloseCode.UNAUTHENTICATED, "the token is not accepted")

    async def _on_subscribe(self, frame: frames.Subscribe) -> None:
        subscriber = self._connection.subscriber
        if len(subscriber.subscriptions) >= MAX_SUBSCRIPTIONS and frame.agent not in subscriber.subscriptions:
            message = f"a connection may have {MAX_SUBSCRIPTIONS} subscriptions: unsubscribe one, or open another"
            self._refuse(frame.id, frame.agent, ErrorCode.LIMIT, message)
            return
        try:
            await (self._subscribe_to_all(frame) if frame.agent == frames.ALL else self._subscribe(frame))
        except AgentNotFoundError as error:
            self._refuse(frame.id, frame.agent, ErrorCode.NOT_FOUND, str(error))
        except SequenceAheadError as error:
            self._refuse(frame.id, frame.agent, ErrorCode.AHEAD, str(error), head=error.head)
        except StoreError as error:
            self._refuse(frame.id, frame.agent, ErrorCode.UNAVAILABLE, str(error), retry=True)

    async def _subscribe(self, frame: frames.Subscribe) -> None:
        after = None if frame.after == "tail" else frame.after
        standing = await self._pump.read(self._pump.store.standing, frame.agent, after)
        record = standing.record
        if not self._is_epoch(frame, record.epoch):
            return
        cursor = record.head if after is None else after
        if cursor > record.head:
            raise SequenceAheadError(cursor, record.head)
        view = views.agent_view(record)
        self._begin(frame, record.epoch, cursor, record.head, standing.position, view)

    async def _subscribe_to_all(self, frame: frames.Subscribe) -> None:
        last, epoch = await self._pump.read(self._pump.store.position)
        if not self._is_epoch(frame, epoch):
            return
        cursor = last if frame.after == "tail" else frame.after
        if cursor > last:
            raise SequenceAheadError(cursor, last)
        self._begin(frame, epoch, cursor, last, cursor, None)

    def _is_epoch(self, frame: frames.Subscribe, epoch: str) -> bool:
        if frame.epoch is None or frame.epoch == epoch:
            return True
        message = f"the cursor belongs to epoch {frame.epoch[:40]!r} and this is {epoch!r}: start again after 0"
        self._refuse(frame.id, frame.agent, ErrorCode.STALE_EPOCH, message)
        return False

    def _begin(
        self,
        frame: frames.Subscribe,
        epoch: str,
        cursor: int,
        head: int,
        position: int,
        view: frames.AgentView | None,
    ) -> None:
        """Reply and subscribe in one step of the loop, so that nothing can come between."""
        self._send(
            frames.Subscribed(
                id=frame.id,
                agent=frame.agent,
                epoch=epoch,
                after=cursor,
                head=head,
                first=1,
                status=None if view is None else view.status,
                record=view,
            )
        )
        self._pump.hub.subscribe(
            self._connection.subscriber,
            frame.agent,
            cursor=cursor,
            position=position,
            raw=frame.raw,
            window=frame.window,
        )
        self._pump.schedule()

    def _on_unsubscribe(self, frame: frames.Unsubscribe) -> None:
        if self._pump.hub.unsubscribe(self._connection.subscriber, frame.agent):
            self._send(frames.Ok(id=frame.id))
        else:
            message = f"this connection has no subscription to {frame.agent[:128]!r}"
            self._refuse(frame.id, frame.agent, ErrorCode.NOT_FOUND, message)

    def _on_ack(self, frame: frames.Ack) -> None:
        for agent, cursor in frame.agent.items():
            self._pump.hub.ack(self._connection.subscriber, agent, cursor)
        self._pump.schedule()
