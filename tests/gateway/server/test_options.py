"""The options of a gateway: one value, checked before anything is bound."""

from typing import Any

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway import GatewayServer, ListenError, StaticTokens
from commitcast.gateway.server.options import ASGI, ServerOptions
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.sqlite.store import SqliteStore

TOKENS = StaticTokens.single("a token")


@pytest.mark.parametrize("listen", ["127.0.0.1:8765", "[::1]:0", "localhost:1", ASGI])
def test_a_server_without_tokens_may_listen_on_this_machine(listen: str) -> None:
    assert ServerOptions(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:8765", "[::]:0", "example.com:1"])
def test_an_address_that_other_machines_reach_needs_a_token(listen: str) -> None:
    with pytest.raises(ListenError, match="a token is needed"):
        ServerOptions(listen=listen)

    assert ServerOptions(listen=listen, verifier=TOKENS).address is not None


@pytest.mark.parametrize("listen", ["", "127.0.0.1", "127.0.0.1:", ":8765", "127.0.0.1:65536", "127.0.0.1:http"])
def test_anything_else_is_not_an_address(listen: str) -> None:
    with pytest.raises(ListenError, match="HOST:PORT"):
        ServerOptions(listen=listen)


@pytest.mark.parametrize("heartbeat_s", [0, -1.0, float("nan"), float("inf"), 1e10])
def test_a_heartbeat_has_bounds(heartbeat_s: float) -> None:
    with pytest.raises(InvalidValueError, match="heartbeat_s must be above 0"):
        ServerOptions(listen=ASGI, heartbeat_s=heartbeat_s)


@pytest.mark.parametrize("option", ["redact", "redact_except"])
@pytest.mark.parametrize(
    "names", ["session id", b"x", 5, None, [1], [""], ["42"], ["ok", "_-"], [b"x"], ["a b c d e f g h i"]]
)
def test_names_that_cannot_match_are_refused_in_one_sentence(option: str, names: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"^{option} must .*list.*, not [^\n]*$"):
        ServerOptions(listen=ASGI, **{option: names})
    with pytest.raises(InvalidValueError, match=f"^{option} must"):
        AgentRuntime(":memory:", listen=ASGI, **{option: names})


@pytest.mark.parametrize("serving", ["127.0.0.1:0", ServerOptions(listen="127.0.0.1:0")])
def test_a_server_takes_the_options_as_one_value_or_by_name(serving: Any) -> None:
    server = GatewayServer(SqliteStore(":memory:"), serving, heartbeat_s=7.0, allowed_hosts=["example.com"])

    assert server.core.heartbeat_s == 7.0
    assert server.access.allows_host("example.com")


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="heartbeat"):
        GatewayServer(SqliteStore(":memory:"), ASGI, heartbeat=7.0)


def test_an_option_by_name_is_checked_beside_the_value_too() -> None:
    with pytest.raises(InvalidValueError, match="heartbeat_s"):
        GatewayServer(SqliteStore(":memory:"), ServerOptions(listen=ASGI), heartbeat_s=0.0)
