"""The reconnect policy: whether, when and with which token to connect again.

Pure: clocks, random numbers and sockets stay with the clients.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, FrameError

logger: Final = logging.getLogger(__name__)

BACKOFF_S: Final = (0.5, 20.0)
"""Each delay is drawn evenly from zero to a ceiling (full jitter); the ceiling doubles from the first to the second."""
QUICK_S: Final = 0.1
"""The ceiling after a connection that made progress. A single loss should not be noticed; a server that accepts and
drops connections brings no progress, so it gets the longer delays."""
LONGEST_S: Final = 300.0
"""The longest delay that a server's `goodbye` may ask for."""

Token = str | Callable[[], str] | None
AsyncToken = str | Callable[[], str | Awaitable[str]] | None

HELLO: Final = "hello"
"""The id of that frame."""
OF_TOKEN: Final = frozenset({ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED})
"""Codes that say that a token is missing, wrong or too old."""
_TOO_BIG: Final = 1009
"""RFC 6455, 7.4.1: the message that we sent is larger than the peer accepts."""
_CLOSE_CODES: Final[dict[int, str]] = {
    CloseCode.TOKEN_EXPIRED: ErrorCode.TOKEN_EXPIRED,
    CloseCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    _TOO_BIG: ErrorCode.TOO_LARGE,
}


class ConnectionLost(Exception):
    """A connection is over, or none was made.

    Attributes:
        code: an error code, of the server or of ours.
        is_final: another connection would end the same way.
        delay_s: seconds to wait before reconnecting, if the server said so.
    """

    def __init__(
        self, message: str, code: str = ErrorCode.UNAVAILABLE, *, is_final: bool = False, delay_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.is_final = is_final
        self.delay_s = delay_s


def decode(data: str | bytes) -> frames.ServerFrame | None:
    """Return the frame that a server sent; None for a type of a later version.

    Raises:
        ConnectionLost: it is not a frame, so the peer is not a server of ours.
    """
    try:
        return decoding.decode_server(data)
    except FrameError as error:
        raise ConnectionLost(str(error), ErrorCode.BAD_REQUEST, is_final=True) from error


def closed(code: int, reason: str, reconnect_ms: int | None = None) -> ConnectionLost:
    """Return what a close code, or a `goodbye` before it, means."""
    message = f"the server closed the connection: {reason or 'no reason given'} ({code})"
    delay_s = None if reconnect_ms is None else min(max(reconnect_ms / 1000, 0), LONGEST_S)
    is_final = code >= CloseCode.BAD_REQUEST or code == _TOO_BIG
    return ConnectionLost(message, _CLOSE_CODES.get(code, str(code)), is_final=is_final, delay_s=delay_s)


def greeting(welcome: frames.Welcome, token: str | None) -> Iterator[frames.Hello]:
    """Yield `hello` if the server asks for it: a proxy may have removed the header.

    Raises:
        ConnectionLost: there is no token.
    """
    if not welcome.needs_hello:
        return
    if token is None:
        raise ConnectionLost(
            "the server demands a token, and this client has none: pass one as `token`",
            ErrorCode.UNAUTHENTICATED,
            is_final=True,
        )
    yield frames.Hello(id=HELLO, token=token)


class ReconnectPolicy:
    """Whether to connect again, with which token, and after how long."""

    def __init__(self, token: AsyncToken, known: str | None = None) -> None:
        """Begin; `known` is what a token function returned earlier."""
        self.token = token if isinstance(token, str) else known
        """What to present now."""
        self._function = None if isinstance(token, str) else token
        self._refusals = 0
        self._tries = 0

    @property
    def token_function(self) -> Callable[[], str | Awaitable[str]] | None:
        """What to call for a token before connecting; None if the server needs none, or there is one already."""
        return self._function if self.token is None else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers to connect with.

        Raises:
            ConnectionLost: the token cannot stand in a header. It is not repeated in the error.
        """
        if self.token is None:
            return {}
        if not self.token.isascii() or not self.token.isprintable() or not self.token.strip():
            message = "the token is not printable ASCII: look for a line break in it"
            raise ConnectionLost(message, ErrorCode.BAD_REQUEST, is_final=True)
        return {"Authorization": f"Bearer {self.token}"}

    def token_accepted(self) -> None:
        """Note that the server accepted the token."""
        self._refusals = 0

    def made_progress(self) -> None:
        """Note that the connection brought something, so that the next delay is short."""
        self._tries = -1

    def delay_after(self, lost: ConnectionLost, jitter: float) -> float:
        """Return the seconds to wait before connecting again.

        Args:
            lost: why the last connection is over.
            jitter: a random number from 0 to 1.

        Raises:
            ConnectionLost: it is final.
        """
        if self._is_final(lost):
            raise lost
        logger.info("reconnecting: %s", lost)
        ceiling_s = QUICK_S if self._tries < 0 else min(BACKOFF_S[0] * 2**self._tries, BACKOFF_S[1])
        self._tries = min(self._tries + 1, 10)
        return jitter * ceiling_s if lost.delay_s is None else lost.delay_s

    def _is_final(self, lost: ConnectionLost) -> bool:
        """A token may be refused once if a function can give a fresh one, or if it only expired: clocks differ."""
        if lost.code not in OF_TOKEN:
            return lost.is_final
        self._refusals += 1
        if self._function is not None:
            self.token = None
        return self._refusals > 1 or (self._function is None and lost.code != ErrorCode.TOKEN_EXPIRED)
