"""A subscriber in Python: `async for message in subscribe(url, agent, after=n)`.

Owns the client's half of the promises: it keeps the cursor, checks that frames join, comes back by itself after
whatever went wrong, and so gives out every message exactly once, in order. Runs on the caller's event loop.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Literal, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from commitcast.gateway import frames
from commitcast.gateway.errors import CloseCode, ErrorCode, FrameError, SubscriptionError
from commitcast.persistence.records import AgentStatus

logger: Final = logging.getLogger(__name__)

BACKOFF_S: Final = (0.1, 20.0)
"""First and longest wait before coming back; each is drawn evenly from zero to twice the one before (full jitter)."""
CLOSE_TIMEOUT_S: Final = 2.0
_TERMINAL: Final = frozenset(status.value for status in AgentStatus if status.is_terminal)
_FINAL_CODES: Final = frozenset(
    {ErrorCode.NOT_FOUND, ErrorCode.GONE, ErrorCode.AHEAD, ErrorCode.STALE_EPOCH, ErrorCode.FORBIDDEN}
    | {ErrorCode.BAD_REQUEST, ErrorCode.UNAUTHENTICATED, ErrorCode.LIMIT}
)


class _GapError(Exception):
    """The next frame does not join the cursor: subscribe again after it."""


class _SilentError(Exception):
    """Nothing came for longer than the server's heartbeats allow."""


