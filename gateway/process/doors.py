"""The doors of a server: one gateway for each host that listens, with its own tokens, rights, limits and templates.

Owns which host a client's request goes to. No host's door is changed by another host. Each door has the thread, the
event loop and the hub of its gateway; what is cast goes to all of them.
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from commitcast.gateway.process.settings import DoorSettings
from commitcast.gateway.protocol.errors import ErrorCode, ListenError
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.errors import MissingExtraError, TemplateUnavailableError, TokenError
from commitcast.gateway.server.metrics import Metric
from commitcast.gateway.server.options import ASGI, ServerOptions
from commitcast.gateway.server.server import GatewayServer
from commitcast.gateway.server.tasks import BackgroundTasks
from commitcast.persistence.errors import CommitcastError, HostError, InvalidValueError
from commitcast.persistence.records import AgentRecord, Committed, MessageRecord
from commitcast.persistence.remote.frames import Notify
from commitcast.persistence.remote.values import unpack_record

if TYPE_CHECKING:
    from commitcast.gateway.process.host import Host
    from commitcast.gateway.process.server import Server

logger: Final = logging.getLogger(__name__)

LEAVE_S: Final = 10.0
"""For the door of a host that is gone to leave its address, when the next host wants that."""
LEAVE_PAUSE_S: Final = 0.05
"""Between two attempts to bind it. It is left before the last connection is closed."""
ANSWER_S: Final = 15.0
"""For a host to do what a client asks for. One that is stopped would keep the client's connection from being read."""
METRICS_S: Final = 1.0
"""How long a host may take to tell its metrics; then they are left out."""


async def asked(host: "Host", method: str, arguments: list[Any]) -> Any:
    """Ask a host from an event loop. Raises the host's error, or `AgentLeftError` if it is gone."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def take(answer: Any) -> None:
        if not answered.done():
            answered.set_result(answer)

    def then(answer: Any) -> None:
        try:
            loop.call_soon_threadsafe(take, answer)
        except RuntimeError:  # the loop is closed
            pass

    number = host.asking.ask(method, arguments, then)
    try:
        answer = await answered
    finally:
        host.asking.withdraw(number)
    if isinstance(answer, Exception):
        raise answer
    return answer


async def done(host: "Host", method: str, arguments: list[Any]) -> Any:
    """Have a host do what a client asks for.

    Raises:
        HostError: it does not answer in time.
        CommitcastError: the host's own, or it is gone.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            return await asked(host, method, arguments)
    except TimeoutError:
        raise HostError(
            f"the runtime in process {host.pid} has not answered for {ANSWER_S:g} s, so it is not known whether it has"
            " done this: try again with the same key",
            "unavailable",
            True,
        ) from None


class HostVerifier:
    """Has a host verify the tokens of its door."""

    def __init__(self, host: "Host") -> None:
        self._host = host

    async def verify(self, token: str) -> Grant:
        """Return what a token grants.

        Raises:
            TokenError: it is not accepted.
        """
        try:
            return msgspec.convert(await asked(self._host, "verify", [token]), Grant)
        except HostError as error:
            if error.code in ("unauthenticated", "token_expired", "forbidden"):
                raise TokenError(error.text, error_code=ErrorCode(error.code)) from None
            raise


class DoorControl:
    """Carries out the requests of a door's clients in the host that can: implements `AgentControl`."""

    def __init__(self, host: "Host", server: "Server") -> None:
        self._host = host
        self._server = server

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent in a host that offers the template, this door's own if it does."""
        host: Host | None = self._host  # also of what nobody ever offered: it says so
        if template not in self._host.templates and template in self._server.templates:
            others = (other for other in self._server.hosts if template in other.templates and not other.is_gone)
            host = next(others, None)
        if host is None:
            raise TemplateUnavailableError(template)
        return _agent(await done(host, "launch", [template, prompt, key, prefix]))

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Send to an agent by its host."""
        record = unpack_record(await done(self._host_of(agent), "send", [agent, content, key]))
        assert isinstance(record, MessageRecord)
        return record

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """End an agent by its host."""
        return _agent(await done(self._host_of(agent), "terminate", [agent, reason]))

    def _host_of(self, agent: str) -> "Host":
        """Return the host that has an agent; of one that has ended any can answer."""
        return self._server.owner(agent) or self._host


def _agent(value: Any) -> AgentRecord:
    record = unpack_record(value)
    assert isinstance(record, AgentRecord)
    return record


class HostMetrics:
    """The metrics of a host, as it told them last."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._latest: list[Metric] = []

    async def refresh(self) -> None:
        """Ask the host; a host that does not answer in time has none."""
        self._latest = []
        try:
            async with asyncio.timeout(METRICS_S):
                self._latest = msgspec.convert(await asked(self._host, "metrics", []), list[Metric])
        except (TimeoutError, CommitcastError, msgspec.ValidationError):
            logger.warning("the metrics of the process %d are not known now", self._host.pid)

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        return self._latest


