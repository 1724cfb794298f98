"""The AgentRuntime: one store, its writer, a gateway and any number of agents, put together and taken apart in order.

Owns composition, recovery at start and the ordered stop: agents, then database, then gateway, under one deadline. Hosts
make no other object. Any thread.
"""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import pykka

from commitcast.actors.agent_api import AgentApi
from commitcast.actors.backend import Backend, Progress
from commitcast.actors.backpressure import AGENT_BYTES, AGENT_MESSAGES, CreditLimiter
from commitcast.actors.errors import RuntimeStoppedError, WouldBlockError
from commitcast.actors.form import PROCESS, door_of, form_of, in_process, served
from commitcast.actors.given_gateway import GivenGateway, HasRef
from commitcast.actors.handle import EMIT_TIMEOUT_S, AgentHandle
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.waiting import Latch, this_thread
from commitcast.actors.metrics import RuntimeCollector, RuntimeStats
from commitcast.actors.sources.threads import MAX_RUNNING_SOURCES
from commitcast.actors.system import ActorSystem
from commitcast.gateway.protocol.errors import ListenError
from commitcast.persistence import fork
from commitcast.persistence.deprecation import renamed_argument, renamed_attribute
from commitcast.persistence.errors import ForkedRuntimeError
from commitcast.persistence.sqlite.journal import DELETE
from commitcast.persistence.store import Reader, Report, Store

if TYPE_CHECKING:  # a runtime without subscribers loads none of it
    import ssl

    from commitcast.actors.templates import Template
    from commitcast.gateway.server.access.auth import Verifier
    from commitcast.gateway.server.access.limits import Limits
    from commitcast.gateway.server.requests import AgentControl

logger: Final = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 10.0
HEARTBEAT_S: Final = 15.0
"""As `gateway.server.options` has it, which is loaded by a runtime that listens."""


