"""The gateway's ASGI app under uvicorn, on a thread of its own. Imported only where uvicorn is wanted."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from commitcast.actors.commands.uvicorn_websocket import SeldomWarnings, websocket_options
from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway import asgi
from commitcast.gateway.errors import ListenError
from commitcast.gateway.server import BACKLOG


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
    listener = _bound(host, port)
    server = uvicorn.Server(
        uvicorn.Config(
            asgi.app(runtime.gateway),
            **websocket_options(),
            proxy_headers=False,  # anybody on this machine could say that a request came from anywhere
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    quiet = SeldomWarnings()
    logging.getLogger("uvicorn.error").addFilter(quiet)
    thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn", daemon=True)
    thread.start()
    try:
        yield f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    finally:
        runtime.stop()  # while there is still somebody to carry what it says
        server.should_exit = True
        thread.join()
        logging.getLogger("uvicorn.error").removeFilter(quiet)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ListenError(f"{host}:{port}", f"{why}: choose another, or stop who has it") from error
