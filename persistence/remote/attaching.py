"""Attaching to the server of a file: it is found by the note in the lock file, and started if there is none.

Several processes may do this at the same moment, while a server ends, or after one was killed. So an end of the
connection before the welcome, and a note that is not true any more, are tried again until the time is over.
"""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Final

from commitcast.persistence.errors import LinkError, ServerStartError, StoreLockedError, StoreOpenError
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import (
    PROTOCOL,
    REQUESTS,
    Deframer,
    Frame,
    Hello,
    Refused,
    Settings,
    Welcome,
    pack,
    unpack,
)
from commitcast.persistence.remote.link import check_same_user
from commitcast.persistence.remote.spawning import spawn, spawn_turn
from commitcast.persistence.sqlite.lock import ENDING, STARTING, Holder, holder_of

START_TIMEOUT_S: Final = 60.0
"""For a server that another process starts: it may have to bring a large file to a newer schema."""
OLD_NOTE_S: Final = 2.0
"""How long a note may be old: a process writes it a moment after it has taken the lock."""
TURN_S: Final = 2.0
"""How long another process may be about to start a server, until this one starts another: one of them gets the lock."""
UNREACHABLE_S: Final = 15.0
"""How long nothing may listen where a note says: a server whose socket was removed makes another one meanwhile."""
PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.1
"""Between two attempts, doubling."""
WELCOME_S: Final = 30.0
"""For the answer of a server that listens. It may be stopped, or the machine very busy."""

_GONE: Final = (errno.ECONNRESET, errno.EPIPE, errno.EAGAIN)
_NOT_THERE: Final = (errno.ENOENT, errno.ECONNREFUSED)


class EndingError(Exception):
    """The server is about to end, or has ended. Tried again."""


class UnreachableError(EndingError):
    """Nothing listens there."""


def attach(path: Path, settings: Settings, runtime: str) -> tuple[socket.socket, Welcome, str]:
    """Connect to the server of a file, and start it if there is none. Blocks.

    Args:
        path: of the database; absolute, without links.
        settings: how it is to be opened.
        runtime: this process, as it names itself to its programs.

    Returns:
        The connection for requests, its welcome, and the path of the socket.

    Raises:
        StoreOpenError: the file cannot be used, is open in the other form, or with other settings.
    """
    try:
        return _Attempts(path, settings, Hello(PROTOCOL, REQUESTS, runtime=runtime, settings=settings)).carry_out()
    except StoreOpenError:
        raise
    except OSError as error:
        raise ServerStartError(str(path), f"{error}") from error


class _Attempts:
    """The attempts of one host."""

    def __init__(self, path: Path, settings: Settings, hello: Hello) -> None:
        self._path = path
        self._settings = settings
        self._hello = hello
        self._deadline = time.monotonic() + START_TIMEOUT_S
        self._old_at = time.monotonic() + OLD_NOTE_S
        self._turn_by = time.monotonic() + TURN_S
        self._has_spawned = False
        self._unreachable: tuple[str, float] | None = None
        """Where nothing listens, and since when."""

    def carry_out(self) -> tuple[socket.socket, Welcome, str]:
        """Make attempts until one succeeds, or fails for good."""
        pause_s = PAUSE_S
        while True:
            holder = self._holder()
            if holder is not None:
                if (attached := self._try(holder)) is not None:
                    return attached
            elif self._spawn():
                self._deadline = time.monotonic() + START_TIMEOUT_S
                continue
            if time.monotonic() > self._deadline:
                why = "its server process does not answer: see whether it is stopped"
                raise ServerStartError(str(self._path), why)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _holder(self) -> Holder | None:
        try:
            return holder_of(self._path)
        except OSError as error:
            if self._has_spawned or isinstance(error, StoreOpenError):
                raise
            return None  # a server will not get the lock either, and says why

    def _spawn(self) -> bool:
        """Start a server, unless another process is about to; return whether there is one now."""
        with spawn_turn(self._path) as is_ours:
            if not is_ours and time.monotonic() < self._turn_by:
                return False
            if self._holder() is not None:
                return True
            self._has_spawned = spawn(self._path, self._settings)
            return self._has_spawned

    def _try(self, holder: Holder) -> tuple[socket.socket, Welcome, str] | None:
        if holder.note not in ("", STARTING, ENDING):
            try:
                return *_greeted(self._path, holder.note, self._hello), holder.note
            except UnreachableError as error:
                self._check_reachable(holder, error)
            except EndingError:
                pass
        elif _is_final(holder, self._old_at):
            raise _refusal(self._path, holder)
        return None

    def _check_reachable(self, holder: Holder, error: UnreachableError) -> None:
        now = time.monotonic()
        if self._unreachable is None or self._unreachable[0] != holder.note:
            self._unreachable = holder.note, now
        elif now - self._unreachable[1] > UNREACHABLE_S:
            raise ServerStartError(
                str(self._path),
                f"nothing listens at {holder.note}, where its server process {holder.pid} should ({error.__cause__}): "
                "it may be in another container, or that folder was removed",
            )


def _greeted(path: Path, address: str, hello: Hello) -> tuple[socket.socket, Welcome]:
    try:
        return greet(address, hello)
    except ServerStartError as error:
        raise ServerStartError(str(path), f"{error.why} (at {address})") from error


def _is_final(holder: Holder, old_at: float) -> bool:
    """Whether a note without a socket will not change: a runtime has the file in its own process."""
    if holder.note in (STARTING, ENDING) and holder.is_alive:
        return False
    return (holder.is_alive and not holder.note) or time.monotonic() > old_at


def _refusal(path: Path, holder: Holder) -> StoreLockedError:
    which = "a process that cannot be seen from here" if not holder.is_alive else f"process {holder.pid}"
    if holder.pid == os.getpid():
        which += ", which is this one"
    return StoreLockedError(
        str(path),
        f"a runtime has it open in its own process ({which}), so it is not shared: stop that runtime, or start it "
        'without server="in_process"',
    )


def greet(address: str, hello: Hello) -> tuple[socket.socket, Welcome]:
    """Open one connection and be welcomed. Blocks.

    Raises:
        EndingError: the server ends or is gone.
        StoreOpenError: it refuses, or is not one.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(WELCOME_S)
        connection.connect(address)
        check_same_user(connection)
        connection.sendall(pack(hello))
        answer = _first_frame(connection)
    except LinkError as error:
        connection.close()
        raise ServerStartError(address, f"what listens there is not its server process: {error}") from error
    except OSError as error:
        connection.close()
        if error.errno in _NOT_THERE:
            raise UnreachableError from error
        if error.errno in _GONE:
            raise EndingError from error
        raise ServerStartError(address, f"its server process cannot be reached ({error})") from error
    except BaseException:  # Ctrl-C too: nothing stays open
        connection.close()
        raise
    if isinstance(answer, Welcome):
        return connection, answer
    connection.close()
    if isinstance(answer, Refused) and answer.failure is not None:
        raise error_of(answer.failure)
    raise EndingError


def _first_frame(connection: socket.socket) -> Frame | None:
    """Receive one frame and nothing after it, which belongs to the link; None if the connection ends before."""
    deframer = Deframer()
    while data := connection.recv(deframer.missing_bytes):
        for payload in deframer.feed(memoryview(data)):
            return unpack(payload)
    return None
