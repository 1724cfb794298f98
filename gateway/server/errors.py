"""Errors of the server, in addition to those in `gateway.protocol.errors`.

CommitcastError
├── TokenError (PermissionError)                a token that is not accepted
├── VerifierUnavailableError (ConnectionError)  tokens cannot be checked now
├── TemplateUnavailableError                    no runtime offers the template now
└── MissingExtraError (ImportError)             an optional part needs a package that is not installed
"""

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.persistence.errors import CommitcastError


class TokenError(CommitcastError, PermissionError):
    """A token is not accepted. The text never holds the token."""

    code = "unauthenticated"

    def __init__(self, message: str, *, error_code: ErrorCode = ErrorCode.UNAUTHENTICATED) -> None:
        super().__init__(message)
        self.error_code = error_code


class VerifierUnavailableError(CommitcastError, ConnectionError):
    """Tokens cannot be checked now: their verifier failed, or has not answered in time. So none is accepted."""

    code = "unavailable"
    retryable = True

    def __str__(self) -> str:
        return "tokens cannot be checked now, so none is accepted: try again later"


class TemplateUnavailableError(CommitcastError):
    """No runtime of the file offers the template now. One that does may start."""

    code = "unavailable"
    retryable = True

    def __init__(self, template: str) -> None:
        super().__init__(template)
        self.template = template

    def __str__(self) -> str:
        return f"no runtime offers the template {self.template[:64]!r} now: start one that does, or try again later"


class MissingExtraError(CommitcastError, ImportError):
    """An optional part was requested whose libraries are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    @property
    def advice(self) -> str:
        """The command that installs them."""
        return f'pip install "commitcast[{self.extra}]"'

    def __str__(self) -> str:
        return f"{self.what} needs libraries that are not installed: {self.advice}"
