"""The socket that hosts connect to: its folder, its name in the lock file, and its end. On the loop of requests.

Paths of sockets have at most 107 bytes, so it does not lie beside the database but in a folder of its own that no other
user may enter, and the lock file says where. Must be removed before the lock is given back: only its holder binds.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from commitcast.persistence.remote.loop import Loop
from commitcast.persistence.sqlite.lock import ENDING

logger: Final = logging.getLogger(__name__)

SOCKET: Final = "hosts"
"""Its name in its folder."""
PREFIX: Final = "commitcast-"
"""Of the name of that folder."""
PATH_BYTES: Final = 107
"""Of the path of a socket at most: `sun_path` of unix(7), less its end."""
BACKLOG: Final = 128
"""Connections that wait to be accepted."""
CHECK_S: Final = 5.0
"""Between two looks whether it is still there."""
PAUSE_S: Final = 0.5
"""Until another attempt to accept connections, when no descriptor is free."""

Announce = Callable[[str], object]
"""Writes a note for hosts. May raise `OSError`."""


class HostSocket:
    """Accepts the connections of hosts."""

    def __init__(
        self, loop: Loop, announce: Callable[[str], object], accept: Callable[[socket.socket], object]
    ) -> None:
        """Make it; see `open`.

        Args:
            loop: to be woken by.
            announce: writes where it is, or that it ends, where hosts look for it.
            accept: takes each connection.
        """
        self._loop = loop
        self._announce = announce
        self._accept = accept
        self._listener: socket.socket | None = None
        self._folder = Path()

    def open(self) -> None:
        """Bind it and tell where it is. Raises `OSError`."""
        self._folder = _make_folder()
        listener = self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._folder / SOCKET))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._watch(listener)
        self._announce(str(self._folder / SOCKET))
        self._loop.call_later(CHECK_S, lambda: self._check(listener))

    def close(self) -> None:
        """Remove it, and tell that. Idempotent."""
        if not self._remove():
            return
        with suppress(OSError):  # a host that finds no socket there tries again, as one that reads this
            self._announce(ENDING)

    def _remove(self) -> bool:
        listener, self._listener = self._listener, None
        if listener is None:
            return False
        self._loop.forget(listener.fileno())
        listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _check(self, listener: socket.socket) -> None:
        """Make another one if it was removed: temporary folders are cleaned, and XDG_RUNTIME_DIR ends with a login."""
        if listener is not self._listener:
            return
        if (self._folder / SOCKET).exists():
            self._loop.call_later(CHECK_S, lambda: self._check(listener))
            return
        logger.warning("the socket in %s was removed: making another one", self._folder)
        self._remove()
        try:
            self.open()
        except OSError as error:
            logger.error("no further runtime can use the file: no socket can be made: %s", error)

    def _watch(self, listener: socket.socket) -> None:
        self._loop.watch(listener.fileno(), lambda _: self._accept_all(listener))

    def _accept_all(self, listener: socket.socket) -> None:
        while listener is self._listener:
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # no descriptor is free: those that wait are accepted later
                logger.warning("no connection of a host can be accepted now: %s", error)
                self._loop.forget(listener.fileno())
                self._loop.call_later(PAUSE_S, lambda: self._go_on(listener))
                return
            self._accept(connection)

    def _go_on(self, listener: socket.socket) -> None:
        if listener is self._listener:
            self._watch(listener)


def remove_leftover(note: str) -> None:
    """Remove the socket of a server that was killed, given its note. By the holder of the lock."""
    left = Path(note)
    if left.name == SOCKET and left.parent.name.startswith(PREFIX):
        with suppress(OSError):
            left.unlink()
            left.parent.rmdir()


def _make_folder() -> Path:
    """Make the folder in the first place that can have it. Raises `OSError`."""
    failure = OSError("no folder for a socket can be written")
    for place in _places():
        try:
            folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        except OSError as error:
            failure = error
            continue
        if len(os.fsencode(f"{folder}/{SOCKET}")) <= PATH_BYTES:
            return Path(folder)
        os.rmdir(folder)
    raise failure


def _places() -> Iterator[str]:
    if place := os.environ.get("XDG_RUNTIME_DIR", ""):
        yield place
    with suppress(OSError):  # there is none that can be written
        yield tempfile.gettempdir()
    yield from ("/tmp", "/var/tmp")
