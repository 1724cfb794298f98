"""The AgentRuntime: one store, its writer, a gateway and any number of agents, put together and taken apart in order.

Owns composition, recovery at start and the ordered stop: agents, then database, then gateway, under one deadline.
The only object that a host makes. Any thread.
"""

import asyncio
import atexit
import logging
import os
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

import pykka
from msgspec.structs import force_setattr

from commitcast.actors.backpressure import AGENT_BYTES, AGENT_MESSAGES, Flow
from commitcast.actors.by_id import AgentsById
from commitcast.actors.control import RuntimeOperations
from commitcast.actors.errors import RuntimeStoppedError, WouldBlockError
from commitcast.actors.given_gateway import GivenGateway, HasRef
from commitcast.actors.handle import EMIT_TIMEOUT_S, AgentHandle, HandleServices
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.kernel.waiting import is_in_turn
from commitcast.actors.launching import Launch, Launcher
from commitcast.actors.maintenance import Maintained
from commitcast.actors.managed import Managed
from commitcast.actors.messages import Fail, Terminate
from commitcast.actors.metrics import RuntimeCollector
from commitcast.actors.recovery import recover
from commitcast.actors.sources.runner import Source
from commitcast.actors.sources.threads import MAX_RUNNING_SOURCES
from commitcast.actors.system import ActorSystem, RuntimeStats
from commitcast.actors.templates import Template
from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.access.auth import StaticTokens, Verifier
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.gateway import HEARTBEAT_S
from commitcast.gateway.server.server import GatewayServer
from commitcast.persistence import fork
from commitcast.persistence.errors import AgentNotFoundError, ForkedRuntimeError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import PAGE_ROWS, Store

logger: Final = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 10.0


