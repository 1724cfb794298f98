"""The client on an event loop: `async for message in subscribe(url, agent, after=n)`, and `Client` for requests.

A subscription reconnects by itself after every failure, and so gives out every message exactly once, in order. Runs on
the caller's event loop; `blocking` runs the same code on a loop of its own.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

from commitcast.gateway.client.connection import SubscriptionConnection, connect, receive, send
from commitcast.gateway.client.protocol import After, OnCursor, SubscriptionProtocol, SubscriptionState
from commitcast.gateway.client.reconnect import AsyncToken, ConnectionLost, ReconnectPolicy
from commitcast.gateway.client.requests import REQUEST_ID, Request, RequestProtocol, required
from commitcast.gateway.protocol import frames
from commitcast.persistence.deprecation import renamed_argument

TIMEOUT_S: Final = 30.0
"""For a request with all its repetitions."""
REPLY_TIMEOUT_S: Final = 10.0
"""For one try, from connecting to the reply: a commit takes milliseconds, so the connection is probably dead."""


class Subscription(SubscriptionState):
    """An async iterator over one agent's messages (or all agents'), from a cursor until the agent's end.

    Made by `subscribe`. Its attributes are those of `SubscriptionState`: cursor, epoch, status, ending, record,
    reconnects, skipped.
    """

    def __init__(self, url: str, agent: str, *, after: After = 0, epoch: str | None = None, **options: Any) -> None:
        super().__init__(after, epoch)
        self._protocol = SubscriptionProtocol(self, agent, after=after, clock=time.monotonic, **options)
        self._connection = SubscriptionConnection(url, self._protocol)
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
        """Drop the connection without a close frame, as a network would; the subscription reconnects by itself."""
        self._connection.abort()

    async def _run(self) -> AsyncGenerator[frames.Item]:
        connection = self._connection
        try:
            while not self._protocol.is_over:
                try:
                    for result in await connection.receive():
                        if isinstance(result, frames.Item):
                            yield result
                        else:
                            await connection.send(result)
                except ConnectionLost as lost:
                    await connection.recover(lost)
        finally:
            await connection.close()


def subscribe(
    url: str,
    agent: str,
    *,
    after: After = 0,
    epoch: str | None = None,
    raw: bool = False,
    token: AsyncToken = None,
    window: int | None = None,
    slow: frames.SlowPolicy = "catch_up",
    on_cursor: OnCursor | None = None,
) -> Subscription:
    """Subscribe to an agent; iterate over the result with `async for`.

    Args:
        url: `ws://HOST:PORT/v1/ws`.
        agent: an id, or `"*"` for all agents.
        after: the cursor: every later message is given out; 0 is everything, "tail" only new messages.
        epoch: of the agent that the cursor belongs to; a relaunched id is then refused.
        raw: whether to include the producers' lines.
        token: if the server demands one: text, or a function (async or not) that returns one. The function is called
            before the first connection, and again when the server refuses the token or says that it expired; that is
            final only if the fresh one is refused too. A text is tried once more if it expired, since clocks differ;
            any other refusal of it is final. An error of the function ends the iteration.
        window: how many messages (on `"*"`: positions) the server may send ahead of those taken; None for no limit
            but the sockets. The client acknowledges by itself: at half of the window, and less than that when nothing
            comes, but at most ten times a second. So choose at least what the application takes in a tenth of a second.
        slow: what the server does if the messages that a slow subscriber lacks are no longer in memory: "catch_up"
            reads them from the store, "skip" leaves them out (see `skipped`), "close" drops the connection.
        on_cursor: called with cursor and epoch when the application has taken all messages of one frame, so when it
            asks for the next message. Store both there and pass them as `after` and `epoch` after a restart: no message
            is then lost, and those taken since the last call come again (at least once). Exactly once across a restart
            needs the cursor in the same transaction as the effects of the messages: store `item.sequence` (on `"*"`:
            `item.position`) there instead. An error of the function ends the iteration. It is called on the event
            loop, so it must not block for long.

    Returns:
        An async iterator that ends when the agent has ended (that of all agents never does). It reconnects by itself.

    Raises:
        InvalidValueError: `after`, `window` or `slow` has no such value.
        SubscriptionError: while iterating: the server refused for good.
    """
    options: dict[str, Any] = {"raw": raw, "token": token, "window": window, "slow": slow, "on_cursor": on_cursor}
    return Subscription(url, agent, after=after, epoch=epoch, **options)


class SubscribeOptions(TypedDict, total=False):
    """The options of `subscribe` that do not belong to the whole client."""

    after: After
    epoch: str | None
    raw: bool
    window: int | None
    slow: frames.SlowPolicy
    on_cursor: OnCursor | None


class Client:
    """The requests that a program may send to a server, on the caller's event loop.

    Holds no connection, so there is nothing to close. A request that is cancelled may have been done or not.
    """

    @renamed_argument("timeout_s", "timeout")
    def __init__(
        self, url: str, *, token: AsyncToken = None, timeout: float = TIMEOUT_S, timeout_s: float | None = None
    ) -> None:
        """Make a client; nothing is connected yet.

        Args:
            url: `ws://HOST:PORT/v1/ws`.
            token: if the server demands one; see `subscribe`.
            timeout: seconds for each request with all its repetitions.
        """
        self._url = url
        self._token = token
        self._known: str | None = None
        self._timeout = timeout

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
        request = frames.Launch(id=REQUEST_ID, template=template, prompt=prompt, key=key or str(uuid.uuid4()))
        return required((await self._ask(request)).agent, "agent")

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
        request = frames.Send(id=REQUEST_ID, agent=agent, content=content, key=key or str(uuid.uuid4()))
        return required((await self._ask(request)).sequence, "sequence")

    async def terminate(self, agent: str, reason: str | None = None) -> str:
        """End an agent; return its status, which differs from `terminated` if it had ended before. Idempotent.

        Raises:
            RequestError: it was refused, or there was no reply in time.
        """
        request = frames.Terminate(id=REQUEST_ID, agent=agent, reason=reason)
        return required((await self._ask(request)).status, "status")

    def subscribe(self, agent: str, **options: Unpack[SubscribeOptions]) -> Subscription:
        """Subscribe with the same URL and token; see `subscribe`."""
        return subscribe(self._url, agent, token=self._token, **options)

    async def _ask(self, request: Request) -> frames.Ok:
        protocol = RequestProtocol(request, ReconnectPolicy(self._token, self._known))
        try:
            async with asyncio.timeout(self._timeout):
                while protocol.reply is None:
                    try:
                        await self._try(protocol)
                    except ConnectionLost as lost:
                        await asyncio.sleep(protocol.next_delay(lost, random.random()))
        except TimeoutError as error:
            raise protocol.timed_out(self._timeout) from error
        self._known = protocol.policy.token
        return protocol.reply

    async def _try(self, protocol: RequestProtocol) -> None:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                connection = await connect(self._url, protocol.policy)
                try:
                    while protocol.reply is None:
                        for frame in protocol.receive(await receive(connection)):
                            await send(connection, frame)
                finally:
                    await connection.close()
        except TimeoutError as error:
            raise ConnectionLost(f"no reply within {REPLY_TIMEOUT_S:g} s") from error
