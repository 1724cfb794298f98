"""The gateway's ASGI app under uvicorn, on its own thread. Imported only for `serve --asgi`.

uvicorn has no timeout for an incomplete request, and an app is called only after its headers are complete. So uvicorn
runs on a loop whose sockets are counted from `accept` on, with a deadline until a request is complete.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commitcast.actors.commands.uvicorn_websocket import SeldomWarnings, websocket_options
from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway.server.access.limits import ConnectionCounts, Limits
from commitcast.gateway.server.http import asgi
from commitcast.gateway.server.server import GatewayServer
from commitcast.gateway.server.sockets.accepted import AcceptedSockets
from commitcast.gateway.server.sockets.listening import BACKLOG, ListeningLoop, bind, listen_error
from commitcast.gateway.server.sockets.websocket import CLOSE_TIMEOUT_S

logger: Final = logging.getLogger(__name__)

GRACE_S: Final = 2
"""For responses in progress at the end; uvicorn takes whole seconds."""
STOP_S: Final = 4.0 * GRACE_S
"""For its thread to end: it waits up to three times for `GRACE_S`, and once for less."""


@contextmanager
def serving(
    runtime: AgentRuntime, address: tuple[str, int], certificate: Path | None, key: Path | None
) -> Iterator[str]:
    """Serve a running runtime's gateway while inside; yields `HOST:PORT`.

    Raises:
        ListenError: the address cannot be bound.
    """
    assert runtime.gateway is not None
    host, port = address
    listeners = _bound(host, port)
    accepted, limits = _sockets_of(runtime.gateway)
    server = uvicorn.Server(
        uvicorn.Config(
            _with_deadlines(asgi.app(runtime.gateway), accepted, limits.answer_timeout_s),
            **websocket_options(limits),
            proxy_headers=False,  # a program on this machine could forge any address, and limits count by address
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    quiet = SeldomWarnings()
    logging.getLogger("uvicorn.error").addFilter(quiet)
    loop = ListeningLoop(accepted)
    thread = threading.Thread(
        target=_run, args=(loop, _serve(server, accepted, listeners)), name="uvicorn", daemon=True
    )
    thread.start()
    try:
        yield f"{f'[{host}]' if ':' in host else host}:{listeners[0].getsockname()[1]}"
    finally:
        runtime.stop()  # first, so that uvicorn still sends `goodbye`
        _ask_to_stop(loop, _stop(server, accepted))
        thread.join(STOP_S)
        if thread.is_alive():
            logger.error("uvicorn did not stop in time: its thread is left running")
        logging.getLogger("uvicorn.error").removeFilter(quiet)


def _run(loop: ListeningLoop, serving: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serving)


async def _serve(server: uvicorn.Server, accepted: AcceptedSockets, listeners: Sequence[socket.socket]) -> None:
    try:
        await server.serve(list(listeners))
    finally:
        accepted.abort_all()
        await accepted.wait_closed(GRACE_S)


def _ask_to_stop(loop: ListeningLoop, stopping: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run_coroutine_threadsafe(stopping, loop)
    except RuntimeError:  # closed: the thread has ended by itself, with a log line
        stopping.close()


async def _stop(server: uvicorn.Server, accepted: AcceptedSockets) -> None:
    """Stop after all connections are closed: uvicorn raises when it closes a WebSocket that is closing."""
    await accepted.close_all(GRACE_S)
    server.should_exit = True


def _with_deadlines(app: ASGIApp, accepted: AcceptedSockets, timeout: float) -> ASGIApp:
    """Wrap an app: a peer has `timeout` seconds to receive each message, and after the last to complete a request."""

    async def app_with_deadlines(scope: Scope, receive: Receive, send: Send) -> None:
        connection = accepted.find(scope.get("client"), scope.get("server"))
        if connection is None:  # the lifespan, or a peer that has left already
            await app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            connection.set_deadline(timeout)
            await send(message)
            connection.clear_deadline()

        connection.clear_deadline()
        connection.requests += 1  # the next request may begin before the app has returned
        try:
            await app(scope, receive, send_in_time)
        finally:
            connection.requests -= 1
            if not connection.requests:  # a WebSocket has no next request, and uvicorn gives it ten seconds to close
                connection.set_deadline(CLOSE_TIMEOUT_S if scope["type"] == "websocket" else timeout)

    return app_with_deadlines


def _sockets_of(gateway: Any) -> tuple[AcceptedSockets, Limits]:
    """Return what counts the sockets that this process accepts, and their limits: the gateway's, if it is here."""
    if isinstance(gateway, GatewayServer):
        return gateway.sockets, gateway.core.limits
    limits = Limits()
    return AcceptedSockets(limits, ConnectionCounts(limits)), limits


def _bound(host: str, port: int) -> list[socket.socket]:
    try:
        listeners = bind(host, port)
        for listener in listeners:  # at once: clients that connect before uvicorn is ready wait
            listener.listen(BACKLOG)
        return listeners
    except (OSError, UnicodeError) as error:
        raise listen_error(f"{host}:{port}", error) from error