class Subscription:
    """An async iterator over one agent's messages (or all agents'), from a cursor until the agent's end.

    Attributes:
        cursor: where it stands; give it as `after` to continue in another process.
        status: of the agent as last heard; None before the first answer.
        ending: the `status` frame of the agent's end, once it came.
        record: the agent as of the last subscribing.
        reconnects: how often it came back.
    """

    def __init__(
        self,
        url: str,
        agent: str,
        *,
        after: int | Literal["tail"] = 0,
        epoch: str | None = None,
        raw: bool = False,
        token: str | None = None,
    ) -> None:
        self.cursor = after if isinstance(after, int) else 0
        self._head = 0
        self.status: str | None = None
        self.ending: frames.Status | None = None
        self.record: frames.AgentView | None = None
        self.reconnects = 0
        self._after: int | Literal["tail"] = after
        self._doubted: int | None = None
        self._epoch = epoch
        self._url = url
        self._agent = agent
        self._raw = raw
        self._token = token
        self._connection: ClientConnection | None = None
        self._messages = self._run()

    def __aiter__(self) -> AsyncIterator[frames.Item]:
        return self._messages

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop, and close the connection. Idempotent; while another task iterates, cancel that task instead."""
        await self._messages.aclose()

    async def cut(self) -> None:
        """Drop the connection without a word, as a network would; the subscription comes back by itself."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _run(self) -> AsyncGenerator[frames.Item]:
        wait_s = BACKOFF_S[0]
        while True:
            came_back_ms: int | None = None
            try:
                async with connect(
                    self._url,
                    subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
                    additional_headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
                    compression=None,
                    max_size=None,  # a message may be as large as the store takes
                    close_timeout=CLOSE_TIMEOUT_S,
                    proxy=None,
                ) as self._connection:
                    async with aclosing(self._follow(self._connection)) as following:
                        async for thing in following:
                            wait_s = BACKOFF_S[0]
                            if isinstance(thing, frames.Goodbye):
                                came_back_ms = thing.reconnect_ms
                            else:
                                yield thing
                    return
            except _GapError as error:
                logger.info("%s: subscribing again after it", error)
            except InvalidStatus as error:
                if error.response.status_code in (401, 403, 404):
                    raise SubscriptionError("forbidden", f"{self._url} refused the connection: {error}") from error
                logger.info("%s is not ready (%s)", self._url, error)
            except InvalidURI as error:
                raise SubscriptionError("bad_request", str(error)) from error
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                if code >= CloseCode.BAD_REQUEST:
                    raise SubscriptionError(str(code), f"the server closed for good: {error}") from error
                logger.info("the connection to %s was lost (%s)", self._url, error)
            except SubscriptionError:
                raise
            except (OSError, TimeoutError, InvalidHandshake, _SilentError, EOFError) as error:
                logger.info("%s is not reached (%s)", self._url, error)
            finally:
                self._connection = None
            self.reconnects += 1
            await asyncio.sleep(came_back_ms / 1000 if came_back_ms is not None else random.uniform(0, wait_s))
            wait_s = min(wait_s * 2, BACKOFF_S[1])

    @property
    def _is_over(self) -> bool:
        return self.status in _TERMINAL

    async def _follow(self, connection: ClientConnection) -> AsyncGenerator[frames.Item | frames.Goodbye]:
        subscribe = frames.Subscribe(id=1, agent=self._agent, after=self._after, epoch=self._epoch, raw=self._raw)
        await connection.send(frames.encode(subscribe).decode())
        subscribed = False
        silence_s = 60.0
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    data = await connection.recv()
            except TimeoutError:
                raise _SilentError(f"nothing came for {silence_s:.0f} seconds") from None
            frame = self._decode(data)
            match frame:
                case frames.Welcome():
                    silence_s = frame.heartbeat_s * 3
                case frames.Subscribed():
                    subscribed = True
                    self._on_subscribed(frame)
                case frames.Messages() if subscribed:
                    self._move(frame.prev, frame.last)
                    for item in frame.items:
                        item.agent = item.agent or frame.agent
                        self.cursor = item.sequence if item.position is None else item.position
                        yield item
                    self.cursor = frame.last
                case frames.Status() if subscribed:
                    self._on_status(frame)
                case frames.Agent() if subscribed:
                    self.cursor = self._move(frame.prev, frame.last)
                case frames.Heartbeat() if subscribed:
                    self._on_heartbeat(frame)
                case frames.Live() if subscribed and self._is_over:
                    return
                case frames.Error():
                    self._on_error(frame)
                case frames.Goodbye():
                    yield frame
            if self.ending is not None and self.cursor >= max(self.ending.sequence, self._head):
                return  # what was stored after the end is given out too, if it was there when this began

    def _decode(self, data: str | bytes) -> frames.ServerFrame | None:
        try:
            return frames.decode_server(data)
        except FrameError as error:
            raise SubscriptionError("bad_request", str(error)) from error

    def _on_subscribed(self, frame: frames.Subscribed) -> None:
        if self._after not in ("tail", frame.after):
            raise _GapError(f"the stream begins after {frame.after} and the cursor is {self._after}")
        self.cursor = self._after = frame.after
        self._doubted = None
        self._epoch = frame.epoch
        self._head = frame.head
        self.record = frame.record
        self.status = frame.status

    def _on_status(self, frame: frames.Status) -> None:
        if self._agent == frames.ALL:
            self.cursor = self._move(frame.prev, frame.last)
            return
        self.status = frame.status
        if frame.status in _TERMINAL:
            self.ending = frame

    def _on_error(self, frame: frames.Error) -> None:
        if frame.id == 1 and frame.code in _FINAL_CODES and not frame.retry:
            raise SubscriptionError(frame.code, frame.message)
        if frame.code == ErrorCode.GONE:
            raise SubscriptionError(frame.code, frame.message)
        logger.info("the server says: %s", frame.message)
        if frame.id == 1:
            raise _SilentError(frame.message)

    def _on_heartbeat(self, frame: frames.Heartbeat) -> None:
        """Doubt the stream if the store is ahead: what is missing may be on its way, but not for a whole heartbeat."""
        is_behind = frame.heads.get(self._agent, 0) > self.cursor
        if is_behind and self._doubted == self.cursor:
            raise _GapError(f"nothing came for a heartbeat, the store is ahead and the cursor is {self.cursor}")
        self._doubted = self.cursor if is_behind else None

    def _move(self, prev: int | None, last: int | None) -> int:
        if prev != self._after or last is None:
            raise _GapError(f"a frame begins after {prev} and the cursor is {self._after}")
        self._after = last
        return last


def subscribe(
    url: str,
    agent: str,
    *,
    after: int | Literal["tail"] = 0,
    epoch: str | None = None,
    raw: bool = False,
    token: str | None = None,
) -> Subscription:
    """Subscribe to an agent; iterate over the result with `async for`.

    Args:
        url: `ws://HOST:PORT/v1/ws`.
        agent: an id, or `"*"` for all agents.
        after: the cursor: every later message is given out; 0 is everything, "tail" what is new.
        epoch: of the agent that the cursor belongs to; a relaunched id is then refused.
        raw: whether the producers' lines are wanted.
        token: if the server demands one.

    Returns:
        An async iterator that ends when the agent has ended (that of all agents never does). It reconnects by itself.

    Raises:
        SubscriptionError: while iterating: the server refused for good.
    """
    return Subscription(url, agent, after=after, epoch=epoch, raw=raw, token=token)
