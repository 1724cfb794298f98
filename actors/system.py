"""The actors of one runtime and what they share: put together, supervised, and taken apart in order.

Owns the dispatcher, the writer, the gateway's actor, the agents' directory and the threads of their sources. Nothing
here is global to the process, so two runtimes in one process do not see each other.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from commitcast.actors.agent import AgentActor
from commitcast.actors.agent_services import AgentServices, Told
from commitcast.actors.backpressure import Flow
from commitcast.actors.commit_meter import CommitMeter
from commitcast.actors.database import DatabaseActor
from commitcast.actors.directory import Directory
from commitcast.actors.gateway import Audience, GatewayActor
from commitcast.actors.given_gateway import GivenGateway
from commitcast.actors.kernel.deadletters import DeadLetter, DeadLetters
from commitcast.actors.kernel.dispatch import Dispatcher, ThreadDispatcher, stop_actor
from commitcast.actors.kernel.future import remaining
from commitcast.actors.kernel.ref import ActorRef
from commitcast.actors.kernel.supervision import ChildSpec, RestartPolicy, Supervisor
from commitcast.actors.launching import Launcher
from commitcast.actors.loop import LoopThread
from commitcast.actors.messages import Created, Fail, Terminate
from commitcast.actors.signals import Watches
from commitcast.actors.sources.tasks import SourceTasks
from commitcast.actors.sources.threads import SourceThreads
from commitcast.persistence.clock import now
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Store

logger: Final = logging.getLogger(__name__)

LAST_LOOK_S: Final = 0.5
"""How long a stop that has no time left still waits for what it has killed."""

NEVER: Final = RestartPolicy(kind="never")
"""For the writer: what it held when it failed may or may not be stored, and only a new start can find out."""


class RuntimeStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is of everything in a runtime, at one moment."""

    agents: int
    """Agents that have an actor: those at work, and those somebody speaks to."""
    unacknowledged_messages: int
    unacknowledged_bytes: int
    database_waiting: int
    """Messages in the writer's mailbox."""
    waits_for: str | None
    """Why commits are kept waiting (a full disk, another program's lock); None if they are not."""
    gateway_waiting: int
    gateway_restarts: int
    dead_letters: int
    """Messages that reached nobody, since the start."""
    latest_dead_letters: tuple[DeadLetter, ...]


