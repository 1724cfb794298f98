"""A WebSocket server of the library's, on plain threads, that leaves nothing open."""

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.server import Server, ServerConnection, serve


@contextmanager
def blocking_server(handle: Callable[[ServerConnection], None], **options: Any) -> Iterator[str]:
    """Serve on a free port; yields the URL."""
    with serve(handle, "127.0.0.1", 0, logger=logging.getLogger("scripted"), **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/ws"
        server.shutdown()
        thread.join()
    _close_pipe(server)
    gc.collect()  # its selector is in a cycle


def _close_pipe(server: Server) -> None:
    """Close what wakes the server's thread: before 17 the library opens a pipe for it, and never closes that."""
    for end in (server.shutdown_watcher, server.shutdown_notifier):
        if isinstance(end, int):
            os.close(end)
