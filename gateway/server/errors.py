"""Errors of the server, in addition to those in `gateway.protocol.errors`.

CommitcastError
├── TokenError (PermissionError)          a token that is not accepted
└── MissingExtraError (ImportError)       an optional part needs a package that is not installed
"""

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.persistence.errors import CommitcastError


class TokenError(CommitcastError, PermissionError):
    """A token is not accepted. The text never holds the token."""

    code = "unauthenticated"

    def __init__(self, message: str, *, error_code: ErrorCode = ErrorCode.UNAUTHENTICATED) -> None:
        super().__init__(message)
        self.error_code = error_code


class MissingExtraError(CommitcastError, ImportError):
    """An optional part was requested whose libraries are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f'{self.what} needs libraries that are not installed: pip install "commitcast[{self.extra}]"'
