"""What can go wrong between server and subscriber, and the codes that say so on the wire.

CommitcastError
├── ListenError (OSError)                 the address cannot be served
├── FrameError (ValueError)               a frame that does not keep to the protocol
└── SubscriptionError (ConnectionError)   the server refused for good; raised by the client

A close code tells the client whether to come back: 4000 to 4499 yes, 4500 to 4999 no.
"""

from enum import IntEnum, StrEnum

from commitcast.persistence.errors import CommitcastError


class ErrorCode(StrEnum):
    """The `code` of an `error` frame. Never reused for another meaning."""

    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    GONE = "gone"
    AHEAD = "ahead"
    STALE_EPOCH = "stale_epoch"
    LIMIT = "limit"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class CloseCode(IntEnum):
    """Why the server closed a connection."""

    DRAIN = 4000
    TOKEN_EXPIRED = 4001
    SLOW = 4002
    NO_HEARTBEAT = 4003
    RATE = 4004
    BAD_REQUEST = 4500
    UNAUTHENTICATED = 4501
    FORBIDDEN = 4503
    CONNECTION_LIMIT = 4504
    NO_HELLO = 4507

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
    """A frame that does not keep to the protocol; the connection goes on."""

    code = "bad_request"

    def __init__(self, message: str, *, id: int | str | None = None, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message)
        self.id = id
        self.error_code = code


class SubscriptionError(CommitcastError, ConnectionError):
    """The server refused a subscription for good."""

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(error_code, message)
        self.error_code = error_code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.error_code})"
