"""Each moment of a connection, each way to go, each kind of server: one place is taken and given back, a stop ends."""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.gateway.server import server as gateway_server
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.http import asgi_peer
from commitcast.gateway.server.sockets import websocket
from hostile import nobody_is_left, server_of
from moments import (
    KINDS,
    MOMENTS,
    Moment,
    Server,
    before_hello,
    half_a_frame,
    half_a_request,
    handshake,
    handshake_with_garbage,
    nothing,
    only_tls,
    rst,
    serving,
    subscribed,
)
from waiting import SLOWNESS, wait_until

pytestmark = pytest.mark.sampled(6, of_file=True)

SHORT_S: Final = 0.5 * SLOWNESS


def limits(seconds: float) -> Limits:
    return Limits(handshake_timeout_s=seconds, answer_timeout_s=seconds, hello_timeout_s=seconds)


PATIENT: Final[dict[str, Any]] = {"limits": limits(600), "heartbeat_s": 600.0}
IMPATIENT: Final[dict[str, Any]] = {"limits": limits(2 * SHORT_S), "heartbeat_s": 2 * SHORT_S}


@pytest.fixture(scope="module", autouse=True)
def nobody_is_waited_for_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (websocket, gateway_server, asgi_peer):
            patch.setattr(module, "CLOSE_TIMEOUT_S", SHORT_S)
        yield


STAYING: Final = (nothing, only_tls, half_a_request, before_hello, subscribed, half_a_frame)
"""Those that the server does not end by itself at once."""
FOUND_OUT_BY_UVICORN: Final = (handshake, handshake_with_garbage, subscribed, half_a_frame)
"""Who is silent then is for the ASGI server's own pings to find out, after forty seconds."""

# The ways to go.


def fin(plug: socket.socket) -> None:
    plug.close()


def half_close(plug: socket.socket) -> None:
    try:
        plug.shutdown(socket.SHUT_WR)
    except OSError:  # the server was first
        pass


def quiet(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether nothing was logged that strangers must not be able to have logged."""
    return not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("go", [fin, rst, half_close], ids=lambda way: way.__name__)
def test_who_goes_gives_the_place_back_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, go: Callable[[socket.socket], None]
) -> None:
    with serving(tmp_path, kind, **PATIENT) as server:
        counts, sockets = server.sockets._counts.by_origin, server.sockets
        for moment in MOMENTS:
            with moment(server.address, server.tls) as plug:
                if moment in STAYING:
                    wait_until(
                        lambda: counts == {"127.0.0.1": 1}, f"{moment.__name__} to be counted", show=lambda: counts
                    )
                go(plug)
                wait_until(
                    lambda: not sockets and not counts,
                    f"{moment.__name__} to be gone",
                    show=lambda: (list(sockets), counts),
                )
            nobody_is_left(server_of(server.runtime))
    assert quiet(caplog)


@contextmanager
def held(server: Server, moments: Sequence[Moment]) -> Iterator[None]:
    """A connection in each moment, which then neither reads nor says anything, and stays."""
    with ExitStack() as stack:
        for moment in moments:
            stack.enter_context(moment(server.address, server.tls))
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_silent_is_cut_off_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    moments = [moment for moment in MOMENTS if not (kind.startswith("asgi") and moment in FOUND_OUT_BY_UVICORN)]
    with serving(tmp_path, kind, **IMPATIENT) as server, held(server, moments):
        counts, sockets = server.sockets._counts.by_origin, server.sockets
        wait_until(lambda: not sockets and not counts, "all to be gone", show=lambda: (list(sockets), counts))

        nobody_is_left(server_of(server.runtime))
    assert quiet(caplog)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_ends_in_its_time_whatever_is_held(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    with ExitStack() as stack:
        with serving(tmp_path, kind, **PATIENT) as server:
            for moment in MOMENTS:
                rst(moment(server.address, server.tls))
            stack.enter_context(held(server, MOMENTS))
            began = time.monotonic()
        took_s = time.monotonic() - began

        assert took_s < 6 * SLOWNESS
        assert not server.sockets
    assert quiet(caplog)
