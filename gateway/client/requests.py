"""One request (launch, send or terminate), without I/O: done once, however often the connection is lost.

Each request has a connection of its own: connect, be welcomed, ask, get the reply, close. If the connection is lost
before the reply, the request is sent again with the same idempotency key, so that the server does it only once. Pure.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from commitcast.gateway.client.reconnect import HELLO, ConnectionLost, ReconnectPolicy, closed, greeting
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode, RequestError

T = TypeVar("T")
Request = frames.Launch | frames.Send | frames.Terminate
REQUEST_ID: Final = 1
"""Of the one request on a connection."""


class RequestProtocol:
    """One request, over as many connections as it takes."""

    def __init__(self, request: Request, policy: ReconnectPolicy) -> None:
        self.policy = policy
        self.reply: frames.Ok | None = None
        self._request = request
        self._lost: ConnectionLost | None = None

    def receive(self, frame: frames.ServerFrame | None) -> Iterator[frames.ClientFrame]:
        """Yield the frames to send because of a frame that was received.

        Raises:
            ConnectionLost: the request was refused, or the connection cannot be used any more.
        """
        match frame:
            case frames.Welcome():
                yield from greeting(frame, self.policy.token)
                yield self._request
            case frames.Goodbye():
                raise closed(frame.code, frame.reason, frame.reconnect_ms)
            case frames.Error() if frame.id in (REQUEST_ID, HELLO, None):
                raise ConnectionLost(frame.message, frame.code, is_final=not frame.retry)
            case frames.Ok() if frame.id == REQUEST_ID:
                self.reply = frame

    def next_delay(self, lost: ConnectionLost, jitter: float) -> float:
        """Return the seconds to wait before asking again.

        Raises:
            RequestError: the server refused for good.
        """
        self._lost = lost
        try:
            return self.policy.delay_after(lost, jitter)
        except ConnectionLost:
            raise RequestError(lost.code, str(lost), self._request.key) from lost

    def timed_out(self, timeout: float) -> RequestError:
        """Return the error for a request without a reply in `timeout` seconds."""
        message = (
            f"no reply within {timeout:g} s, so it may or may not have been carried out: repeat it with the same key"
        )
        return RequestError(
            ErrorCode.UNAVAILABLE, f"{message} ({self._lost or 'nothing was received'})", self._request.key
        )


def required(value: T | None, name: str) -> T:
    """Return a field of a reply.

    Raises:
        RequestError: the reply lacks it.
    """
    if value is None:
        raise RequestError(ErrorCode.INTERNAL, f"the server carried out the request, but its reply lacks the {name}")
    return value
