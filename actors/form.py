"""The two forms of a backend: which one a runtime takes, and how each is put together.

In `PROCESS` a process of its own serves the file, in `IN_PROCESS` the host's. What is loaded depends on the form: a
runtime without subscribers loads no gateway, and one that is served loads no SQLite.
"""

import os
import select
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from commitcast.actors.backend import Backend
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.sqlite.journal import checked_mode
from commitcast.persistence.store import Store

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    from commitcast.gateway.server.access.auth import Verifier
    from commitcast.gateway.server.options import ServerOptions

PROCESS: Final = "process"
IN_PROCESS: Final = "in_process"
MEMORY: Final = ":memory:"
PREFERRED = PROCESS
"""Where nothing speaks against it, and the host has no wish. The suite of commitcast itself sets the other."""

Database = str | os.PathLike[str] | Store


def can_have_process() -> bool:
    """Whether the system has what a server process needs: Linux, with pidfds, and an interpreter to start.

    `sys.executable` is another program where that embeds the interpreter, as uWSGI does or what PyInstaller makes. To
    start that would not start a server, but all of the program once more.
    """
    needed = (os, "pidfd_open"), (os, "eventfd"), (select, "epoll"), (socket, "SO_PEERCRED")
    is_interpreter = os.path.basename(sys.executable or "").startswith(("python", "pypy"))
    return all(hasattr(*place) for place in needed) and is_interpreter and not hasattr(sys, "frozen")


def form_of(wanted: Any, database: Database, *, needs_process: bool) -> str:
    """Return the form that a runtime takes.

    Args:
        wanted: what the host has asked for; None leaves it to this.
        database: as given to the runtime.
        needs_process: whether the host has given what can only be used in its own process.

    Raises:
        InvalidValueError: there is no such form, or it cannot be had.
    """
    if wanted not in (None, PROCESS, IN_PROCESS):
        raise InvalidValueError(f"server must be {PROCESS!r} or {IN_PROCESS!r}, not {wanted!r:.80}")
    is_file = isinstance(database, (str, os.PathLike)) and str(database) != MEMORY
    can_be_served = is_file and not needs_process and can_have_process()
    if wanted == PROCESS and not can_be_served:
        why = (
            "needs the path of a file, no gateway and no dispatcher of your own, Linux with pidfds, and Python itself "
            "as sys.executable"
        )
        raise InvalidValueError(f"server={PROCESS!r} {why}: leave it out, or use server={IN_PROCESS!r}")
    return PROCESS if can_be_served and (wanted or PREFERRED) == PROCESS else IN_PROCESS


def door_of(listen: str | None, token: "str | Verifier | None", **options: Any) -> "ServerOptions | None":
    """Return how subscribers connect; None if nobody listens. Raises `ListenError`, `InvalidValueError`."""
    if listen is None:
        return None
    from commitcast.gateway.server.access.auth import StaticTokens
    from commitcast.gateway.server.options import ServerOptions

    verifier = StaticTokens.single(token) if isinstance(token, str) else token
    return ServerOptions(listen=listen, verifier=verifier, **options)


def in_process(database: Database, journal_mode: str, door: "ServerOptions | None") -> Backend:
    """Return a backend in this process. Raises `InvalidValueError`."""
    from commitcast.actors.in_process import InProcess, store_of

    store = store_of(database, journal_mode)
    if door is None:
        return InProcess(store, None)
    from commitcast.gateway.server.server import GatewayServer

    return InProcess(store, GatewayServer(store, door))


def served(database: Any, journal_mode: str, door: "ServerOptions | None", templates: Sequence[str]) -> Backend:
    """Return a backend in the server process of a file. Raises `InvalidValueError`."""
    from commitcast.actors.served import Served
    from commitcast.persistence.remote.store import RemoteStore

    store = RemoteStore(database, journal_mode=checked_mode(journal_mode))
    if door is None:
        return Served(store, None, None, templates)
    from commitcast.gateway.process.settings import DoorSettings
    from commitcast.gateway.server.access.verifying import Verification

    verification = None if door.verifier is None else Verification(door.verifier)
    return Served(store, DoorSettings.of(door), verification, templates)
