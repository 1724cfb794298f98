"""The certificate that the server shows, so that nobody between it and its clients reads along."""

import ssl
from pathlib import Path

from commitcast.persistence.errors import InvalidValueError


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return what a server needs to speak TLS 1.2 or later.

    Args:
        certificate: PEM file with the certificate and those that vouch for it, in that order.
        key: PEM file with its private key, without a password; None if it is in the first file.

    Raises:
        InvalidValueError: one of them cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidValueError(f"the certificate {certificate} or its key cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Refuse a key with a password, instead of asking for it where nobody can answer."""
    raise ValueError("the key has a password: write it to a file without one, with mode 0600")