class AgentRuntime(Managed, Maintained, AgentsById):
    """Agents whose every message is durable before anybody hears of it.

    Use it as a context manager (`with` or `async with`), or call `start` and `stop`.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Store,
        *,
        listen: str | None = None,
        gateway: pykka.ActorRef[Any] | HasRef | None = None,
        token: str | Verifier | None = None,
        templates: Mapping[str, Template] | None = None,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
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
            listen: `HOST:PORT` to serve WebSocket subscribers on; None serves nobody. Port 0 takes a free one. `asgi`
                serves through an app that is mounted in another (see `gateway.asgi`).
            gateway: the ref of an actor that gets every `Committed` and `Notice` in place of the gateway, or a
                `MockGateway` (see `actors.testing`).
            token: what clients must present, or what checks what they present (`StaticTokens`, `JwtVerifier`, your
                own); None is read-only and for loopback only.
            templates: what clients whose token allows it may launch, by name.
            limits: on what one client may ask for.
            tls: certificate and key to serve subscribers with; None serves without.
            allowed_hosts: further names that a Host header may have.
            allowed_origins: further origins whose pages may subscribe.
            max_running_sources: threads for blocking sources; further ones wait.
            max_unacknowledged: messages of one agent that may be on their way to the disk.
            max_unacknowledged_bytes: their bytes.
            emit_timeout_s: how long `emit` waits at that bound.
            heartbeat_s: seconds between heartbeats to subscribers.
            stop_timeout_s: seconds that an ordered stop may take.
            catch_up_s: seconds that subscribers may take at the stop to get what is committed.
            dispatcher: gives the actors their turns in place of threads (see `actors.testing`).

        Raises:
            ListenError: `listen` is no address, or needs a token.
            InvalidValueError: `gateway` is no ref.
            GatewayStoppedError: its actor is not alive.
        """
        self._store: Store = database if not isinstance(database, (str, os.PathLike)) else SqliteStore(database)
        self._stop_timeout_s = stop_timeout_s
        self._catch_up_s = catch_up_s
        self._given_gateway = None if gateway is None else GivenGateway(gateway)
        self._system = ActorSystem(
            self._store,
            Flow(agent_messages=max_unacknowledged, agent_bytes=max_unacknowledged_bytes),
            max_running_sources=max_running_sources,
            on_fatal=self._on_fatal,
            dispatcher=dispatcher,
        )
        self._lock = threading.Lock()
        self._state = "new"
        self._stopped = threading.Event()
        self._fatal: Exception | None = None
        self._handles = HandleServices(
            self._system.directory, self._system.flow, self._store, self._system.watches, emit_timeout_s
        )
        self._server = None
        if listen is not None:
            self._server = GatewayServer(
                self._store,
                listen,
                verifier=StaticTokens.single(token) if isinstance(token, str) else token,
                operations=RuntimeOperations(
                    templates or {}, self._store, lambda: self._running, self._system.directory, self._handle
                ),
                limits=limits,
                tls=tls,
                allowed_hosts=allowed_hosts,
                allowed_origins=allowed_origins,
                heartbeat_s=heartbeat_s,
            )
            self._server.core.collectors.append(RuntimeCollector(self.stats, self._system.commits))
        self.interrupted = 0
        """How many agents a crash had left behind at the start."""

    def start(self, *, accept: bool = True) -> Self:
        """Open the store, recover it, and begin to serve. Blocks.

        Args:
            accept: False binds the address but lets nobody connect before `accept` is called, so that a subscriber
                who is there from the first moment finds the agents that were launched until then.

        Raises:
            StoreOpenError: the database cannot be used; it was left as it is.
            ListenError: the address cannot be served.
            GatewayStoppedError: the actor given as the gateway is not alive.
        """
        with self._lock:
            if self._state == "forked":
                raise ForkedRuntimeError
            if self._state != "new":
                raise RuntimeStoppedError("a runtime is started once: make another")
            if self._given_gateway is not None:
                self._given_gateway.check()
            self._state = "starting"
        fork.register(self)
        self._store.open()
        try:
            self.interrupted = recover(self._store)
            if self._server is not None:
                self._server.start()
        except BaseException:
            self._store.close()
            raise
        self._system.start(self._server, self._given_gateway)
        self._state = "running"
        atexit.register(self.stop)
        if accept:
            self.accept()
        return self

    def accept(self) -> None:
        """Let subscribers connect, if `start` did not; stops with `ListenError` if another has the address now."""
        try:
            if self._server is not None:
                self._server.accept()
        except ListenError:
            self.stop()
            raise

    def stop(self, timeout_s: float | None = None) -> None:
        """End every agent that is at work, commit what is on its way, and close everything. Idempotent. Blocks.

        Args:
            timeout_s: seconds in all; what does not end in time is left to recovery. None is `stop_timeout_s`.

        Raises:
            WouldBlockError: it was called in a future's callback.
        """
        if is_in_turn():
            raise WouldBlockError
        timeout_s = self._stop_timeout_s if timeout_s is None else timeout_s
        with self._lock:
            state = self._state
            self._state = "stopping" if state == "running" else state
        if state == "running":
            try:
                self._stop(timeout_s)
            except BaseException:  # Ctrl-C: whoever stops it again goes on from here
                self._state = "running"
                raise
            self._stopped.set()
        elif state == "stopping":
            self._stopped.wait(timeout_s)

    def _stop(self, timeout_s: float) -> None:
        fatal = self._fatal
        if self._server is not None:
            self._server.drain()
        self._system.stop(
            Terminate("the runtime was stopped") if fatal is None else Fail(type(fatal).__name__, str(fatal)),
            time.monotonic() + timeout_s,
            self._stop_server,
        )
        self._store.close()
        self._state = "stopped"
        fork.forget(self)
        atexit.unregister(self.stop)
        self._system.watches.raise_all()

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.stop(catch_up_s=self._catch_up_s if self._fatal is None else 0)

    def _drop_in_child(self) -> None:
        """Refuse everything in a forked child, but to be stopped: there is nothing of it there."""
        self._state, self._lock = "forked", threading.Lock()
        self._system._drop_in_child()
        force_setattr(self._handles, "store", fork.GONE)
        self._system = self._store = self._server = fork.GONE

    @property
    def address(self) -> str | None:
        """Where subscribers connect, `HOST:PORT`; None if nobody is served."""
        return None if self._server is None else self._server.address

    @property
    def url(self) -> str | None:
        """The WebSocket URL for subscribers; None if there is no port for them."""
        return None if self._server is None else self._server.url

    @property
    def gateway(self) -> GatewayServer | None:
        """The server for subscribers, for `gateway.asgi`; None if nobody is served."""
        return self._server

    @property
    def failure(self) -> Exception | None:
        """Why the runtime stopped by itself, or why the host's own gateway is told nothing any more; else None."""
        given = self._given_gateway
        return self._fatal or (None if given is None else given.look())

    @property
    def store(self) -> Store:
        """The store, to read from."""
        return self._store

    def launch(
        self,
        source: Source | None = None,
        *,
        type: str | None = None,
        prompt: str = "",
        configuration: dict[str, Any] | None = None,
        id: str | None = None,
        idempotency_key: str | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
    ) -> AgentHandle:
        """Create an agent and start its source. Blocks for one commit.

        Args:
            source: a callable that takes an `AgentContext` and returns or yields `str` or `Draft`, sync or async; or a
                `CommandSource`. None: the host says and ends everything through the handle.
            type: free text; that of the source if it has one, else "agent".
            prompt: kept with the agent; if not empty it is message 1, of type user.
            configuration: a JSON object, kept with the agent.
            id: 1 to 128 of A-Z a-z 0-9 . _ : -; a UUID if None.
            idempotency_key: makes a repeated launch return the agent that is there already.
            restart: "on_failure" runs the source again when it fails, five times in 30 s at most; the sequence goes
                on, and a message of type system marks each restart. A `RestartPolicy` sets other limits.

        Returns:
            A handle, once the agent is on disk.

        Raises:
            InvalidValueError: one of the arguments cannot be stored.
            AgentExistsError: the id is taken.
            IdempotencyConflictError: the key was used with another type, prompt or configuration.
            StoreError: it could not be stored.
            RuntimeStoppedError: the runtime is not running.
        """
        launch = Launch(source, type, prompt, configuration, id, idempotency_key, restart)
        return self._handle(self._running.launch(launch).get())

    async def alaunch(
        self,
        source: Source | None = None,
        *,
        type: str | None = None,
        prompt: str = "",
        configuration: dict[str, Any] | None = None,
        id: str | None = None,
        idempotency_key: str | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
    ) -> AgentHandle:
        """Create an agent without blocking the loop; an async source runs on the calling loop. See `launch`.

        Cancelling leaves the launch as it is: the agent may come to be, and its source to run.
        """
        launch = Launch(source, type, prompt, configuration, id, idempotency_key, restart)
        return self._handle(await self._running.launch(launch, asyncio.get_running_loop()))

    def launch_many(self, count: int, *, type: str = "agent", ids: Sequence[str] | None = None) -> list[AgentHandle]:
        """Create agents without a source, many to a commit. Blocks.

        Args:
            count: how many.
            type: of all.
            ids: one for each; UUIDs if None.

        Raises:
            As for `launch`; of a batch with a refused agent the others are created.
        """
        return [self._handle(agent) for agent in self._running.launch_many(count, type, ids)]

    def stats(self) -> RuntimeStats:
        """Return how much there is of everything right now."""
        return self._system.stats()

    @property
    def _running(self) -> Launcher:
        if self._state == "forked":
            raise ForkedRuntimeError
        if self._state != "running" or self._system.launcher is None:
            raise RuntimeStoppedError(str(self._fatal) if self._fatal is not None else "start it first")
        return self._system.launcher

    def agent(self, id: str) -> AgentHandle:
        """Return the handle of an agent. Blocks for a short read.

        Raises:
            AgentNotFoundError: there is no such agent.
        """
        if self._store.agent(id) is None:
            raise AgentNotFoundError(id)
        return self._handle(id)

    def agents(
        self, status: AgentStatus | str | None = None, *, after: int = 0, limit: int = PAGE_ROWS
    ) -> list[AgentRecord]:
        """Return a page of agents in order of creation.

        Args:
            status: only those that have it now.
            after: the `position` of the last record of the page before.
            limit: how many at most.
        """
        return self._store.agents(None if status is None else AgentStatus(status), after, limit)

    def _handle(self, agent: str) -> AgentHandle:
        return AgentHandle(agent, self._handles)

    def _on_fatal(self, error: Exception) -> None:
        """Stop, from a thread of its own: the database's is the one that calls."""
        self._fatal = self._fatal or error
        self._system.spawn("runtime-stop", self.stop)
