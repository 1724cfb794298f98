"""The gateway's ASGI app under uvicorn, on a thread of its own. Imported only where uvicorn is wanted.

uvicorn has no limit for a request that never ends, and an app hears of one only when its headers are complete. So its
sockets come through the gateway's door, which counts them from `accept` on, and cuts off those that do not get on.
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

from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway import asgi
from commitcast.gateway.door import Door
from commitcast.gateway.errors import ListenError
from commitcast.gateway.frames import MAX_FRAME_BYTES
from commitcast.gateway.listening import BACKLOG, ListeningLoop, bind

logger: Final = logging.getLogger(__name__)

GRACE_S: Final = 2
"""For responses at the end; uvicorn takes whole seconds."""
STOP_S: Final = 3.0 * GRACE_S
"""For its thread to end: what it needs beyond that grace is less than a second."""


@contextmanager
def serving(
    runtime: AgentRuntime, address: tuple[str, int], certificate: Path | None, key: Path | None
) -> Iterator[str]:
    """Serve a running runtime's gateway while inside; gives `HOST:PORT`.

    Raises:
        ListenError: the address cannot be bound.
    """
    assert runtime.gateway is not None
    host, port = address
    listeners = _bound(host, port)
    door, limits = runtime.gateway.door, runtime.gateway.core.limits
    server = uvicorn.Server(
        uvicorn.Config(
            _watched(asgi.app(runtime.gateway), door, limits.answer_timeout_s),
            ws_max_size=2 * MAX_FRAME_BYTES,  # a frame that is too large for us is told so, with a goodbye
            ws_per_message_deflate=False,  # each would be compressed for each subscriber
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # a program on this machine could name any address, and limits go by addresses
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    loop = ListeningLoop(door)
    thread = threading.Thread(target=_run, args=(loop, _serve(server, door, listeners)), name="uvicorn", daemon=True)
    thread.start()
    try:
        yield f"{f'[{host}]' if ':' in host else host}:{listeners[0].getsockname()[1]}"
    finally:
        runtime.stop()  # while there is still somebody to carry what it says
        _ask_to_stop(loop, _stop(server, door))
        thread.join(STOP_S)
        if thread.is_alive():
            logger.error("uvicorn did not stop in time: its thread is left behind")


def _run(loop: ListeningLoop, serving: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serving)


async def _serve(server: uvicorn.Server, door: Door, listeners: Sequence[socket.socket]) -> None:
    try:
        await server.serve(list(listeners))
    finally:
        door.cut_all()
        await door.wait_empty(GRACE_S)


def _ask_to_stop(loop: ListeningLoop, stopping: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run_coroutine_threadsafe(stopping, loop)
    except RuntimeError:  # it is closed: the thread has ended by itself, and said why
        stopping.close()


async def _stop(server: uvicorn.Server, door: Door) -> None:
    """Stop once nobody is there: uvicorn fails when it closes a WebSocket that is about to close."""
    await door.dismiss(GRACE_S)
    server.should_exit = True


def _watched(app: ASGIApp, door: Door, timeout_s: float) -> ASGIApp:
    """Let a connection take its time only while the app has its request, and as long as it takes what is sent.

    Args:
        app: what is served.
        door: that the connections came through.
        timeout_s: for a peer to take one message of the app; and what is left behind the last one, and to have asked
            again in whole.
    """

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        guest = door.guest(scope.get("client"), scope.get("server"))
        if guest is None:  # the lifespan, or a peer that was gone before
            await app(scope, receive, send)
            return

        async def watched_send(message: Message) -> None:
            guest.expect(timeout_s)
            await send(message)
            guest.let_be()

        guest.let_be()
        guest.requests += 1  # the next one may begin before the app has returned from this one
        try:
            await app(scope, receive, watched_send)
        finally:
            guest.requests -= 1
            if not guest.requests:
                guest.expect(timeout_s)

    return watched


def _bound(host: str, port: int) -> list[socket.socket]:
    try:
        listeners = bind(host, port)
        for listener in listeners:  # at once: clients that come before uvicorn is ready wait, and are not refused
            listener.listen(BACKLOG)
        return listeners
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ListenError(f"{host}:{port}", f"{why}: choose another, or stop who has it") from error
