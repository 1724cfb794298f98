"""Certificates: a server that speaks TLS, and files that are none."""

import asyncio
import copy
import http.client
import os
import pickle
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway.server.options import ServerOptions
from commitcast.gateway.tls import ServerContext, server_context
from commitcast.persistence.errors import InvalidValueError
from subscribers import raw


@pytest.mark.parametrize("made", ["of files", "of what another remembers"])
def test_subscribers_and_readers_are_served_encrypted(tmp_path: Path, made: str) -> None:
    certificate, key = write_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate)

    async def follow(runtime: AgentRuntime) -> list[str]:
        url = str(runtime.url).replace("127.0.0.1", "localhost")
        async with raw(url, ssl=trusting) as subscriber:
            await subscriber.subscribe("a")
            return (await subscriber.follow("a", 1)).contents

    original = server_context(certificate, key)
    tls = original if made == "of files" else ServerContext.of_pem(original.certificate_pem, original.key_pem)
    for path in (certificate, key):
        path.unlink()
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


class TestAContextAsData:
    """It is sent to a server in another process."""

    def test_remembers_the_content_of_its_files(self, tmp_path: Path) -> None:
        certificate, key = write_certificate(tmp_path)

        context = server_context(certificate, key)

        assert (context.certificate_pem, context.key_pem) == (certificate.read_bytes(), key.read_bytes())
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        again = ServerContext.of_pem(context.certificate_pem, context.key_pem)
        assert (again.certificate_pem, again.key_pem) == (context.certificate_pem, context.key_pem)
        assert again.minimum_version == ssl.TLSVersion.TLSv1_2

    def test_of_one_file_with_both_can_be_made_again(self, tmp_path: Path) -> None:
        certificate, key = write_certificate(tmp_path)
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())

        context = server_context(both)

        assert context.key_pem == both.read_bytes()
        assert ServerContext.of_pem(context.certificate_pem, context.key_pem).key_pem == both.read_bytes()

    def test_is_made_again_with_the_key_that_was_given_and_not_with_another_beside_the_certificate(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        (certificate, key), (_, other) = write_certificate(tmp_path), write_certificate(tmp_path / "other")
        certificate.write_bytes(certificate.read_bytes() + other.read_bytes())

        context = server_context(certificate, key)

        assert ServerContext.of_pem(context.certificate_pem, context.key_pem).key_pem == key.read_bytes()

    def test_a_chain_longer_than_any_pipe_is_made_again(self, tmp_path: Path) -> None:
        certificate, key = write_certificate(tmp_path)
        certificate.write_bytes(certificate.read_bytes() * 200)

        context = server_context(certificate, key)

        assert len(context.certificate_pem) > 64 * 1024
        ServerContext.of_pem(context.certificate_pem, context.key_pem)

    def test_is_made_without_a_file_of_the_key_and_leaves_none_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = server_context(*write_certificate(tmp_path))
        opened: list[str] = []
        load = ssl.SSLContext.load_cert_chain

        def load_and_look(self: ssl.SSLContext, *paths: str, **options: Any) -> None:
            opened.extend(os.readlink(path) for path in paths)
            load(self, *paths, **options)

        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_look)
        before = set(os.listdir("/proc/self/fd"))
        ServerContext.of_pem(context.certificate_pem, context.key_pem)

        assert [name.startswith("/memfd:") for name in opened] == [True, True]
        assert set(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("spoiled", ["certificate", "key", "another key", "a key with a password"])
    def test_what_is_no_certificate_is_one_clear_error_that_does_not_show_it(
        self, tmp_path: Path, spoiled: str
    ) -> None:
        (tmp_path / "other").mkdir()
        certificate, key = (path.read_bytes() for path in write_certificate(tmp_path))
        other = write_certificate(tmp_path / "other")[1].read_bytes()
        locked = write_certificate(tmp_path / "other", password=b"s3cret")[1].read_bytes()
        pems = {
            "certificate": (b"no certificate", key),
            "key": (certificate, b"no key"),
            "another key": (certificate, other),
            "a key with a password": (certificate, locked),
        }[spoiled]

        with pytest.raises(InvalidValueError, match="cannot be used") as caught:
            ServerContext.of_pem(*pems)

        assert "BEGIN" not in str(caught.value) and "no key" not in str(caught.value)

    def test_shows_its_key_to_no_log_and_to_no_pickle(self, tmp_path: Path) -> None:
        context = server_context(*write_certificate(tmp_path))
        options = ServerOptions(listen="127.0.0.1:0", tls=context)

        assert "BEGIN" not in repr(context) + str(context) + repr(options)
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="private key"):
                take(context)
