"""The first frame of each connection: who comes, and whether it is let in. On the loop of requests.

Nothing is begun for a connection before its first frame is complete and right; one that sends none is closed in time.
"""

import socket
from typing import TYPE_CHECKING, Final

from commitcast.gateway.process.host import Host
from commitcast.persistence.errors import (
    CommitcastError,
    LinkError,
    SettingsConflictError,
    StoreLockedError,
    StoreOpenError,
)
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import (
    COMMITS,
    DISMISS,
    PROTOCOL,
    REQUESTS,
    TUNNEL,
    Frame,
    Hello,
    Refused,
    Settings,
    Welcome,
)
from commitcast.persistence.remote.link import Credentials, Link, check_same_user

if TYPE_CHECKING:
    from commitcast.gateway.process.server import Server

HELLO_S: Final = 5.0
"""For the first frame. A host sends it at once."""


class Greeting:
    """One connection until it is known what it is."""

    def __init__(self, connection: socket.socket, server: "Server") -> None:
        """Begin to wait for the first frame.

        Raises:
            LinkError: the process at the other end is another user's.
            OSError: it is gone.
        """
        self._server = server
        self._credentials: Credentials = check_same_user(connection)
        self._link = Link(connection, server.loop, self._on_frame, lambda _: self._timer.cancel())
        self._timer = server.loop.call_later(HELLO_S, self._link.end)
        self._link.begin()

    def _on_frame(self, frame: Frame, _: int) -> None:
        if not isinstance(frame, Hello):
            raise LinkError("the first frame is not a hello")
        self._timer.cancel()
        if frame.role == DISMISS or frame.settings not in (None, self._server.settings):
            self._server.dismiss()  # if it has no hosts any more: the next server has the settings of its first
        if self._server.is_ending or (frame.role == REQUESTS and not self._server.may_attach()):
            self._refuse(None)
            return
        try:
            self._check(frame)
        except CommitcastError as error:
            self._refuse(error)
            return
        if frame.role == TUNNEL:
            self._link.send(Welcome(frame.session, self._server.pid, 0, self._server.casting.is_on))
        connection = self._link.hand_over()
        if frame.role == REQUESTS:
            self._welcome(connection, frame)
        elif frame.role == COMMITS:
            self._attach_commits(connection, self._server.host(frame.session))
        else:
            self._server.doors.serve_tunnel(connection, self._server.host(frame.session))

    def _check(self, hello: Hello) -> None:
        name = self._server.store.name
        if hello.role == DISMISS:
            raise StoreLockedError(name, "it has runtimes")
        if hello.protocol != PROTOCOL:
            raise StoreOpenError(
                name,
                f"the server process {self._server.pid} of this file speaks version {PROTOCOL} of the protocol, not "
                f"{hello.protocol}: end the programs of the other version of commitcast first",
            )
        if hello.role == REQUESTS:
            _check_settings(name, hello.settings, self._server.settings)
            return
        host = self._server.host(hello.session)
        if hello.role not in (COMMITS, TUNNEL) or host is None or host.is_gone:
            raise StoreOpenError(name, "its server knows no such session")
        if hello.role == COMMITS and host.commits is not None:
            raise StoreOpenError(name, "this session has its connection for commits already")

    def _refuse(self, error: CommitcastError | None) -> None:
        self._link.send(Refused(None if error is None else failure_of(error)))
        self._link.end()

    def _welcome(self, connection: socket.socket, hello: Hello) -> None:
        server = self._server
        host = Host(server, self._credentials.pid, hello.runtime)
        host.requests = Link(connection, server.loop, host.on_request, host.on_end)
        host.requests.begin()
        recovered, server.recovered = server.recovered, 0
        host.casts = server.casting.is_on  # as it is told: another look could differ
        host.send(Welcome(host.session, server.pid, recovered, host.casts, server.store.waits_for))
        server.attach(host)

    def _attach_commits(self, connection: socket.socket, host: Host | None) -> None:
        assert host is not None  # as just checked
        loop = self._server.writer.loop
        host.commits = Link(connection, loop, host.on_commit, host.on_end)
        host.commits.begin()
        host.answer(Welcome(host.session, self._server.pid, 0, self._server.casting.is_on))


def _check_settings(name: str, wanted: Settings | None, present: Settings) -> None:
    if wanted is None or wanted == present:
        return
    differing = [
        f"{field} is {getattr(present, field)!r} there and {getattr(wanted, field)!r} here"
        for field in Settings.__struct_fields__
        if getattr(wanted, field) != getattr(present, field)
    ]
    why = f"another runtime has it open with other settings ({', '.join(differing)}): use the same, or stop it first"
    raise SettingsConflictError(name, why)
