"""HTTP requests and responses of the gateway, independent of the server that carries them. Pure."""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.web import Asset

REPEATED_HEADER: Final = "Host, Origin and Authorization may each be sent only once"
STATUS_OF: Final = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.TOKEN_EXPIRED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.GONE: HTTPStatus.GONE,
    ErrorCode.AHEAD: HTTPStatus.CONFLICT,
    ErrorCode.STALE_EPOCH: HTTPStatus.CONFLICT,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.LIMIT: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The status of a response with an error of that code."""

_SAFE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""On every response: it is not cached, sniffed, run as a script, or visible to other sites."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose Host and Origin were checked."""

    path: str
    """As sent, percent-encoded."""
    query: str = ""
    host: str = ""
    """The Host header."""
    token: str | None = None
    """Of an `Authorization: Bearer` header."""
    address: str = ""
    """Of the client, without the port; empty if unknown."""

    def __repr__(self) -> str:
        """Show everything but the token."""
        return f"HttpRequest(path={self.path!r}, query={self.query!r}, host={self.host!r})"


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


def respond(content_type: str, body: bytes, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> HttpResponse:
    """Return a response; headers are given with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    every = {"Content-Type": content_type, "Content-Length": str(len(body)), **_SAFE_HEADERS, **named}
    return HttpResponse(status=status, headers=every, body=body)


def json_response(body: Any, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> HttpResponse:
    """Return a response with a JSON body."""
    return respond("application/json; charset=utf-8", msgspec.json.encode(body), status, **headers)


def error_response(status: HTTPStatus, code: str, message: str, **headers: str) -> HttpResponse:
    """Return a response with an error as JSON."""
    return json_response({"error": {"code": code, "message": message}}, status, **headers)


def refusal(code: ErrorCode, message: str) -> HttpResponse:
    """Return the response to a request that is refused with an error code, with the headers that its status needs."""
    status = STATUS_OF[code]
    if status is HTTPStatus.UNAUTHORIZED:
        return error_response(status, code, message, WWW_Authenticate="Bearer")
    if code is ErrorCode.RATE_LIMITED:
        return error_response(status, code, message, Retry_After="60")
    if code is ErrorCode.UNAVAILABLE:
        return error_response(status, code, message, Retry_After="2")
    return error_response(status, code, message)


def asset_response(asset: Asset, host: str) -> HttpResponse:
    """Return a file for browsers, which may run the server's own scripts and connect to it, and nothing else."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; connect-src 'self' ws://{host} wss://{host}"
    )
    return respond(asset.content_type, asset.data, Content_Security_Policy=policy)