class AgentRuntime(AgentApi):
    """Runs agents whose messages are durable before any subscriber receives them.

    Use it as a context manager (`with`, or `async with`, which does not block the loop), or call `start` and `stop`.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Store,
        *,
        server: Literal["process", "in_process"] | None = None,
        journal_mode: str = DELETE,
        listen: str | None = None,
        gateway: pykka.ActorRef[Any] | HasRef | None = None,
        token: "str | Verifier | None" = None,
        templates: "Mapping[str, Template] | None" = None,
        limits: "Limits | None" = None,
        tls: "ssl.SSLContext | None" = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        redact: Collection[str] = (),
        redact_except: Collection[str] = (),
        max_running_sources: int = MAX_RUNNING_SOURCES,
        max_unacknowledged: int = AGENT_MESSAGES,
        max_unacknowledged_bytes: int = AGENT_BYTES,
        emit_timeout_s: float = EMIT_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        catch_up_s: float = 0.0,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """Make a runtime; nothing is opened before `start`.

        Args:
            database: path of the SQLite file, created if missing; `:memory:` for one that ends with the runtime; or
                a store of your own.
            server: "process": a process of its own serves the file and its subscribers, which all runtimes on the file
                share, and the first of them starts; "in_process": this process does, alone. None: "process", unless the
                database is in memory or a store of your own, `gateway` or `dispatcher` is given, or the system lacks
                what that needs (see `docs/serving.md`).
            journal_mode: of the SQLite file: `delete`, or `wal` for a write-ahead log, where a commit takes one sync.
            listen: `HOST:PORT` to serve WebSocket subscribers on; port 0 takes a free one. `asgi` serves through an app
                that is mounted in another (see `gateway.asgi`). None serves no subscribers.
            gateway: the ref of an actor that gets every `Committed` and `Notice` in place of the gateway, or a
                `MockGateway` (see `actors.testing`).
            token: that clients must present, or a verifier of their tokens (`StaticTokens`, `JwtVerifier`, your own);
                None is read-only and for loopback only.
            templates: that clients may launch if their token allows it, by name.
            limits: on the requests of one client.
            tls: certificate and key to serve subscribers with; None serves without TLS.
            allowed_hosts: further names that a Host header may have.
            allowed_origins: further origins whose pages may subscribe.
            redact: further names in configurations whose values subscribers are not shown, as `session id`.
            redact_except: names in configurations whose values they are shown although they look like a secret's.
            max_running_sources: threads for blocking sources; further ones wait.
            max_unacknowledged: messages that one agent may have which are not committed yet.
            max_unacknowledged_bytes: their bytes.
            emit_timeout_s: seconds that `emit` waits at that bound.
            heartbeat_s: seconds between heartbeats to subscribers.
            stop_timeout_s: seconds that an ordered stop may take.
            catch_up_s: seconds that subscribers may take at the stop to get what is committed.
            dispatcher: gives the actors their turns in place of threads (see `actors.testing`).

        Raises:
            ListenError: `listen` is not an address, or needs a token.
            InvalidValueError: `database` is not a store, `server` or `journal_mode` is not one of its values, `gateway`
                is not a ref, or a name in `redact` cannot match.
            GatewayStoppedError: its actor is not alive.
        """
        form = form_of(server, database, needs_process=gateway is not None or dispatcher is not None)
        door = door_of(
            listen,
            token,
            limits=limits,
            tls=tls,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            redact=redact,
            redact_except=redact_except,
            heartbeat_s=heartbeat_s,
        )
        names = list(templates or ())
        self._backend: Backend = (
            served(database, journal_mode, door, names) if form == PROCESS else in_process(database, journal_mode, door)
        )
        self._templates = _checked_templates(templates) if templates else {}
        self._given_gateway = None if gateway is None else GivenGateway(gateway)
        self._stop_timeout_s, self._catch_up_s = stop_timeout_s, catch_up_s
        self._make_system = partial(
            ActorSystem,
            self._backend,
            self._given_gateway,
            partial(CreditLimiter, agent_messages=max_unacknowledged, agent_bytes=max_unacknowledged_bytes),
            emit_timeout_s=emit_timeout_s,
            max_running_sources=max_running_sources,
            on_fatal=self.stop,
            dispatcher=dispatcher,
        )
        self._system: ActorSystem | None = None  # until it starts
        self._lock = threading.Lock()
        self._state, self._stopped = "new", Latch()
        self.recovered_agents = 0
        """How many agents a crash had left behind at the start."""

    def __repr__(self) -> str:
        if self._state == "forked":
            return "<AgentRuntime, of the process that this one was forked from>"
        address = "" if self.address is None else f" at {self.address}"
        return f"<AgentRuntime {self.store.name!r} {self._state}{address}>"

    # Its life.

    def start(self, *, accept: bool = True) -> Self:
        """Open the store, recover it, and begin to serve. Blocks. Again only after the end of a server process.

        Args:
            accept: False binds the address but does not accept connections before `accept` is called, so that a
                subscriber that connects at once finds the agents that were launched until then.

        Raises:
            StoreOpenError: the database cannot be used; it was left as it is.
            ListenError: the address cannot be served.
            GatewayStoppedError: the actor given as the gateway is not alive.
        """
        if self._has_lost_server:  # in a forked process `ForkedRuntimeError` is raised here
            self.stop()  # which is under way
        with self._lock:
            if self._state == "stopped" and self._has_lost_server:
                self._state, self._stopped = "new", Latch()
            if self._state != "new":
                raise RuntimeStoppedError("a runtime can be started only once: create another")
            if self._given_gateway is not None:
                self._given_gateway.check()
            self._state = "starting"
        fork.register(self)
        try:
            system = self._system = self._open()
        except BaseException:  # Ctrl-C too
            self._state = "stopped" if self._has_lost_server else "starting"  # the former may try again
            raise
        self._state = "running"
        atexit.register(self.stop)
        if system.fatal is not None:  # already: it could not be stopped before
            self.stop()
            raise system.fatal
        if accept:
            self.accept()
        return self

    @property
    def _has_lost_server(self) -> bool:
        return self._backend.can_begin_again and self._system is not None and self._system.fatal is not None

    def _open(self) -> ActorSystem:
        self._backend.open()
        try:
            self.recovered_agents = self._backend.recover()
            return self._start_system()
        except BaseException:  # Ctrl-C too: nothing stays open
            self._backend.close()
            raise

    def _start_system(self) -> ActorSystem:
        system = self._make_system()
        try:
            collector = RuntimeCollector(system.stats, system.commits)
            self._backend.begin(partial(self._make_control, system), collector, system.lose)
        except BaseException:  # Ctrl-C too: nothing stays open
            system.stop(time.monotonic())
            raise
        return system

    def _make_control(self, system: ActorSystem) -> "AgentControl":
        from commitcast.actors.control import RuntimeControl

        return RuntimeControl(self._templates, system)

    def accept(self) -> None:
        """Let subscribers connect, if `start` did not; stops with `ListenError` if another has the address now."""
        try:
            self._backend.accept()
        except ListenError:
            self.stop()
            raise

    def drain(self) -> None:
        """Report not ready, and refuse new subscribers; those that are connected stay until `stop`. Idempotent."""
        self._backend.drain()

    @renamed_argument("timeout_s", "timeout")
    def stop(self, timeout: float | None = None, *, timeout_s: float | None = None) -> None:
        """End all running agents, commit pending messages, and close everything. Idempotent. Blocks.

        Args:
            timeout: seconds in all; what does not end in time is left to recovery. None is `stop_timeout_s`.

        Raises:
            WouldBlockError: it was called in a future's callback.
        """
        _check_may_block()
        timeout = self._stop_timeout_s if timeout is None else timeout
        with self._lock:
            state, stopped = self._state, self._stopped
            self._state = "stopping" if state == "running" else state
        if state == "running":
            try:
                self._stop(time.monotonic() + timeout)
            except BaseException:  # Ctrl-C: the next call goes on from here
                self._state = "running"
                raise
            stopped.set()
        elif state == "stopping":
            stopped.wait(timeout)

    def _stop(self, deadline: float) -> None:
        assert self._system is not None
        self._backend.drain()
        self._system.stop(deadline, catch_up_s=self._catch_up_s)
        self._backend.close()
        self._state = "stopped"
        fork.forget(self)
        atexit.unregister(self.stop)
        self._system.readers.close(self._system.fatal)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _drop_in_child(self) -> None:
        """Refuse everything in a forked child but to be stopped: nothing of the runtime is there."""
        self._state, self._lock = "forked", threading.Lock()
        if self._system is not None:
            self._system._drop_in_child()
        self._system = self._backend = fork.GONE

    # Its parts.

    @property
    def address(self) -> str | None:
        """Where subscribers connect, `HOST:PORT`; None without `listen`."""
        return self._backend.address

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers; None if there is no port for them."""
        return self._backend.url

    @property
    def gateway(self) -> Any:
        """The gateway for subscribers, for `gateway.asgi`; None without `listen`."""
        return self._backend.gateway

    @property
    def store(self) -> Store:
        """The store, to read from."""
        return self._backend.store

    @property
    def failure(self) -> Exception | None:
        """Why the runtime stopped by itself, or why the host's own gateway no longer receives messages; else None."""
        return None if self._system is None else self._system.failure

    interrupted: int = renamed_attribute("interrupted", "recovered_agents")

    def stats(self) -> RuntimeStats:
        """Return the current counts."""
        return RuntimeStats() if self._system is None else self._system.stats()

    def verify(self, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
        """Verify the database: sequences, positions, checksums, and one end for every agent.

        Args:
            deep: check SQLite's own structure too; commits wait meanwhile.
            progress: called now and then, on this thread, with positions done and positions in all.

        Returns:
            What was found; `is_sound` if nothing is wrong.

        Raises:
            StoreOpenError: the file cannot be read as one of commitcast's.
            WouldBlockError: it was called in a future's callback.

        Threads: any; blocks for seconds in a large file, so on an event loop call it by `asyncio.to_thread`.
        """
        _check_may_block()
        return self._backend.verify(deep=deep, progress=progress)

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, of: None) -> None:
        """Copy everything that is committed into a new file, while agents continue.

        Args:
            path: of the copy, which must not exist.
            progress: called now and then, on this thread, with what is done and what there is in all.

        Raises:
            StorePathError: the copy exists already, its folder does not, or SQLite cannot use its name.
            StoreError: it could not be made; nothing is left of it.
            WouldBlockError: it was called in a future's callback.

        Durability: on return the copy is on disk.
        Threads: any; blocks for seconds in a large file, so on an event loop call it by `asyncio.to_thread`.
        """
        _check_may_block()
        self._backend.backup(path, progress)

    @property
    def _running(self) -> ActorSystem:
        if self._state == "forked":
            raise ForkedRuntimeError
        if self._state == "running" and self._system is not None:
            return self._system
        if self._state in ("new", "starting"):
            raise RuntimeStoppedError("call `start()` first, or use `with`")
        raise RuntimeStoppedError.after(None if self._system is None else self._system.fatal)

    @property
    def _reader(self) -> Reader:
        return self._backend.reader

    def _handle(self, agent: str) -> AgentHandle:
        return AgentHandle(agent, self._running if self._system is None else self._system)


def _checked_templates(templates: "Mapping[str, Template]") -> "dict[str, Template]":
    from commitcast.actors.templates import checked_templates

    return checked_templates(templates)


def _check_may_block() -> None:
    if this_thread.in_turn:
        raise WouldBlockError
