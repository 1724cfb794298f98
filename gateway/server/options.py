"""How a gateway serves, as one value whose fields are checked once, before anything is bound. Pure."""

import ssl
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.access.auth import Verifier
from commitcast.gateway.server.access.limits import MAX_LIMIT, Limits
from commitcast.gateway.server.access.origins import is_loopback, parse_address
from commitcast.persistence.errors import InvalidValueError

ASGI: Final = "asgi"
"""In place of an address: no port of its own; connections come through an ASGI app (see `gateway.asgi`)."""
HEARTBEAT_S: Final = 15.0
"""Less than the thirty seconds after which proxies close silent connections."""


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a gateway, its access rules and its limits.

    Raises:
        ListenError: the address is not one, or can be reached from other machines and there is no verifier.
        InvalidValueError: another field is out of range.
    """

    listen: str
    """`HOST:PORT`; port 0 takes a free one. Or `asgi`, for no port of its own."""
    verifier: Verifier | None = None
    """Of the tokens that clients must present; None is read-only and for loopback only."""
    limits: Limits | None = None
    """On what one client may use; None are the defaults."""
    tls: ssl.SSLContext | None = None
    """Certificate and key to serve with; None serves without TLS."""
    allowed_hosts: Sequence[str] = ()
    """Names besides the listening address that a Host header may have."""
    allowed_origins: Sequence[str] = ()
    """Origins besides the server's own whose pages may connect."""
    redact: Collection[str] = ()
    """Further names in agents' configurations whose values subscribers are not shown."""
    redact_except: Collection[str] = ()
    """Names whose values they are shown, although a name is hidden that ends like this; `redact` takes precedence."""
    heartbeat_s: float = HEARTBEAT_S
    """Seconds between heartbeats."""

    def __post_init__(self) -> None:
        """Check the address, the names and the heartbeat; `Limits` checks itself."""
        if self.address is not None and self.verifier is None and not is_loopback(host := self.address[0]):
            why = "other machines can reach it, so a token is needed: give one, or use 127.0.0.1"
            raise ListenError(host, why)
        Redactor(self.redact, self.redact_except)  # it checks the names
        if not 0 < self.heartbeat_s <= MAX_LIMIT:
            bounds = f"above 0 and at most {MAX_LIMIT:,}"
            raise InvalidValueError(f"heartbeat_s must be {bounds}, not {self.heartbeat_s!r}")

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None if there is no port of its own."""
        return None if self.listen == ASGI else parse_address(self.listen)
