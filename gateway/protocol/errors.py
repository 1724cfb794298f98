"""Errors between server and client, and their codes on the wire.

CommitcastError
├── ListenError (OSError)                 the address cannot be served
├── FrameError (ValueError)               a frame is not valid
├── RequestError (ConnectionError)        a request was refused, or not answered in time
└── SubscriptionError (ConnectionError)   the server refused a subscription for good; raised by the client

A close code tells the client whether to reconnect: 4000 to 4499 yes, 4500 to 4999 no.
"""

from enum import IntEnum, StrEnum

from commitcast.persistence.errors import CommitcastError


class ErrorCode(StrEnum):
    """The `code` of an `error` frame. Never reused for another meaning."""

    BAD_REQUEST = "bad_request"
    """The frame or its fields are wrong."""
    UNAUTHENTICATED = "unauthenticated"
    """A token is needed, or this one is not accepted."""
    TOKEN_EXPIRED = "token_expired"
    """The token has expired: get a new one and send it in `hello`."""
    FORBIDDEN = "forbidden"
    """This is not allowed here, or not for this caller."""
    NOT_FOUND = "not_found"
    """The agent, template or subscription does not exist, or the caller may not know of it."""
    GONE = "gone"
    """The agent was deleted."""
    AHEAD = "ahead"
    """The cursor is beyond `head`: the store has lost data, or is another store."""
    STALE_EPOCH = "stale_epoch"
    """The cursor belongs to an earlier agent with that id, or to another file."""
    CONFLICT = "conflict"
    """The agent's state does not allow it: it has ended, or does not accept input. The request itself is valid."""
    LIMIT = "limit"
    """A limit is reached: subscriptions of a connection, running agents of a template, unread messages of an agent."""
    RATE_LIMITED = "rate_limited"
    """Too many requests: slow down, or the connection is closed with 4004."""
    TOO_LARGE = "too_large"
    """The frame or its content is too large."""
    UNAVAILABLE = "unavailable"
    """The store cannot be read or written now, or tokens cannot be checked."""
    INTERNAL = "internal"
    """A defect of the server; its log has the details."""

    @property
    def retry(self) -> bool:
        """Whether the same request may be done later. The `retry` of an `error` frame takes precedence."""
        return self in (ErrorCode.TOKEN_EXPIRED, ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)


class CloseCode(IntEnum):
    """Why the server closed a connection."""

    DRAIN = 4000
    """The server is stopping; reconnect after `reconnect_ms`."""
    TOKEN_EXPIRED = 4001
    """The token expired before `hello` brought a new one."""
    SLOW = 4002
    """Too slow: the client read nothing for 30 s, or a subscription with `slow` = `"close"` fell behind."""
    NO_HEARTBEAT = 4003
    """Nothing was received from the peer for two heartbeats."""
    RATE = 4004
    """Requests continued after `rate_limited`, or there were too many control frames or fragments."""
    UNAVAILABLE = 4005
    """Tokens cannot be checked now."""
    BAD_REQUEST = 4500
    """The peer does not speak this protocol."""
    UNAUTHENTICATED = 4501
    """The token is not accepted."""
    FORBIDDEN = 4503
    """The token grants no rights here."""
    CONNECTION_LIMIT = 4504
    """The peer has reached its limit of connections."""
    NO_HELLO = 4507
    """No `hello` with a token was received within 5 s."""

    @property
    def come_back(self) -> bool:
        """Whether the client should connect again."""
        return self < 4500


class ListenError(CommitcastError, OSError):
    """The address cannot be served."""

    code = "unavailable"

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.why}"


class FrameError(CommitcastError, ValueError):
    """A frame is not valid; the connection stays open."""

    code = "bad_request"

    def __init__(self, message: str, *, id: int | str | None = None, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message)
        self.id = id
        self.error_code = code


class RequestError(CommitcastError, ConnectionError):
    """A request was refused for good, or there was no reply in time.

    Attributes:
        error_code: of the server, or "unavailable" if there was no reply in time: it may then have been done.
        message: for people.
        key: the idempotency key that was used; the same request with the same key does nothing twice.
    """

    code = "unavailable"

    def __init__(self, error_code: str, message: str, key: str | None = None) -> None:
        super().__init__(error_code, message)
        self.error_code = error_code
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return f"{self.message} ({self.error_code})"


class SubscriptionError(CommitcastError, ConnectionError):
    """The server refused a subscription for good."""

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(error_code, message)
        self.error_code = error_code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.error_code})"
