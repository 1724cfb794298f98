"""Certificates: a server that speaks TLS, and files that are none."""

import asyncio
import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway.tls import server_context
from commitcast.persistence.errors import InvalidValueError
from subscribers import raw


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
