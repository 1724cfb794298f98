"""Actors on one thread, given their turns by hand, and an agents' directory whose database and gateway only listen.

Nothing happens here until a test says so, so an order of events that a race would need luck for is simply written down.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from commitcast.actors.agent import AgentActor
from commitcast.actors.agent_services import AgentServices
from commitcast.actors.backend import Writer
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.database import DatabaseActor
from commitcast.actors.directory import Directory
from commitcast.actors.in_process import DirectWriter
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.deadletters import DeadLetters
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.timers import Timer
from commitcast.actors.messages import Acknowledged, Append, Created, Emit
from commitcast.actors.metrics import CommitStats
from commitcast.actors.readers import Readers
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import Store
from commitcast.persistence.writes import NewMessage
from stores import AT, text


class _Call:
    """Something to be called when its turn comes."""

    turn_messages = 0

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback

    def take_turn(self, _: int) -> None:
        """Call it."""
        self._callback()


class HandDispatcher:
    """Gives turns when a test calls `run` or `run_one`, by a clock that `advance` moves."""

    def __init__(self) -> None:
        self.dead_letters = DeadLetters()
        self.ready: deque[Actor | _Call] = deque()
        self.on_schedule: Callable[[Actor], object] = lambda _: None
        self.delays: list[float] = []
        """Of everything that was ever to be called later."""
        self._timers: list[Timer] = []
        self._time = 0.0

    def schedule(self, actor: Actor) -> None:
        """Remember that an actor has work."""
        self.ready.append(actor)
        self.on_schedule(actor)

    def try_run_inline(self, actor: Actor) -> None:
        """Never run it here."""
        self.schedule(actor)

    def run_together(self, call: Callable[[], object], *, inline: bool) -> None:
        """Only call: there is one thread."""
        call()

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Call it in its turn: there is one thread."""
        self.ready.append(_Call(work))

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Remember a call for `advance`."""
        timer = Timer(self._time + delay_s, len(self.delays), callback)
        self.delays.append(delay_s)
        heapq.heappush(self._timers, timer)
        return timer

    def now(self) -> float:
        """Return the time that `advance` has come to."""
        return self._time

    def stop(self) -> None:
        """Do nothing: there is no thread."""

    def run_one(self, which: int = 0) -> None:
        """Give a turn to one of those that have work, if there are any: any of them may be the next."""
        if self.ready:
            self.ready.rotate(-(which % len(self.ready)))
            actor = self.ready.popleft()
            actor.take_turn(actor.turn_messages)

    def run(self) -> None:
        """Give turns until no actor has work."""
        while self.ready:
            self.run_one()

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what falls due and what it leads to."""
        end = self._time + seconds
        while self._timers and self._timers[0].due <= end:
            timer = heapq.heappop(self._timers)
            self._time = timer.due
            timer.fire()
            self.run()
        self._time = end


class Listener(Actor):
    """Keeps its messages; raises a message that is an error, and calls one that is callable."""

    def __init__(self, name: str, dispatcher: Any, heard: list[Any] | None = None) -> None:
        super().__init__(name, dispatcher)
        self.heard: list[Any] = [] if heard is None else heard
        self.dropped: list[Any] = []
        self.ended: list[str] = []

    def on_receive(self, message: Any) -> Any:
        """Keep, call or raise it."""
        if isinstance(message, BaseException):
            raise message
        if callable(message):
            return message()
        self.heard.append(message)
        return message

    def on_dropped(self, message: Any) -> None:
        """Note what was cancelled."""
        self.dropped.append(message)

    def on_stop(self) -> None:
        """Note the end."""
        self.ended.append("stop")

    def on_failure(self, *_: object) -> None:
        """Note the end."""
        self.ended.append("failure")


def agent_record(agent: str, status: AgentStatus = AgentStatus.RUNNING) -> AgentRecord:
    """An agent as a store would have it."""
    return AgentRecord(
        id=agent,
        epoch="e",
        position=1,
        type="agent",
        status=status,
        prompt="",
        head=0,
        created_at=AT,
    )