class ActorSystem:
    """The actors of one runtime."""

    def __init__(
        self,
        store: Store,
        flow: Flow,
        *,
        max_running_sources: int,
        on_fatal: Callable[[Exception], object],
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """Make a system; no thread is started before `start`.

        Args:
            store: what the writer writes to; open when `start` is called.
            flow: the bounds on what is on its way.
            max_running_sources: threads for blocking sources.
            on_fatal: called, once at least, when nothing more can be written or cast.
            dispatcher: gives every actor its turns, in place of threads of the system's own.
        """
        self._store = store
        self.flow = flow
        self.watches = Watches()
        self.commits = CommitMeter()
        self.dead_letters = DeadLetters() if dispatcher is None else dispatcher.dead_letters
        self.directory = Directory(self._make_agent, flow, self.dead_letters)
        self._given_dispatcher = dispatcher
        self._dispatcher: Dispatcher | None = None
        self._on_fatal = on_fatal
        self._give_up = threading.Event()
        self._threads = SourceThreads(max_running_sources, self.spawn)
        self._tasks = SourceTasks()
        self._loop = LoopThread("sources")
        self._services: AgentServices | None = None
        self._database: ActorRef[Any] | None = None
        self._gateway: ActorRef[Any] | None = None
        self._given_gateway: GivenGateway | None = None
        self._supervisor: Supervisor | None = None
        self.launcher: Launcher | None = None

    def start(self, audience: Audience | None, gateway: GivenGateway | None) -> None:
        """Start the actors.

        Args:
            audience: who is told what was committed; None if nobody is served.
            gateway: the way to an actor that is used in place of the system's own.
        """
        dispatcher = self._given_dispatcher or ThreadDispatcher("agents", dead_letters=self.dead_letters)
        self._dispatcher = dispatcher
        supervisor = self._supervisor = Supervisor(dispatcher, self._escalate)
        if gateway is None:
            told = self._start_gateway(supervisor, dispatcher, audience)
        else:
            told = self._given_gateway = gateway
            gateway.begin()
        database = self._database = supervisor.start(ChildSpec("database", self._make_database, NEVER))
        self._services = AgentServices(
            dispatcher=dispatcher,
            database=database,
            gateway=told,
            load=self._store.agent,
            keyed=self._store.keyed,
            flow=self.flow,
            home=self.directory,
            committed=self.watches.raise_version,
            now=now,
        )
        self.launcher = Launcher(database, self.directory, self.flow, self._threads, self._tasks, self._loop.get)

    def _start_gateway(self, supervisor: Supervisor, dispatcher: Dispatcher, audience: Audience | None) -> Told:
        own = self._gateway = supervisor.start(ChildSpec("gateway", lambda: GatewayActor(dispatcher, audience)))
        return own

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Call `work`, which may block, beside everything else."""
        assert self._dispatcher is not None
        self._dispatcher.spawn(name, work)

    def _make_database(self) -> DatabaseActor:
        assert self._dispatcher is not None
        return DatabaseActor(
            self._store,
            acknowledge=self.directory.tell,
            on_fatal=self._on_fatal,
            give_up=self._give_up,
            inline_turns=self._dispatcher.inline_turns,
            dispatcher=self._given_dispatcher,
            dead_letters=self.dead_letters,
            commits=self.commits,
        )

    def _drop_in_child(self) -> None:
        self.directory._drop_in_child()
        self.flow._drop_in_child()
        self.watches._drop_in_child()
        self._threads._drop_in_child()

    def _make_agent(self, agent: str, created: Created | None) -> AgentActor:
        assert self._services is not None
        actor = AgentActor(agent, self._services, created)
        actor.begin()
        return actor

    def _escalate(self, name: str, error: BaseException) -> None:
        self._on_fatal(error if isinstance(error, Exception) else RuntimeError(f"the {name} actor failed: {error!r}"))

    def stats(self) -> RuntimeStats:
        """Return how much there is of everything right now. Any thread."""
        gateway = self._gateway
        return RuntimeStats(
            agents=len(self.directory),
            unacknowledged_messages=self.flow.messages,
            unacknowledged_bytes=self.flow.size,
            database_waiting=0 if self._database is None else self._database.actor_inbox.qsize(),
            waits_for=self._store.waits_for,
            gateway_waiting=0 if gateway is None else gateway.actor_inbox.qsize(),
            gateway_restarts=0 if gateway is None or self._supervisor is None else self._supervisor.restarts("gateway"),
            dead_letters=self.dead_letters.count,
            latest_dead_letters=self.dead_letters.latest,
        )

    def stop(self, last_command: Terminate | Fail, deadline: float, finish_gateway: Callable[[], object]) -> None:
        """End every agent that is at work, then the database's actor, then the gateway. Blocks.

        Args:
            last_command: how the agents end.
            deadline: of `time.monotonic()`; what has not ended by then is left to recovery.
            finish_gateway: called when everything was handed to the audience.
        """
        left_s = max(0.0, deadline - time.monotonic())
        processes, half = self._threads.processes, deadline - left_s / 2
        until = half + left_s / 8 if processes else half  # a full disk then is not waited for any longer
        self.directory.end_all(last_command, until, lambda: processes.stop(kill_by=half))
        self._give_up.set()
        if not self._threads.join(remaining(deadline - left_s / 4) or 0.0):
            logger.warning("a source did not end in time: its thread is left behind")
        if not self._tasks.join(remaining(deadline - left_s / 4) or 0.0):
            logger.warning("an async source did not end in time: what it does to clean up is broken off")
        if not processes.wait(remaining(deadline - left_s / 8) or LAST_LOOK_S):
            logger.warning("a process cannot be killed: it is left behind")
        if isinstance(self._store, SqliteStore):
            self._store.abandon_waiting()
        stop_actor(self._database, deadline)
        self.directory.stop_all(deadline)
        if self._supervisor is not None:
            self._supervisor.restart_now()
        stop_actor(self._gateway, deadline)
        if self._given_gateway is not None:
            self._given_gateway.end()
        finish_gateway()
        if self._dispatcher is not None and self._given_dispatcher is None:
            self._dispatcher.stop()
        if not self._loop.stop(max(0.1, remaining(deadline) or 0.0)):
            logger.warning("an async source did not end in time: its thread is left behind")
