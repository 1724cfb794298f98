"""Requests from Python: launch, send and terminate, each done once however often the connection is lost.

Each request has a connection of its own: connect, be welcomed, ask, get the reply, close. If the connection is lost
before the reply, it is asked again with the same idempotency key, so that the server does it only once. `_Asking`
is pure; the clients around it do the waiting: `Client` on the event loop, `BlockingClient` on the calling thread.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Iterator
from typing import Final, TypedDict, TypeVar, Unpack

from commitcast.gateway.client.asyncio import OPEN_TIMEOUT_S, Subscription, connection_to, losing, send, subscribe
from commitcast.gateway.client.blocking import (
    BlockingSubscription,
    Line,
    blocking_connection_to,
    blocking_send,
    subscribe_blocking,
)
from commitcast.gateway.client.protocol import After, OnCursor
from commitcast.gateway.client.reconnect import HELLO, AsyncToken, Comeback, Lost, Token, closed, decode, greeting
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode, RequestError

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
"""For a request with all its repetitions."""
REPLY_TIMEOUT_S: Final = 10.0
"""For one try, from connecting to the reply: a commit takes milliseconds, so the connection is probably dead."""
_ID: Final = 1


class SubscribeOptions(TypedDict, total=False):
    """The options of `subscribe` that do not belong to the whole client."""

    after: After
    epoch: str | None
    raw: bool
    window: int | None
    slow: frames.SlowPolicy
    on_cursor: OnCursor | None


Request = frames.Launch | frames.Send | frames.Terminate


class _Asking:
    """One request, over as many connections as it takes."""

    def __init__(self, request: Request, comeback: Comeback) -> None:
        self.comeback = comeback
        self.reply: frames.Ok | None = None
        self._request = request
        self._lost: Lost | None = None

    def receive(self, frame: frames.ServerFrame | None) -> Iterator[frames.ClientFrame]:
        """Yield what is to be sent because of a frame.

        Raises:
            Lost: the request was refused, or the connection is of no more use.
        """
        match frame:
            case frames.Welcome():
                yield from greeting(frame, self.comeback.token)
                yield self._request
            case frames.Goodbye():
                raise closed(frame.code, frame.reason, frame.reconnect_ms)
            case frames.Error() if frame.id in (_ID, HELLO, None):
                raise Lost(frame.message, frame.code, is_final=not frame.retry)
            case frames.Ok() if frame.id == _ID:
                self.reply = frame

    def come_back(self, lost: Lost, chance: float) -> float:
        """Return how many seconds to wait before asking again.

        Raises:
            RequestError: the server refused for good.
        """
        self._lost = lost
        try:
            return self.comeback.wait_s(lost, chance)
        except Lost:
            raise RequestError(lost.code, str(lost), self._request.key) from lost

    def timed_out(self, timeout_s: float) -> RequestError:
        """Return the error that says so."""
        message = f"no reply within {timeout_s:g} s, so it may have been done or not: repeat it with the same key"
        return RequestError(ErrorCode.UNAVAILABLE, f"{message} ({self._lost or 'nothing came'})", self._request.key)


def _launch(template: str, prompt: str, key: str | None) -> frames.Launch:
    return frames.Launch(id=_ID, template=template, prompt=prompt, key=key or str(uuid.uuid4()))


def _send(agent: str, content: str, key: str | None) -> frames.Send:
    return frames.Send(id=_ID, agent=agent, content=content, key=key or str(uuid.uuid4()))


def _terminate(agent: str, reason: str | None) -> frames.Terminate:
    return frames.Terminate(id=_ID, agent=agent, reason=reason)


def _needed(value: T | None, name: str) -> T:
    if value is None:
        raise RequestError(ErrorCode.INTERNAL, f"the server did it, but its reply lacks the {name}")
    return value


class Client:
    """What a program may ask of a server, on the caller's event loop.

    Holds no connection, so there is nothing to close. A request that is cancelled may have been done or not.
    """

    def __init__(self, url: str, *, token: AsyncToken = None, timeout_s: float = TIMEOUT_S) -> None:
        """Make a client; nothing is connected yet.

        Args:
            url: `ws://HOST:PORT/v1/ws`.
            token: if the server demands one; see `subscribe`.
            timeout_s: seconds for each request with all its repetitions.
        """
        self._url = url
        self._token = token
        self._known: str | None = None
        self._timeout_s = timeout_s

    async def launch(self, template: str, prompt: str = "", key: str | None = None) -> str:
        """Launch an agent from a template of the server's owner; return its id.

        Args:
            template: its name.
            prompt: what the agent is to do.
            key: makes repeating harmless, for ever; None for a new one, which holds for this call.

        Raises:
            RequestError: it was refused, or there was no reply in time.

        Durability: the agent is on disk.
        """
        return _needed((await self._ask(_launch(template, prompt, key))).agent, "agent")

    async def send(self, agent: str, content: str, key: str | None = None) -> int:
        """Send a user message to an agent; return its sequence.

        Args:
            agent: its id.
            content: the text.
            key: makes repeating harmless, for ever; None for a new one, which holds for this call.

        Raises:
            RequestError: it was refused, or there was no reply in time.

        Durability: the message is on disk.
        """
        return _needed((await self._ask(_send(agent, content, key))).sequence, "sequence")

    async def terminate(self, agent: str, reason: str | None = None) -> str:
        """End an agent; return its status, which is another than `terminated` if it had ended before. Idempotent.

        Raises:
            RequestError: it was refused, or there was no reply in time.
        """
        return _needed((await self._ask(_terminate(agent, reason))).status, "status")

    def subscribe(self, agent: str, **options: Unpack[SubscribeOptions]) -> Subscription:
        """Subscribe with the same URL and token; see `subscribe` of the client module."""
        return subscribe(self._url, agent, token=self._token, **options)

    async def _ask(self, request: Request) -> frames.Ok:
        asking = _Asking(request, Comeback(self._token, self._known))
        try:
            async with asyncio.timeout(self._timeout_s):
                while asking.reply is None:
                    try:
                        await self._try(asking)
                    except Lost as lost:
                        await asyncio.sleep(asking.come_back(lost, random.random()))
        except TimeoutError as error:
            raise asking.timed_out(self._timeout_s) from error
        self._known = asking.comeback.token
        return asking.reply

    async def _try(self, asking: _Asking) -> None:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S), connection_to(self._url, asking.comeback) as connection:
                while asking.reply is None:
                    with losing():
                        data = await connection.recv()
                    for frame in asking.receive(decode(data)):
                        await send(connection, frame)
        except TimeoutError as error:
            raise Lost(f"no reply within {REPLY_TIMEOUT_S:g} s") from error


class BlockingClient:
    """What a program may ask of a server, on the caller's thread. Any thread may; each request is by itself.

    Holds no connection, so there is nothing to close. Requests wait in the operating system; Ctrl-C ends the waiting.
    """

    def __init__(self, url: str, *, token: Token = None, timeout_s: float = TIMEOUT_S) -> None:
        """Make a client; nothing is connected yet.

        Args:
            url: `ws://HOST:PORT/v1/ws`.
            token: if the server demands one; see `subscribe`.
            timeout_s: seconds for each request with all its repetitions.
        """
        self._url = url
        self._token = token
        self._known: str | None = None
        self._timeout_s = timeout_s

    def launch(self, template: str, prompt: str = "", key: str | None = None) -> str:
        """Launch an agent from a template of the server's owner; return its id. As `Client.launch`."""
        return _needed(self._ask(_launch(template, prompt, key)).agent, "agent")

    def send(self, agent: str, content: str, key: str | None = None) -> int:
        """Send a user message to an agent; return its sequence. As `Client.send`."""
        return _needed(self._ask(_send(agent, content, key)).sequence, "sequence")

    def terminate(self, agent: str, reason: str | None = None) -> str:
        """End an agent; return its status. As `Client.terminate`."""
        return _needed(self._ask(_terminate(agent, reason)).status, "status")

    def subscribe(self, agent: str, **options: Unpack[SubscribeOptions]) -> BlockingSubscription:
        """Subscribe with the same URL and token; see `subscribe_blocking`."""
        return subscribe_blocking(self._url, agent, token=self._token, **options)

    def _ask(self, request: Request) -> frames.Ok:
        asking = _Asking(request, Comeback(self._token, self._known))
        deadline = time.monotonic() + self._timeout_s
        while asking.reply is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise asking.timed_out(self._timeout_s)
            try:
                self._try(asking, time.monotonic() + min(left_s, REPLY_TIMEOUT_S))
            except Lost as lost:
                wait_s = asking.come_back(lost, random.random())
                time.sleep(max(min(wait_s, deadline - time.monotonic()), 0))
        self._known = asking.comeback.token
        return asking.reply

    def _try(self, asking: _Asking, until: float) -> None:
        open_s = min(OPEN_TIMEOUT_S, until - time.monotonic())
        with blocking_connection_to(self._url, asking.comeback, Line(), open_s) as connection:
            while asking.reply is None:
                with losing():
                    data = connection.recv(until - time.monotonic())
                for frame in asking.receive(decode(data)):
                    blocking_send(connection, frame)