class _Stored(SqliteStore):
    """A store that has the agents of a dict, and no messages."""

    def __init__(self, agents: dict[str, AgentRecord]) -> None:
        super().__init__(":memory:")
        self._agents = agents

    def agent(self, agent: str) -> AgentRecord | None:
        """Return the record, if there is one."""
        return self._agents.get(agent)

    def keyed(self, agent: str, key: str) -> None:
        """Find nothing."""


class Office:
    """Real agent actors and their real directory; the gateway is a listener, and the database too without a store."""

    def __init__(self, store: Store | None = None, writer: Writer | None = None, **bounds: int) -> None:
        """Put them together; what the database's actor commits by is made of the store unless it is given."""
        self.dispatcher = HandDispatcher()
        self.stored: dict[str, AgentRecord] = {}
        self.foreign: set[str] = set()
        """Agents of other runtimes."""
        self.credit = CreditLimiter(**bounds)
        self.made: list[AgentActor] = []
        self.fatal: list[Exception] = []
        self.database = Listener("database", self.dispatcher)
        self.gateway = Listener("gateway", self.dispatcher)
        self.directory = Directory(self._make, self.credit, self.dispatcher.dead_letters, self.dispatcher.run_together)
        database: Actor = self.database
        if store is not None:
            database = DatabaseActor(
                writer or DirectWriter(store, CommitStats()),
                acknowledge=self.directory.tell,
                on_fatal=self.fatal.append,
                run_together=self.dispatcher.run_together,
                dispatcher=self.dispatcher,
            )
        self.writer: Any = database.actor_ref
        for actor in (database, self.gateway):
            actor.begin()
        self._services = AgentServices(
            dispatcher=self.dispatcher,
            database=database.actor_ref,
            cast=self.gateway.actor_ref.tell,
            reader=_Stored(self.stored) if store is None else store,
            credit=self.credit,
            directory=self.directory,
            readers=Readers(),
            owns=lambda agent: agent not in self.foreign,
            forward=lambda method, arguments, answered: None,
        )
        self.answered = 0
        self._sequence = 0

    def _make(self, agent: str, created: Created | None) -> AgentActor:
        actor = AgentActor(agent, self._services, created)
        actor.begin()
        self.made.append(actor)
        return actor

    def add(self, agent: str, status: AgentStatus = AgentStatus.RUNNING) -> None:
        """Let there be an agent in the store."""
        self.stored[agent] = agent_record(agent, status)

    def emit(self, agent: str, content: str | NewMessage) -> Future[MessageRecord]:
        """Say something for an agent, as a handle does."""
        message = text(content) if isinstance(content, str) else content
        assert self.credit.try_acquire(agent, message.size)
        return self.directory.emit(agent, Emit(message))

    def crash(self, agent: str) -> None:
        """Let the agent's actor meet a defect with its next turn."""
        self.directory.tell(agent, RuntimeError("a defect"))  # type: ignore[arg-type]  # no command: that is the defect

    @property
    def said(self) -> list[str]:
        """What has come to the database, in order."""
        return [
            message.content
            for command in self.database.heard
            if isinstance(command, Append)
            for message in command.messages
        ]

    def commit(self) -> None:
        """Acknowledge what has come to the database, one agent's part at a time as its writer does."""
        groups: dict[tuple[str, int], list[Any]] = {}
        for command in self.database.heard[self.answered :]:
            replies = groups.setdefault((command.agent, command.actor), [])
            replies += [self._reply(command.agent, message) for message in command.messages]
        self.answered = len(self.database.heard)
        for (agent, actor), replies in groups.items():
            self.directory.tell(agent, Acknowledged(None, replies, actor))

    def _reply(self, agent: str, message: Any) -> MessageRecord:
        self._sequence += 1
        return MessageRecord(
            agent=agent,
            position=self._sequence,
            sequence=self._sequence,
            type=message.type,
            role=message.role,
            content=message.content,
            content_type=message.content_type,
            created_at=message.created_at,
        )

    def run(self) -> None:
        """Give turns until no actor has work."""
        self.dispatcher.run()
