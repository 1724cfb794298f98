"""A subscriber in Python: `async for message in subscribe(url, agent, after=n)`.

Owns the asynchronous connection; what is said on it and what it means is `following`'s. Comes back by itself after
whatever went wrong, and so gives out every message exactly once, in order. Runs on the caller's event loop. Here too
is what `blocking` and `requests` need to know of websockets: options, and what its errors mean.
"""

import asyncio
import inspect
import logging
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from commitcast.gateway.client.protocol import After, Following, OnCursor, Standing
from commitcast.gateway.client.reconnect import AsyncToken, Comeback, Lost, closed, decode
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.protocol.quiet_log import QuietLogger

OPEN_TIMEOUT_S: Final = 10.0
"""For connecting, with all handshakes."""
CLOSE_TIMEOUT_S: Final = 0.25
"""For the server's part in closing: it may stand behind messages that nobody takes, and nothing is lost without it."""
_HTTP_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: ErrorCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: ErrorCode.FORBIDDEN,
    HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
}
_HTTP_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


CONNECT_OPTIONS: Final[dict[str, Any]] = {
    "subprotocols": [Subprotocol(frames.SUBPROTOCOL)],
    "compression": None,
    "max_size": None,  # a message may be as large as the store takes
    "close_timeout": CLOSE_TIMEOUT_S,
    "ping_interval": None,  # the server's heartbeats do this, and do not fail while the application is busy
    "proxy": None,
    "logger": QuietLogger(logging.getLogger(__name__)),
}
"""For the `connect` of websockets, asynchronous or not."""


@contextmanager
def losing() -> Iterator[None]:
    """Turn what connecting, sending and receiving raise into `Lost`. The application's hooks are called outside."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Lost(f"the server's certificate is not trusted: {error}", ErrorCode.FORBIDDEN, is_final=True) from error
    except (InvalidURI, ValueError) as error:  # ValueError: a host that can be no name, a redirect that is not followed
        raise Lost(str(error), ErrorCode.BAD_REQUEST, is_final=True) from error
    except InvalidStatus as error:
        raise _refused(error.response.status_code) from error
    except ConnectionClosed as error:
        raise (closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else Lost(str(error))) from error
    except (OSError, EOFError, WebSocketException) as error:
        raise Lost(f"the server is not reached ({error or type(error).__name__})") from error


def _refused(status: int) -> Lost:
    message = f"the server refused the connection with HTTP {status}"
    if status not in range(400, 500) or status in _HTTP_PASSING:
        return Lost(message)
    return Lost(message, _HTTP_CODES.get(HTTPStatus(status), ErrorCode.BAD_REQUEST), is_final=True)


@asynccontextmanager
async def connection_to(url: str, comeback: Comeback) -> AsyncGenerator[ClientConnection]:
    """Connect with a token, and close at the end. Whatever the token's function raises is the caller's, but `Lost`."""
    if comeback.ask is not None:
        token = comeback.ask()
        comeback.token = await token if inspect.isawaitable(token) else token
    with losing():
        connection = await connect(
            url, additional_headers=comeback.headers, open_timeout=OPEN_TIMEOUT_S, **CONNECT_OPTIONS
        )
    try:
        yield connection
    finally:
        await connection.close()


async def send(connection: ClientConnection, frame: frames.ClientFrame) -> None:
    """Send a frame."""
    with losing():
        await connection.send(frames.encode(frame), text=True)


class Subscription(Standing):
    """An async iterator over one agent's messages (or all agents'), from a cursor until the agent's end.

    Made by `subscribe`. Its attributes are those of `Standing`: cursor, epoch, status, ending, record, reconnects,
    skipped.
    """

    def __init__(self, url: str, agent: str, *, after: After = 0, epoch: str | None = None, **options: Any) -> None:
        super().__init__(after, epoch)
        self._url = url
        self._following = Following(self, agent, after=after, clock=time.monotonic, **options)
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
        while not self._following.is_over:
            try:
                async with aclosing(self._follow()) as items:
                    async for item in items:
                        yield item
            except Lost as lost:
                await asyncio.sleep(self._following.come_back(lost, random.random()))
            finally:
                self._connection = None

    async def _follow(self) -> AsyncGenerator[frames.Item]:
        """Give out what one connection brings."""
        following = self._following
        following.connected()
        async with connection_to(self._url, following.comeback) as self._connection:
            while not following.is_over:
                for said in await self._hear(self._connection):
                    if isinstance(said, frames.Item):
                        yield said
                    else:
                        await send(self._connection, said)

    async def _hear(self, connection: ClientConnection) -> Iterator[frames.Item | frames.ClientFrame]:
        """Read only when asked: what an application does not take stays in the sockets, and then with the server."""
        try:
            async with asyncio.timeout(self._following.wait_s):
                with losing():
                    data = await connection.recv()
        except TimeoutError:
            return self._following.on_silence()
        return self._following.receive(decode(data))


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
        after: the cursor: every later message is given out; 0 is everything, "tail" what is new.
        epoch: of the agent that the cursor belongs to; a relaunched id is then refused.
        raw: whether the producers' lines are wanted.
        token: if the server demands one: text, or a function (async or not) that returns one. The function is called
            before the first connection, and again when the server refuses the token or says that it expired; that is
            final only if the fresh one is refused too. A text is tried once more if it expired, since clocks differ;
            any other refusal of it is final. What the function raises ends the iteration.
        window: how many messages (on `"*"`: positions) the server may send ahead of what was taken; None for no limit
            but the sockets. Acknowledged by itself: at half of the window, and less than that when nothing comes, but
            at most ten times a second. So let it hold what the application takes in a tenth of a second, or more.
        slow: what the server does if the subscriber is so slow that what it lacks is no longer in memory: "catch_up"
            reads it from the store, "skip" leaves it out and counts it in `skipped`, "close" drops the connection.
        on_cursor: called with cursor and epoch when the application has taken everything that came in one frame, so
            when it asks for the next message. Keep both there and give them as `after` and `epoch` after a restart:
            no message is then lost, and those taken since the last call come again (at least once). Exactly once
            across a restart needs the cursor kept in the same transaction as what the messages caused: keep
            `item.sequence` (on `"*"`: `item.position`) there instead. What it raises ends the iteration. It is called
            on the event loop, so it must not block for long.

    Returns:
        An async iterator that ends when the agent has ended (that of all agents never does). It reconnects by itself.

    Raises:
        SubscriptionError: while iterating: the server refused for good.
    """
    options: dict[str, Any] = {"raw": raw, "token": token, "window": window, "slow": slow, "on_cursor": on_cursor}
    return Subscription(url, agent, after=after, epoch=epoch, **options)