class Door:
    """The gateway of one host."""

    def __init__(self, host: "Host", server: "Server", settings: DoorSettings) -> None:
        """Make it; nothing listens yet. Raises `ListenError`, and what `ServerOptions` raises."""
        if settings.listen == ASGI:
            _tunnel_server()
        verifier: Any = HostVerifier(host) if settings.has_verifier else None
        options = ServerOptions(
            listen=settings.listen,
            verifier=verifier,
            limits=settings.limits,
            tls=settings.tls(),
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            redact=settings.redact,
            redact_except=settings.redact_except,
            heartbeat_s=settings.heartbeat_s,
        )
        self.gateway = GatewayServer(server.store, options, operations=DoorControl(host, server))
        metrics = HostMetrics(host)
        self.gateway.core.collectors.append(metrics)
        self.gateway.core.refreshing.append(metrics.refresh)
        self.has_audience = False
        """Whether anybody subscribes. Written by its own loop."""
        self.gateway.core.hub.on_audience = partial(server.doors.note_audience, self)
        self._tunnels = BackgroundTasks()
        """Not among the gateway's own tasks, which are cancelled before its connections are closed."""
        self.host = host
        self.accept = self.gateway.accept
        self.drain = self.gateway.drain
        self.is_closed = threading.Event()

    def begin_tunnel(self, connection: socket.socket) -> None:
        """Serve a request that the app of the host forwards. On the gateway's loop."""
        self._tunnels.spawn(_serve_tunnel(self.gateway, connection))


async def _serve_tunnel(gateway: GatewayServer, connection: socket.socket) -> None:
    try:
        serve_tunnel = _tunnel_server().serve_tunnel
        reader, writer = await asyncio.open_unix_connection(sock=connection)
    except ListenError as error:
        logger.error("a request to a web app cannot be answered: %s", error)
        connection.close()
    except OSError:  # the host has given it up meanwhile
        connection.close()
    else:
        await serve_tunnel(gateway, reader, writer)


def _tunnel_server() -> Any:
    """Return the module that serves requests of web apps.

    Raises:
        ListenError: this process has no libraries for it.
    """
    try:
        return import_module("commitcast.gateway.server.http.tunnel_server")
    except MissingExtraError as error:
        why = "the program that has started the server process of this file has not installed the libraries for it"
        raise ListenError("a web app", f"{why}: {error.advice} there, and restart all programs on the file") from error


class Doors:
    """All doors of one server. Any thread."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._lock = threading.Lock()
        self._open: tuple[Door, ...] = ()

    def open(self, host: "Host", settings: Any) -> dict[str, Any]:
        """Bind the door of a host; return its address and URL. Blocks.

        Raises:
            ListenError: it cannot be bound.
            InvalidValueError: it has one already.
        """
        if host.door is not None:
            raise InvalidValueError("this runtime has a door already")
        wanted = msgspec.convert(settings, DoorSettings)
        leaving = [door for door in self._open if door.host.is_gone]  # one of them may have the address
        deadline = time.monotonic() + LEAVE_S
        while True:
            are_closed = all(door.is_closed.is_set() for door in leaving) or time.monotonic() > deadline
            try:
                door = self._bound(host, wanted)
                break
            except ListenError:
                if are_closed:
                    raise
            time.sleep(LEAVE_PAUSE_S)
        host.door = door
        if host.is_gone:  # meanwhile
            self.close(host, catch_up_s=0.0)
        return {"address": door.gateway.address, "url": door.gateway.url}

    def _bound(self, host: "Host", settings: DoorSettings) -> Door:
        door = Door(host, self._server, settings)
        with self._lock:
            self._open = (*self._open, door)
        try:
            door.gateway.start()
        except BaseException:  # Ctrl-C too: nothing stays open
            self._forget(door)
            raise
        return door

    def close(self, host: "Host", *, catch_up_s: float) -> None:
        """Close the door of a host, once its subscribers have caught up or the time is over. Blocks. Idempotent."""
        door, host.door = host.door, None
        if door is not None:
            door.gateway.stop(catch_up_s=catch_up_s)
            self._forget(door)

    def _forget(self, door: Door) -> None:
        with self._lock:
            self._open = tuple(other for other in self._open if other is not door)
        self.note_audience(door, False)
        door.is_closed.set()

    def note_audience(self, door: Door, has_audience: bool) -> None:
        """Take note whether anybody subscribes through a door: what is committed from now on is to be cast. Any thread.

        A new subscriber reads the store after this, and so finds what was committed before.
        """
        with self._lock:
            door.has_audience = has_audience
            is_on = any(other.has_audience for other in self._open)
            if is_on == self._server.casting.is_on:
                return
            self._server.casting.is_on = is_on
            for host in self._server.hosts:
                host.tell_casting(is_on)

    def serve_tunnel(self, connection: socket.socket, host: "Host | None") -> None:
        """Serve a request that the web app of a host forwards, on the loop of its door. Takes the connection over."""
        door = None if host is None else host.door
        if door is None or door.gateway.core.loop is None:
            connection.close()
        else:
            door.gateway.core.call(partial(door.begin_tunnel, connection))

    def publish(self, committed: Sequence[Committed]) -> None:
        """Cast to the subscribers of all doors. Returns at once."""
        for door in self._open:
            for one in committed:
                door.gateway.publish(one)
            door.gateway.flush()

    def notify(self, notice: Notify) -> None:
        """Tell the subscribers of all doors. Returns at once."""
        for door in self._open:
            door.gateway.notify(notice.agent, notice.code, notice.message, notice.retry)
            door.gateway.flush()
