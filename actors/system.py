"""The actors of one runtime and what they share: put together, supervised, and taken apart in order.

Owns the dispatcher, the writer, the gateway's actor, the agents' directory and the threads of their sources. Made when
the runtime starts, and whole from then on. Nothing here is global to the process, so two runtimes in one process do not
see each other.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from commitcast.actors import messages
from commitcast.actors.agent import AgentActor
from commitcast.actors.agent_services import AgentServices
from commitcast.actors.backend import Backend
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.database import DatabaseActor
from commitcast.actors.directory import Directory
from commitcast.actors.gateway import GatewayActor
from commitcast.actors.given_gateway import GivenGateway
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.dispatch import Dispatcher, ThreadDispatcher, stop_actor
from commitcast.actors.kernel.future import remaining
from commitcast.actors.kernel.ref import ActorRef
from commitcast.actors.kernel.supervision import RestartPolicy, Supervisor
from commitcast.actors.launching import Launcher
from commitcast.actors.loop import DispatchedLoop, LoopThread
from commitcast.actors.metrics import RuntimeStats
from commitcast.actors.readers import Readers
from commitcast.actors.sources.runner import RunServices
from commitcast.actors.sources.tasks import SourceTasks
from commitcast.actors.sources.threads import SourceThreads
from commitcast.persistence import fork
from commitcast.persistence.clock import now
from commitcast.persistence.store import Reader

logger: Final = logging.getLogger(__name__)

LAST_LOOK_S: Final = 0.5
"""How long a stop that has no time left still waits for the processes that it has killed."""

NEVER: Final = RestartPolicy(kind="never")
"""For the writer: what it held when it failed may or may not be stored, and only a new start can find out."""


class ActorSystem:
    """The actors of one runtime."""

    def __init__(
        self,
        backend: Backend,
        gateway: GivenGateway | None,
        make_credit: Callable[[], CreditLimiter],
        *,
        emit_timeout_s: float,
        max_running_sources: int,
        on_fatal: Callable[[], object],
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """Start the actors.

        Args:
            backend: what they commit, read and cast with; its store is open.
            gateway: the way to an actor that is used in place of the system's own.
            make_credit: makes the bounds on unacknowledged messages.
            emit_timeout_s: how long a host's thread waits at them.
            max_running_sources: threads for blocking sources.
            on_fatal: called, on a thread of its own and once at least, when nothing more can be written or cast.
            dispatcher: gives every actor its turns, in place of threads of the system's own.
        """
        self.reader: Reader = backend.reader
        self.credit = credit = make_credit()
        self.emit_timeout_s = emit_timeout_s
        self.readers = Readers(backend.owns, backend.watch)
        backend.tell_news(self.readers.on_news)
        self.commits = backend.commits
        self.fatal: Exception | None = None
        """Why nothing more can be written or cast; None while that is not so."""
        self._backend = backend
        self._on_fatal = on_fatal
        self._given_dispatcher = dispatcher
        self._dispatcher: Dispatcher = ThreadDispatcher("agents") if dispatcher is None else dispatcher
        self.dead_letters = self._dispatcher.dead_letters
        self.directory = Directory(self._make_agent, credit, self.dead_letters, self._dispatcher.run_together)
        self._threads = SourceThreads(max_running_sources, self._dispatcher.spawn)
        self._tasks = SourceTasks()
        self._loop = LoopThread("sources") if dispatcher is None else DispatchedLoop("sources", dispatcher)
        self._given_gateway = gateway
        self._supervisor = self._supervise("gateway", self._make_gateway, RestartPolicy())
        self._gateway: ActorRef[Any] | None = None  # of the system's own actor
        if gateway is None:
            self._gateway = self._supervisor.start()
            cast = backend.casting_by(self._gateway.tell)
        else:
            gateway.begin()
            cast = gateway.tell
        self._database = self._supervise("database", self._make_database, NEVER).start()
        self._services = AgentServices(
            dispatcher=self._dispatcher,
            database=self._database,
            cast=cast,
            reader=backend.reader,
            credit=credit,
            directory=self.directory,
            readers=self.readers,
            owns=backend.owns,
            forward=backend.forward,
        )
        runs = RunServices(self.directory.ask, self.directory.tell, credit, self._threads, self._tasks, now)
        self.launcher = Launcher(self._database, self.directory, runs, self._loop.get)

    def _supervise(self, name: str, make: Callable[[], Actor], restart: RestartPolicy) -> Supervisor:
        return Supervisor(name, make, restart, self._dispatcher, self._escalate)

    def _make_gateway(self) -> GatewayActor:
        backend = self._backend
        return GatewayActor(self._dispatcher, backend.publish, backend.notify, backend.flush)

    def _make_database(self) -> DatabaseActor:
        return DatabaseActor(
            self._backend.writer,
            acknowledge=self.directory.tell,
            on_fatal=self.fail,
            run_together=self._dispatcher.run_together,
            dispatcher=self._dispatcher if self._backend.writer.answers_later else self._given_dispatcher,
            dead_letters=self.dead_letters,
        )

    def _make_agent(self, agent: str, created: messages.Created | None) -> AgentActor:
        actor = AgentActor(agent, self._services, created)
        actor.begin()
        return actor

    def _drop_in_child(self) -> None:
        self.directory._drop_in_child()
        self.credit._drop_in_child()
        self.readers._drop_in_child()
        self._threads._drop_in_child()
        self.reader = fork.GONE

    def _escalate(self, name: str, error: BaseException) -> None:
        self.fail(error if isinstance(error, Exception) else RuntimeError(f"the {name} actor failed: {error!r}"))

    def fail(self, error: Exception) -> None:
        """Stop the runtime: nothing more can be written, read or cast. Any thread; returns at once."""
        self.fatal = self.fatal or error
        self._dispatcher.spawn("runtime-stop", self._on_fatal)  # the thread that calls may be the writer's

    def lose(self, error: Exception) -> None:
        """Stop the runtime because the server of its file is gone. Any thread; returns at once.

        Programs of its agents are killed without a grace: the next server reports their agents as ended.
        """
        self._threads.processes.stop(kill_by=time.monotonic())
        self.fail(error)

    @property
    def failure(self) -> Exception | None:
        """Why nothing more can be written or cast, or reaches the host's own gateway; else None."""
        return self.fatal or (None if self._given_gateway is None else self._given_gateway.look())

    def stats(self) -> RuntimeStats:
        """Return the current counts. Any thread."""
        gateway = self._gateway
        return RuntimeStats(
            agents=len(self.directory),
            unacknowledged_messages=self.credit.messages,
            unacknowledged_bytes=self.credit.size,
            database_waiting=self._database.actor_inbox.qsize(),
            commits=self.commits.count,
            waits_for=self.reader.waits_for,
            gateway_waiting=0 if gateway is None else gateway.actor_inbox.qsize(),
            gateway_restarts=self._supervisor.restarts.count,
            dead_letters=self.dead_letters.count,
            latest_dead_letters=self.dead_letters.latest,
        )

    def stop(self, deadline: float, *, catch_up_s: float = 0.0) -> None:
        """End every agent that is at work, then the database's actor, then the gateway. Blocks.

        Args:
            deadline: of `time.monotonic()`; what has not ended by then is left to recovery.
            catch_up_s: seconds that subscribers may take to receive what is committed, unless this is a failure.
        """
        fatal = self.fatal
        if fatal is None:
            ending: messages.Terminate | messages.Fail = messages.Terminate("the runtime was stopped")
        else:
            ending = messages.Fail(type(fatal).__name__, str(fatal))
        left_s = max(0.0, deadline - time.monotonic())
        processes, half = self._threads.processes, deadline - left_s / 2
        until = half + left_s / 8 if processes else half  # a full disk then is not waited for any longer
        self.directory.end_all(ending, until, lambda: processes.stop(kill_by=half))
        self._backend.give_up()
        self._join_sources(deadline, left_s)
        self._backend.abandon_waiting()
        stop_actor(self._database, deadline)
        self.directory.stop_all(deadline)
        self._supervisor.restart_now()
        stop_actor(self._gateway, deadline)
        if self._given_gateway is not None:
            self._given_gateway.end()
        self._backend.stop_serving(catch_up_s=catch_up_s if fatal is None else 0.0)
        if self._given_dispatcher is None:
            self._dispatcher.stop()
        if not self._loop.stop(max(0.1, remaining(deadline) or 0.0)):
            logger.warning("an async source did not end in time: its thread is left running")

    def _join_sources(self, deadline: float, left_s: float) -> None:
        if not self._threads.join(remaining(deadline - left_s / 4) or 0.0):
            logger.warning("a source did not end in time: its thread is left running")
        if not self._tasks.join(remaining(deadline - left_s / 4) or 0.0):
            logger.warning("an async source did not end in time: its clean-up is cancelled")
        if not self._threads.processes.wait(remaining(deadline - left_s / 8) or LAST_LOOK_S):
            logger.warning("a process cannot be killed: it is left running")
