"""A server process without a process: its pure half and the bytes of its connections, in an order that a seed decides.

The hosts are whole runtimes, with the backend that they have beside a real server. Their bytes arrive in pieces of any
length, at any time that the `SeededDispatcher` chooses, and the server may be gone at any moment. In place of its
threads and sockets there are actors; batches, ownership, refusals, outcomes, casting and frames are the real ones.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime, runtime
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.served import Served
from commitcast.actors.testing import SeededDispatcher
from commitcast.gateway.process.batches import Batch, Batches
from commitcast.gateway.process.casting import Casting
from commitcast.persistence.errors import CommitcastError, NotStoredError, PrecedingRefusedError, StoreReadTimeoutError
from commitcast.persistence.records import AgentStatus, Committed
from commitcast.persistence.recovery.interruption import end_interrupted
from commitcast.persistence.remote.connections import Receivers
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import (
    MAX_BATCHES,
    Abandon,
    Answer,
    Ask,
    Cast,
    Commit,
    Deframer,
    Frame,
    Notify,
    NotStored,
    Settings,
    Stored,
    Watch,
    Welcome,
    pack,
    unpack,
)
from commitcast.persistence.remote.frames import (
    Casting as CastingFrame,
)
from commitcast.persistence.remote.outcomes import outcome_of
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.remote.values import READS
from commitcast.persistence.sqlite.journal import DELETE
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites, NewMessage, Outcome

LOOK_S: Final = 0.05
GO_ON: Final = "go on"


class Step(Actor):
    """Something that goes on a bit whenever it has a turn, for as long as there is something to do."""

    def __init__(
        self, name: str, dispatcher: SeededDispatcher, step: Callable[[], bool], failures: list[BaseException]
    ) -> None:
        """Make it with what goes on, and returns whether there is more; what that raises is added to the failures."""
        super().__init__(name, dispatcher)
        self.step = step
        self.failures = failures
        self.begin()

    def wake(self) -> None:
        """Let it go on, some time."""
        self.actor_ref.tell(GO_ON)

    def on_receive(self, message: Any) -> None:
        """Go on."""
        try:
            if self.step():
                self.wake()
        except BaseException as error:  # of the server, or of a check in it: the test fails with it
            self.failures.append(error)


class Wire:
    """One direction of a connection: takes frames, and gives their bytes out in pieces."""

    def __init__(self, world: "SeededServer", name: str, on_frame: Callable[[Frame, int], object]) -> None:
        self._world = world
        self._on_frame = on_frame
        self._bytes = bytearray()
        self._deframer = Deframer()
        self._on_end: Callable[[None], object] | None = None
        self._is_cut = False
        self._step = Step(name, world.dispatcher, self.deliver, world.failures)

    @property
    def has_more(self) -> bool:
        """Whether a piece can be delivered."""
        return bool(self._bytes) or self._on_end is not None

    def send(self, frame: Frame) -> None:
        """Take a frame; after the cut it is dropped."""
        if not self._is_cut:
            self._bytes += pack(frame)
            self._step.wake()

    def cut(self, keep: int = 0, on_end: Callable[[None], object] | None = None) -> None:
        """Deliver some bytes more, and then tell the end."""
        self._is_cut = True
        del self._bytes[keep:]
        self._on_end = on_end
        if on_end is not None:
            self._step.wake()

    def deliver(self) -> bool:
        """Deliver the next piece; return whether there are more."""
        if self._bytes:
            size = self._world.choose(1, len(self._bytes))
            piece = bytes(self._bytes[:size])
            del self._bytes[:size]
            for payload in self._deframer.feed(memoryview(piece)):
                self._on_frame(unpack(payload), len(payload))
        elif self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end(None)
        return self.has_more


class HostWires:
    """The connections of one host. Implements `Connections`."""

    address = "by wire"

    def __init__(self, server: "SeededServer", number: int, receivers: Receivers) -> None:
        self.number = number
        self.receivers = receivers
        self.welcome = Welcome(str(number), 0, 0, True)
        self.unanswered = 0
        self._server = server
        self._answered = 0
        """The last batch whose answer has arrived."""
        self._known: dict[int, int] = {}
        """Which one it was when each batch was sent."""
        self._refused: dict[str, int] = {}
        """Agents of which a message was refused for its own sake, with the last batch of which one was."""
        names = [f"{name}-{number}" for name in ("requests-in", "commits-in", "requests-out", "commits-out")]
        self.in_requests = Wire(server, names[0], lambda frame, size: server.on_request(self, frame))
        self.in_commits = Wire(server, names[1], lambda frame, size: server.on_commit(self, frame, size))
        self.out_requests = Wire(server, names[2], receivers.on_request)
        self.out_commits = Wire(server, names[3], self._on_answer)
        self.send_request = self.in_requests.send

    def send_commit(self, frame: Frame) -> None:
        """Send a batch."""
        assert isinstance(frame, Commit)
        self._known[frame.number] = self._answered
        self.in_commits.send(frame)

    def _on_answer(self, frame: Frame, size: int) -> None:
        assert isinstance(frame, Stored | NotStored)
        self._answered = frame.number
        self.receivers.on_commit(frame, size)

    def check(self, work: Sequence[AgentWrites], answer: Stored | NotStored) -> None:
        """Check that nothing is stored that was sent before its host could know of a refusal that is before it."""
        known = self._known.pop(answer.number)
        if isinstance(answer, NotStored):
            outcomes = [Outcome(None, [NotStoredError("")] * len(one.writes)) for one in work]
        else:
            outcomes = [outcome_of(one, part, 0) for one, part in zip(work, answer.parts, strict=True)]
        for one, outcome in zip(work, outcomes, strict=True):
            replies = [
                reply for write, reply in zip(one.writes, outcome.replies, strict=True) if isinstance(write, NewMessage)
            ]
            if self._refused.get(one.agent, 0) > known:
                assert all(isinstance(reply, Exception) for reply in replies)
            if any(isinstance(reply, Exception) and not isinstance(reply, PrecedingRefusedError) for reply in replies):
                self._refused[one.agent] = answer.number

    def begin(self) -> None:
        """Do nothing: frames come when the dispatcher says so."""

    def offer(self) -> None:
        """Do nothing: there is one thread."""

    def end(self) -> None:
        """Cut both."""
        for wire in (self.in_requests, self.in_commits, self.out_requests, self.out_commits):
            wire.cut()

    def close(self) -> None:
        """Cut both."""
        self.end()

    def drop_in_child(self) -> None:
        """Never called: nothing is forked."""
        raise AssertionError


class SeededWaiter:
    """Waits for an answer by letting the server and its wires go on. Implements `Waiter`."""

    def __init__(self, server: "SeededServer") -> None:
        self._server = server
        self._answers: list[Any] = []

    def answer(self, answer: Any) -> None:
        """Take the answer."""
        self._answers.append(answer)

    def note(self, done: int, of: int) -> None:
        """Take no note of it."""

    def wait(self, timeout: float | None, progress: object = None) -> Any:
        """Wait; when nothing more can come the time is over."""
        while not self._answers:
            if not self._server.go_on():
                raise StoreReadTimeoutError
        (answer,) = self._answers
        if isinstance(answer, Exception):
            raise answer
        return answer


class SeededServer:
    """The server of one file, in memory, and the runtimes that are its hosts."""

    def __init__(self, dispatcher: SeededDispatcher, seed: int, refuses: float = 0.0) -> None:
        """Make it.

        Args:
            dispatcher: gives everything its turns.
            seed: of the lengths of pieces and of refusals.
            refuses: the probability that a commit fails, so that nothing of it is stored.
        """
        self.dispatcher = dispatcher
        self.store = SqliteStore(MEMORY)
        self.store.open()
        self.cast: list[Committed] = []
        """What subscribers were given, in order."""
        self.notices: list[Notify] = []
        self.most_unanswered = 0
        self.is_gone = False
        self._random = random.Random(seed)
        self._refuses = refuses
        self._owners = Owners()
        self._batches = Batches(self._owners)
        self._casting = Casting(self.cast.extend, dispatcher.now)
        self._casting.is_on = True
        self._hosts: list[HostWires] = []
        self.failures: list[BaseException] = []
        self._writer = Step("writer", dispatcher, self._commit, self.failures)

    def choose(self, least: int, most: int) -> int:
        """Return a number that the seed decides; mostly a small one or the largest."""
        return self._random.choice((least, most, self._random.randint(least, most)))

    # What hosts have.

    def runtime(self, **options: Any) -> AgentRuntime:
        """Return a runtime that is a host."""
        store = RemoteStore("a.db", journal_mode=DELETE, connect=self._connect, waiter=lambda: SeededWaiter(self))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "in_process", lambda *_: Served(store, None, None, ()))
            return AgentRuntime("a.db", dispatcher=self.dispatcher, **options)

    def _connect(self, path: Path, settings: Settings, receivers: Receivers) -> HostWires:
        host = HostWires(self, len(self._hosts), receivers)
        self._hosts.append(host)
        return host

    def go_on(self) -> bool:
        """Let a wire or the writer go on, for a thread that waits; return whether there was anything to do."""
        wires = [wire for host in self._hosts for wire in _wires(host) if wire.has_more]
        steps = [wire.deliver for wire in wires] + ([self._commit] if len(self._batches) else [])
        if steps:
            self._random.choice(steps)()
        return bool(steps)

    def crash(self) -> None:
        """Be gone: what hosts have sent is lost, and of what was sent to them only a part arrives."""
        self.is_gone = True
        for host in self._hosts:
            host.in_requests.cut()
            host.in_commits.cut()
            for wire in (host.out_requests, host.out_commits):
                wire.cut(self._random.randint(0, len(wire._bytes)), host.receivers.on_end)

    # The server.

    def on_commit(self, host: HostWires, frame: Frame, size: int) -> None:
        """Take a batch."""
        assert isinstance(frame, Commit)
        host.unanswered += 1
        self.most_unanswered = max(self.most_unanswered, host.unanswered)
        assert host.unanswered <= MAX_BATCHES
        self._batches.put(Batch(host, frame.number, frame.after, frame.work, size))
        self._writer.wake()

    def _commit(self) -> bool:
        transaction = None if self.is_gone else self._batches.take()
        if transaction is None:
            return False
        if self._random.random() < self._refuses:
            failure = failure_of(NotStoredError("not now"))
            for batch in transaction.batches:
                self._batches.refusals.note_all(batch)
                self._answer(batch, NotStored(batch.number, failure))
            return len(self._batches) > 0
        outcomes = self.store.commit(transaction.work) if transaction.work else []
        for batch, answer, written in transaction.answers(outcomes, 0):
            if self._casting.keep(batch.owner, [each.committed for each in written if each.committed is not None]):
                self.dispatcher.call_later(0.0, self._cast_late)
            self._answer(batch, answer)
        return len(self._batches) > 0

    def _answer(self, batch: Batch, answer: Stored | NotStored) -> None:
        host = batch.owner
        host.check(batch.work, answer)
        host.unanswered -= 1
        host.out_commits.send(answer)

    def _cast_late(self) -> None:
        if not self.is_gone and (next_s := self._casting.cast_late()) is not None:
            self.dispatcher.call_later(max(next_s, LOOK_S), self._cast_late)

    def on_request(self, host: HostWires, frame: Frame) -> None:
        """Take what is no batch."""
        match frame:
            case Cast(positions):
                self._casting.cast(host, positions)
            case Notify():
                self.notices.append(frame)
            case Ask(method="detach"):
                self._end(host)
                host.out_requests.send(Answer(frame.id))
            case Ask():
                host.out_requests.send(self._read(frame))
            case CastingFrame() | Abandon() | Watch():
                pass  # it casts for everybody, waits for nothing, and each host follows its own agents only
            case _:
                raise AssertionError(frame)

    def _end(self, host: HostWires) -> None:
        """Bring the agents that a host has left to their end, as `HostEnding` does."""
        self._batches.drop(host)
        self._casting.cast_all(host)
        records = map(self.store.agent, sorted(self._owners.agents(host)))
        outcomes = end_interrupted(self.store.commit, [record for record in records if record is not None])
        self.cast += [outcome.committed for outcome in outcomes if outcome.committed is not None]

    def _read(self, ask: Ask) -> Answer:
        arguments: Sequence[Any] = ask.arguments
        options: dict[str, Any] = {}
        if ask.method == "agents":
            status, *arguments, newest, within = arguments
            arguments = [None if status is None else AgentStatus(status), *arguments]
            options = {"newest": newest, "within": within}
        try:
            return Answer(ask.id, READS[ask.method].pack(getattr(self.store, ask.method)(*arguments, **options)))
        except CommitcastError as error:
            return Answer(ask.id, failure=failure_of(error))


def _wires(host: HostWires) -> list[Wire]:
    return [host.in_requests, host.in_commits, host.out_requests, host.out_commits]
