"""Access by address, Host and Origin; and the places in a handshake where a token may be. Pure.

Without tokens the server is read-only and on loopback. Host is checked against DNS rebinding, Origin against pages of
other sites; a client that sends no Origin is not a browser and passes. A reverse proxy on the same machine would open a
server without tokens to other machines, so it refuses requests that show signs of a proxy.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qsl

from commitcast.gateway.protocol.errors import ErrorCode, ListenError
from commitcast.gateway.server.http.request import HttpResponse, refusal

BEARER: Final = "commitcast.bearer."
"""Prefix of the subprotocol that carries a token; it is never selected, and so never echoed."""
_TOKEN_NAMES: Final = frozenset({"token", "access_token", "jwt", "authorization", "bearer"})
_HOST: Final = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<literal>[0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
"""Anything else is rejected, because the value is echoed in our own headers."""
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SCHEMES: Final = frozenset({"http", "https"})
"""Of the server's own page; also `https` without TLS, because a proxy may add that."""
_FORWARDED: Final = frozenset(
    {
        "forwarded",  # RFC 7239
        "via",  # RFC 9110 section 7.6.3: every proxy must send it, and few do
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
"""Prefixes of headers that only proxies and tunnels send: Forwarded-For and similar, and those of large operators."""
_OLD_VERSION: Final = "1.0"
"""Of HTTP. Programs and browsers have used 1.1 for decades; nginx by default uses 1.0 and adds no header."""


def parse_address(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` (`[::1]:8765` for IPv6).

    Raises:
        ListenError: the text is not such an address.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ListenError(listen, "an address must be HOST:PORT, for example 127.0.0.1:8765")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """The access rules of one server."""

    def __init__(
        self,
        host: str | None,
        *,
        needs_token: bool,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
    ) -> None:
        """Make the rules of a server that listens on a host; None if it is mounted in another server."""
        self._needs_token = needs_token
        own = () if host is None else (host.lower(),)
        self._hosts = frozenset({*own, *_LOOPBACK_NAMES, *(name.lower() for name in allowed_hosts)})
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    def allows_host(self, header: str | None) -> bool:
        """Whether a Host header names this server."""
        match = _HOST.fullmatch(header or "")
        return match is not None and (match["name"] or match["literal"]).lower() in self._hosts

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may connect; None is a client that is not a browser."""
        if origin is None:
            return True
        origin = origin.lower().rstrip("/")
        scheme, _, authority = origin.partition("://")
        return origin in self._origins or (host is not None and scheme in _OWN_SCHEMES and authority == host.lower())

    def check(
        self, host: str | None, origin: str | None, query: str, names: Iterable[str] = (), version: str = "1.1"
    ) -> HttpResponse | None:
        """Return the refusal of a request; None lets it in. `names` are those of all its headers."""
        if not self._needs_token and (sign := sign_of_proxy(names, version)):
            message = (
                "without tokens this server serves its own machine only, "
                f"and this request came through a proxy ({sign}): give the server tokens"
            )
            return refusal(ErrorCode.FORBIDDEN, message)
        if not self.allows_host(host):
            message = "the Host header does not name this server: add the name to allowed_hosts (--allow-host)"
            return refusal(ErrorCode.FORBIDDEN, message)
        if not self.allows_origin(origin, host):
            message = "pages of that Origin may not use this server: add it to allowed_origins (--allow-origin)"
            return refusal(ErrorCode.FORBIDDEN, message)
        if has_token(query):
            message = "a token in a URL would be logged: use Authorization: Bearer, hello, or a subprotocol"
            return refusal(ErrorCode.BAD_REQUEST, message)
        return None


def sign_of_proxy(names: Iterable[str], version: str) -> str:
    """Return the sign in the names of headers and the HTTP version that a request came through a proxy; else empty."""
    for name in map(str.lower, names):
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES):
            return name[:40]
    return f"HTTP/{version}" if version == _OLD_VERSION else ""


def bearer(authorization: str | None) -> str | None:
    """Return the token of an `Authorization: Bearer` header; None for any other."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def offered_token(subprotocols: Sequence[str]) -> str | None:
    """Return the token that a page offers as a subprotocol, the only header that it can set."""
    offered = (name.removeprefix(BEARER) for name in subprotocols if name.startswith(BEARER))
    return next((token for token in offered if token), None)


def has_token(query: str) -> bool:
    """Whether a query has a parameter named like a token: it would end in logs, histories and Referer headers."""
    return any(name.lower() in _TOKEN_NAMES for name, _ in parse_qsl(query, keep_blank_values=True))
