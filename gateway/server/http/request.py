"""HTTP as the gateway speaks it, whatever server carries it: a request in, a response out. Pure."""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from commitcast.gateway.web import Asset

_SAFE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""On every response: nothing is kept, guessed, run, told to other sites, or embedded by them."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    path: str
    """As sent, still quoted."""
    query: str = ""
    host: str = ""
    """The Host header, which was checked."""
    token: str | None = None
    """Of an `Authorization: Bearer` header."""
    address: str = ""
    """Where it comes from, without the port; empty if that is not known."""

    def __repr__(self) -> str:
        """Show everything but the token."""
        return f"HttpRequest(path={self.path!r}, query={self.query!r}, host={self.host!r})"


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

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
    """Return a response that says what is wrong."""
    return json_response({"error": {"code": code, "message": message}}, status, **headers)


def asset_response(asset: Asset, host: str) -> HttpResponse:
    """Return a file for browsers, which may run its own scripts and talk to its own server, and nothing else."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; connect-src 'self' ws://{host} wss://{host}"
    )
    return respond(asset.content_type, asset.data, Content_Security_Policy=policy)
