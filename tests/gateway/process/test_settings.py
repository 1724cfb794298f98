"""How subscribers connect crosses to the server as it was given, but for what only the host itself can have."""

import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from certificates import write_certificate
from commitcast.gateway.process.settings import DoorSettings
from commitcast.gateway.server.access.auth import StaticTokens
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.options import ServerOptions
from commitcast.gateway.tls import ServerContext, server_context
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.remote.frames import Ask, pack, unpack

FIELDS: dict[str, Any] = {
    "listen": "127.0.0.1:8765",
    "limits": Limits(connections=7, requests_per_s=2.5, connections_per_peer=3),
    "allowed_hosts": ["example.org"],
    "allowed_origins": ("https://example.org",),
    "redact": frozenset({"session id"}),
    "redact_except": {"token kind"},
    "heartbeat_s": 2.5,
}


def crossed(settings: DoorSettings) -> DoorSettings:
    """Settings as the server receives them: the arguments of `open_door`."""
    sent = msgspec.to_builtins(settings, builtin_types=(bytes,))
    ask = unpack(pack(Ask(1, "open_door", [sent]))[4:])
    assert isinstance(ask, Ask)
    return msgspec.convert(ask.arguments[0], DoorSettings)


def test_every_option_crosses() -> None:
    settings = crossed(DoorSettings.of(ServerOptions(verifier=StaticTokens.single("t"), **FIELDS)))

    assert settings.listen == FIELDS["listen"] and settings.limits == FIELDS["limits"]
    assert settings.heartbeat_s == 2.5 and settings.has_verifier and settings.tls() is None
    for name in ("allowed_hosts", "allowed_origins", "redact", "redact_except"):
        assert set(getattr(settings, name)) == set(FIELDS[name])


def test_no_option_is_left_out() -> None:
    """A new one must cross too, or be made there of what does."""
    made_there = {"verifier": "has_verifier", "tls": "certificate_pem"}
    options = {made_there.get(name, name) for name in ServerOptions.__struct_fields__}

    assert options | {"key_pem"} == set(DoorSettings.__struct_fields__)
    assert set(FIELDS) | set(made_there) == set(ServerOptions.__struct_fields__)


def test_what_is_not_given_is_the_default_there_too() -> None:
    here = ServerOptions(listen="asgi")
    settings = crossed(DoorSettings.of(here))

    assert not settings.has_verifier and settings.limits is None and settings.tls() is None
    assert settings.heartbeat_s == here.heartbeat_s


def test_a_certificate_crosses_with_its_key_and_is_not_shown(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    settings = DoorSettings.of(ServerOptions(listen="127.0.0.1:0", tls=server_context(certificate, key)))

    context = crossed(settings).tls()

    assert isinstance(context, ServerContext)
    assert (context.certificate_pem, context.key_pem) == (certificate.read_bytes(), key.read_bytes())
    assert "PRIVATE" not in repr(settings) and "PRIVATE" not in repr(crossed(settings))


def test_a_context_that_the_host_has_made_itself_is_refused_with_what_to_do() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    with pytest.raises(InvalidValueError, match=r"server_context, or use server=\"in_process\""):
        DoorSettings.of(ServerOptions(listen="127.0.0.1:0", tls=context))
