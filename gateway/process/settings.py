"""The settings of a door as a value, which a host sends to the server. Pure but for the certificate."""

import ssl
from collections.abc import Sequence
from typing import Self

import msgspec

from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.options import HEARTBEAT_S, ServerOptions
from commitcast.gateway.tls import ServerContext
from commitcast.persistence.errors import InvalidValueError


class DoorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """As `ServerOptions`, without what only a process itself can have."""

    listen: str
    has_verifier: bool = False
    """Whether clients must present tokens, which the host verifies."""
    limits: Limits | None = None
    certificate_pem: bytes | None = None
    key_pem: bytes | None = None
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    redact: Sequence[str] = ()
    redact_except: Sequence[str] = ()
    heartbeat_s: float = HEARTBEAT_S

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Return what can be sent of the options of a gateway.

        Raises:
            InvalidValueError: the TLS context was not made by `gateway.tls.server_context`.
        """
        tls = options.tls
        if tls is not None and not isinstance(tls, ServerContext):
            raise InvalidValueError(
                "the server process needs the certificate and key of tls: make it with "
                'commitcast.gateway.tls.server_context, or use server="in_process"'
            )
        return cls(
            certificate_pem=None if tls is None else tls.certificate_pem,
            key_pem=None if tls is None else tls.key_pem,
            listen=options.listen,
            has_verifier=options.verifier is not None,
            limits=options.limits,
            allowed_hosts=list(options.allowed_hosts),
            allowed_origins=list(options.allowed_origins),
            redact=list(options.redact),
            redact_except=list(options.redact_except),
            heartbeat_s=options.heartbeat_s,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without a certificate."""
        if self.certificate_pem is None or self.key_pem is None:
            return None
        return ServerContext.of_pem(self.certificate_pem, self.key_pem)

    def __repr__(self) -> str:
        """Show where it listens, and no key."""
        return f"DoorSettings(listen={self.listen!r})"
