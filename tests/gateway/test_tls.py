"""Certificates: a server that speaks TLS, and files that are none."""

import asyncio
import http.client
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commitcast.actors import AgentRuntime
from commitcast.gateway.tls import server_context
from commitcast.persistence.errors import InvalidValueError
from subscribers import raw


def write_certificate(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """Make a certificate for localhost that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return paths


def test_subscribers_and_readers_are_served_encrypted(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate)

    async def follow(runtime: AgentRuntime) -> list[str]:
        url = str(runtime.url).replace("127.0.0.1", "localhost")
        async with raw(url, ssl=trusting) as subscriber:
            await subscriber.subscribe("a")
            return (await subscriber.follow("a", 1)).contents

    tls = server_context(certificate, key)
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", tls=tls) as runtime:
        assert str(runtime.url).startswith("wss://")
        runtime.launch(id="a").emit("hello").get(10)
        assert asyncio.run(follow(runtime)) == ["hello"]
        port = int(str(runtime.address).rpartition(":")[2])
        connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda certificate, key: certificate.unlink(),
        lambda certificate, key: certificate.write_text("no certificate"),
        lambda certificate, key: key.write_text("no key"),
        lambda certificate, key: write_certificate(key.parent.parent / "other")[1].rename(key),
        lambda certificate, key: write_certificate(key.parent, password=b"s3cret"),
    ],
    ids=["no file", "no certificate", "no key", "another key", "a key with a password"],
)
def test_what_is_no_certificate_is_one_clear_error(tmp_path: Path, spoil: Callable[[Path, Path], object]) -> None:
    (tmp_path / "this").mkdir()
    (tmp_path / "other").mkdir()
    certificate, key = write_certificate(tmp_path / "this")
    spoil(certificate, key)

    with pytest.raises(InvalidValueError, match="cannot be used"):
        server_context(certificate, key)
