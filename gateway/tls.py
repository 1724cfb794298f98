"""The server's TLS context: `server_context(certificate, key)`."""

import ssl
from pathlib import Path

from commitcast.persistence.errors import InvalidValueError

__all__ = ["server_context"]


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return the context that a server needs to speak TLS 1.2 or later.

    Args:
        certificate: PEM file with the certificate, followed by its intermediate certificates.
        key: PEM file with the private key, without a password; None if the first file has it.

    Raises:
        InvalidValueError: one of the files cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidValueError(f"the certificate {certificate} or its key cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask for it on a terminal that may not be there."""
    raise ValueError("the key has a password: write it to a file without one, with mode 0600")
