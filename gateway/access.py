"""Who may talk to the server: addresses, Host, Origin and token. Pure.

Without a token the server is read-only and on loopback. Host is checked against DNS rebinding, Origin against pages
of other sites; a program that sends no Origin is no browser and passes.
"""

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from commitcast.gateway.errors import ListenError

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


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
        self, host: str, *, token: str | None, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()
    ) -> None:
        """Make the rules.

        Args:
            host: where the server listens.
            token: what a client must present; None for none, which is for loopback only.
            allowed_hosts: names besides the listening address that a Host header may have.
            allowed_origins: origins besides the server's own that a browser's page may have.

        Raises:
            ListenError: the address is not loopback and there is no token.
        """
        if token is None and not is_loopback(host):
            raise ListenError(
                host, "it can be reached from other machines, so a token is needed: give one, or use 127.0.0.1"
            )
        self._token = token
        self._hosts = frozenset({host.lower(), *_LOOPBACK_NAMES, *(name.lower() for name in allowed_hosts)})
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    @property
    def needs_token(self) -> bool:
        """Whether a client must present a token."""
        return self._token is not None

    def allows_host(self, header: str | None) -> bool:
        """Whether a Host header names this server."""
        if not header:
            return False
        try:
            name = urlsplit(f"//{header}").hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._hosts

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may talk to the server; None is no browser."""
        if origin is None:
            return True
        origin = origin.lower().rstrip("/")
        return origin in self._origins or (host is not None and origin.partition("://")[2] == host.lower())

    def accepts_token(self, token: str | None) -> bool:
        """Whether the token is the right one, in constant time."""
        if self._token is None:
            return True
        return token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def accepts_header(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries the right token."""
        scheme, _, token = (authorization or "").partition(" ")
        return self.accepts_token(token.strip() if scheme.lower() == "bearer" else None)
