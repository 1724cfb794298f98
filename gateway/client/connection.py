"""The connection of a client, for both faces: made with a token, read ahead, and made again after a loss.

Turns every error of the WebSocket library into `ConnectionLost`. The frames and their meaning belong to `protocol` and
`requests`, which are pure. Belongs to one event loop.
"""

import asyncio
import inspect
import logging
import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_to
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from commitcast.gateway.client.protocol import SubscriptionProtocol
from commitcast.gateway.client.reconnect import ConnectionLost, ReconnectPolicy, closed, decode
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.protocol.quiet_log import QuietLogger

OPEN_TIMEOUT_S: Final = 10.0
"""For connecting, with all handshakes."""
CLOSE_TIMEOUT_S: Final = 0.25
"""For the server's close frame. It may be queued behind messages that are not read; nothing is lost without it."""
FRAMES_AHEAD: Final = 16
"""How many frames of a subscription may wait for the application: as many as websockets keeps by itself."""
_HTTP_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: ErrorCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: ErrorCode.FORBIDDEN,
    HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
}
_HTTP_TEMPORARY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_CONNECT_OPTIONS: Final[dict[str, Any]] = {
    "subprotocols": [Subprotocol(frames.SUBPROTOCOL)],
    "compression": None,
    "max_size": None,  # a message may be as large as the store takes
    "close_timeout": CLOSE_TIMEOUT_S,
    "ping_interval": None,  # the server's heartbeats do this, and do not fail while the application is busy
    "proxy": None,
    "logger": QuietLogger(logging.getLogger(__name__)),
}
"""For the `connect` of websockets."""

_Received = frames.ServerFrame | Exception | None
"""A frame, None for a type of a later version, or why there are no more."""


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn the errors of websockets and sockets into `ConnectionLost`. Never around the application's hooks."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectionLost(
            f"the server's certificate is not trusted: {error}", ErrorCode.FORBIDDEN, is_final=True
        ) from error
    except (InvalidURI, ValueError) as error:  # ValueError: an impossible host name, a redirect that is refused
        raise ConnectionLost(str(error), ErrorCode.BAD_REQUEST, is_final=True) from error
    except InvalidStatus as error:
        raise _refused(error.response.status_code) from error
    except ConnectionClosed as error:
        raise (closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else ConnectionLost(str(error))) from error
    except (OSError, EOFError, WebSocketException) as error:
        raise ConnectionLost(f"the server cannot be reached ({error or type(error).__name__})") from error


def _refused(status: int) -> ConnectionLost:
    message = f"the server refused the connection with HTTP {status}"
    if status not in range(400, 500) or status in _HTTP_TEMPORARY:
        return ConnectionLost(message)
    return ConnectionLost(message, _HTTP_CODES.get(HTTPStatus(status), ErrorCode.BAD_REQUEST), is_final=True)


async def connect(url: str, policy: ReconnectPolicy) -> ClientConnection:
    """Connect with a token. An error of the token function is raised as it is."""
    if policy.token_function is not None:
        token = policy.token_function()
        policy.token = await token if inspect.isawaitable(token) else token
        if policy.token is not None and not isinstance(policy.token, str):
            raise TypeError(f"the token function returned {type(policy.token).__name__}, not str")
    with _translate_errors():
        return await connect_to(url, additional_headers=policy.headers, open_timeout=OPEN_TIMEOUT_S, **_CONNECT_OPTIONS)


async def receive(connection: ClientConnection) -> frames.ServerFrame | None:
    """Return the next frame; None for a type of a later version.

    Raises:
        ConnectionLost: there is none, or the peer is not a server of ours.
    """
    with _translate_errors():
        data = await connection.recv()
    return decode(data)


async def send(connection: ClientConnection, frame: frames.ClientFrame) -> None:
    """Send a frame.

    Raises:
        ConnectionLost: the connection is closed.
    """
    with _translate_errors():
        await connection.send(frames.encode(frame), text=True)


class SubscriptionConnection:
    """The connection of one subscription, made again after each loss. Belongs to one event loop."""

    def __init__(self, url: str, protocol: SubscriptionProtocol) -> None:
        self.is_closing = False
        """Whether no further frame is to be taken."""
        self._url = url
        self._protocol = protocol
        self._connection: ClientConnection | None = None
        self._frames: asyncio.Queue[_Received] = asyncio.Queue(0)
        self._reading: asyncio.Task[None] | None = None

    async def receive(self) -> Iterator[frames.Item | frames.ClientFrame]:
        """Return what the next frames bring: items to give out and frames to send. Connects if need be.

        Takes all frames that are there, so that threads are changed once for several frames. At most `FRAMES_AHEAD` are
        read before they are asked for; what an application does not take stays in the sockets, and at the server.

        Raises:
            ConnectionLost: by the iterator too. Call `recover`.
        """
        if self._connection is None:
            self._protocol.connect()
            self._connection = await connect(self._url, self._protocol.policy)
            self._frames = asyncio.Queue(FRAMES_AHEAD)
            self._reading = asyncio.create_task(_read(self._connection, self._frames))
        try:
            async with asyncio.timeout(self._protocol.receive_timeout_s):
                received = [await self._frames.get()]
        except TimeoutError:
            return self._protocol.on_silence()
        while not self._frames.empty():
            received.append(self._frames.get_nowait())
        return self._results(received)

    def _results(self, received: list[_Received]) -> Iterator[frames.Item | frames.ClientFrame]:
        for frame in received:
            if self._protocol.is_over or self.is_closing:
                return
            if isinstance(frame, Exception):
                raise frame
            yield from self._protocol.receive(frame)

    async def send(self, frame: frames.ClientFrame) -> None:
        """Send a frame on the connection that `receive` has used.

        Raises:
            ConnectionLost: call `recover`.
        """
        assert self._connection is not None
        await send(self._connection, frame)

    async def recover(self, lost: ConnectionLost) -> None:
        """Close the connection, and wait until it is time to reconnect.

        Raises:
            SubscriptionError: the server refused for good.
        """
        await self.close()
        await asyncio.sleep(self._protocol.next_delay(lost, random.random()))

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection = self._connection, None
        if self._reading is not None:
            self._reading.cancel()
        if connection is not None:
            await connection.close()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._connection is not None:
            self._connection.transport.abort()


async def _read(connection: ClientConnection, received: asyncio.Queue[_Received]) -> None:
    """Read frames ahead. Refers to no subscription, so that one that is forgotten is collected, and closed by that."""
    try:
        while True:
            await received.put(await receive(connection))
    except Exception as error:  # the subscription raises it, after the frames before it
        await received.put(error)
