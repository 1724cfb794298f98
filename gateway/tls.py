"""The server's TLS context: `server_context(certificate, key)`.

It remembers its certificate and key, so that a server in another process can make the same one of them. Must never
write a key to a disk, nor show it: not in a `repr`, not in a pickle. Any thread.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Self, SupportsIndex

from commitcast.persistence.errors import InvalidValueError

__all__ = ["ServerContext", "server_context"]


class ServerContext(ssl.SSLContext):
    """A context for TLS 1.2 or later that remembers its certificate and key. Made by `server_context` or `of_pem`.

    Only these two can be moved to another process: what else is set on a context stays where it was set.
    """

    _certificate_pem: bytes
    _key_pem: bytes

    @classmethod
    def of_pem(cls, certificate_pem: bytes, key_pem: bytes) -> Self:
        """Return the context of a certificate and key that another one remembers.

        Args:
            certificate_pem: the certificate, followed by its intermediate certificates.
            key_pem: the private key, without a password; may have certificates beside it.

        Raises:
            InvalidValueError: they cannot be used, or this system has no files in memory, as only Linux does.
        """
        context = cls._empty()
        try:
            with _file_in_memory(certificate_pem) as certificate, _file_in_memory(key_pem) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError, AttributeError) as error:
            raise InvalidValueError(f"the certificate or its key cannot be used: {error}") from error
        context._certificate_pem, context._key_pem = certificate_pem, key_pem
        return context

    @classmethod
    def _empty(cls) -> Self:
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @property
    def certificate_pem(self) -> bytes:
        """The content of the certificate's file."""
        return self._certificate_pem

    @property
    def key_pem(self) -> bytes:
        """The content of the key's file. Secret."""
        return self._key_pem

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled or copied: the key would go wherever that goes."""
        raise TypeError("a TLS context holds a private key, so it is neither pickled nor copied")


def server_context(certificate: Path, key: Path | None = None) -> ServerContext:
    """Return the context that a server needs to speak TLS 1.2 or later.

    Args:
        certificate: PEM file with the certificate, followed by its intermediate certificates.
        key: PEM file with the private key, without a password; None if the first file has it.

    Raises:
        InvalidValueError: one of the files cannot be used.
    """
    context = ServerContext._empty()
    try:
        context._certificate_pem = certificate.read_bytes()
        context._key_pem = context._certificate_pem if key is None else key.read_bytes()
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidValueError(f"the certificate {certificate} or its key cannot be used: {error}") from error
    return context


@contextmanager
def _file_in_memory(content: bytes) -> Iterator[str]:
    """Write a file that is on no disk, because OpenSSL reads certificates from paths; yields its path.

    Raises:
        AttributeError: the system has none.
    """
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask for it on a terminal that may not be there."""
    raise ValueError("the key has a password: write it to a file without one, with mode 0600")
