"""What a source yields and how it ends, as values. Pure."""

from typing import Any

import msgspec

from commitcast.persistence.records import AgentStatus


class Draft(msgspec.Struct, frozen=True):
    """A message as a source yields it; it is checked and numbered later.

    Unlike `emit`, a source never fails for bad text: lone surrogates become U+FFFD and the original is kept in `raw`.
    """

    content: str | dict[str, Any] | list[Any]
    type: str = "assistant"
    role: str | None = None
    metadata: dict[str, Any] | None = None
    raw: bytes | str | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a source ended: the status that its agent gets, and why."""

    status: AgentStatus = AgentStatus.COMPLETED
    error_name: str | None = None
    error_message: str | None = None
    result: Any = None
    """A JSON value; kept whatever the status is."""

    @classmethod
    def of(cls, error: BaseException) -> "Ending":
        """Return the failure that an error is."""
        return cls(status=AgentStatus.FAILED, error_name=type(error).__name__, error_message=str(error))

    @property
    def error(self) -> dict[str, str | None]:
        """Name and message of the error, under the names that they have in a record."""
        return {"error_name": self.error_name, "error_message": self.error_message}
