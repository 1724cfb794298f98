"""Who may talk to the server: addresses, Host and Origin; and where in a handshake a token may be. Pure.

Without a token the server is read-only and on loopback. Host is checked against DNS rebinding, Origin against pages
of other sites; a program that sends no Origin is no browser and passes. A reverse proxy on the same machine would make
a server without tokens everybody's, so what shows that it came through one is refused there.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.http.request import HttpResponse, error_response

BEARER: Final = "commitcast.bearer."
"""Begins the subprotocol that carries a token; it is never chosen, and so never echoed."""
_TOKEN_NAMES: Final = frozenset({"token", "access_token", "jwt", "authorization", "bearer"})
_HOST: Final = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<literal>[0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
"""Nothing else is a host and a port: what passes stands in headers of ours."""
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SCHEMES: Final = frozenset({"http", "https"})
"""Of a page that a server like this one has sent; also `https` if it has no TLS, for there may be a proxy that has."""
_FORWARDED: Final = frozenset(
    {
        "forwarded",  # RFC 7239
        "via",  # RFC 9110 section 7.6.3: every proxy must send it, and hardly one does
        "cdn-loop",  # RFC 8586
        "client-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "proxy-connection",
        "true-client-ip",
        "x-appengine-user-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-proxyuser-ip",
        "x-real-ip",
    }
)
_FORWARDED_PREFIXES: Final = ("x-forwarded", "x-original-", "x-envoy-", "x-azure-", "x-amz", "cf-", "tailscale-")
"""How headers begin that only a proxy or a tunnel sends: Forwarded-For and its kind, and those of large operators."""
_OLD_VERSION: Final = "1.0"
"""Of HTTP. Programs and browsers have spoken 1.1 for decades; nginx, left as it is, speaks 1.0 and adds no header."""


def parse_address(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` (`[::1]:8765` for IPv6).

    Raises:
        ListenError: it is no such address.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ListenError(listen, "an address is HOST:PORT, for example 127.0.0.1:8765")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """The rules of one server."""

    def __init__(
        self,
        host: str | None,
        *,
        needs_token: bool,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
    ) -> None:
        """Make the rules.

        Args:
            host: where the server listens; None if it does not, but is part of another.
            needs_token: whether clients must present a token.
            allowed_hosts: names besides the listening address that a Host header may have.
            allowed_origins: origins besides the server's own that a browser's page may have.
        """
        self._needs_token = needs_token
        own = () if host is None else (host.lower(),)
        self._hosts = frozenset({*own, *_LOOPBACK_NAMES, *(name.lower() for name in allowed_hosts)})
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    def allows_host(self, header: str | None) -> bool:
        """Whether a Host header names this server."""
        found = _HOST.fullmatch(header or "")
        return found is not None and (found["name"] or found["literal"]).lower() in self._hosts

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may talk to the server; None is no browser."""
        if origin is None:
            return True
        origin = origin.lower().rstrip("/")
        scheme, _, place = origin.partition("://")
        return origin in self._origins or (host is not None and scheme in _OWN_SCHEMES and place == host.lower())

    def check(
        self, host: str | None, origin: str | None, query: str, names: Iterable[str] = (), version: str = "1.1"
    ) -> HttpResponse | None:
        """Return the refusal of a request that may not come in; None lets it in.

        Args:
            host, origin: the headers; None if they are not there.
            query: of the URL.
            names: of all headers.
            version: of HTTP.
        """
        if not self._needs_token and (sign := sign_of_proxy(names, version)):
            message = (
                f"without tokens this server is for its own machine only, and this came through a proxy ({sign}): "
                "give the server tokens"
            )
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", message)
        if not self.allows_host(host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "this server is not known by that Host")
        if not self.allows_origin(origin, host):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "pages of that Origin may not use this server")
        if has_token(query):
            message = "a token in a URL ends in logs: send Authorization: Bearer, or hello, or a subprotocol"
            return error_response(HTTPStatus.BAD_REQUEST, "bad_request", message)
        return None


def sign_of_proxy(names: Iterable[str], version: str) -> str:
    """Return what shows that a request was not sent by its client itself; empty if nothing does.

    Args:
        names: of its headers.
        version: of HTTP.
    """
    for name in map(str.lower, names):
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES):
            return name[:40]
    return f"HTTP/{version}" if version == _OLD_VERSION else ""


def bearer(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header, if it is of that kind."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def offered_token(subprotocols: Sequence[str]) -> str | None:
    """Return the token that a browser's page offers as a subprotocol, the one header that it can choose."""
    offered = (name.removeprefix(BEARER) for name in subprotocols if name.startswith(BEARER))
    return next((token for token in offered if token), None)


def has_token(query: str) -> bool:
    """Whether a URL's query carries what looks like a token: it would end in logs, histories and Referer headers."""
    return any(name.lower() in _TOKEN_NAMES for name, _ in parse_qsl(query, keep_blank_values=True))
