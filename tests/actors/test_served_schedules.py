"""Whole runtimes beside a server, in thousands of possible orders of everything, each from a seed.

Their bytes arrive in pieces, at any time; up to two batches of each are on their way; the server may be gone at any
step. What was promised holds in every order. When one fails, its seed and its operations reproduce it step by step.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.actors import AgentContext, AgentRuntime, database
from commitcast.actors.kernel.future import Future
from commitcast.actors.sources import runner
from commitcast.actors.testing import SeededDispatcher
from commitcast.persistence.errors import CommitcastError, NotStoredError, StoreUnknownError
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.remote import commits
from commitcast.persistence.remote.frames import MAX_BATCHES
from commitcast.persistence.writes import NewMessage, Write
from examples import examples
from lives import status_after
from seeded_server import SeededServer, Step

HOSTS: Final = 2
AGENTS: Final = ("a", "b", "c")
UNKNOWN: Final = "nobody"
SEEDS: Final = st.integers(0, 2**32)
OPERATIONS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            (*["emit"] * 4, *["key"] * 2, "cancel", "send", "start", "complete", "fail", "terminate", "read", "run")
        ),
        st.integers(0, HOSTS - 1),
        st.sampled_from((*AGENTS, "source", UNKNOWN)),
    ),
    max_size=40,
)
Operations = Sequence[tuple[str, int, str]]


class World:
    """Two runtimes and their server, in one order of their events."""

    def __init__(self, seed: int, refuses: float) -> None:
        self.refuses = refuses
        self.dispatcher = SeededDispatcher(seed)
        self.server = SeededServer(self.dispatcher, seed, refuses)
        self.runtimes = [self.server.runtime(stop_timeout_s=60.0) for _ in range(HOSTS)]
        self.emitted: dict[str, list[tuple[str, Future[MessageRecord]]]] = {}
        self.asked: list[Future[Any]] = []
        self.sent: dict[tuple[str, int], list[str]] = {}
        """What each agent has sent to be stored, from one refusal that it knows of to the next."""

    def play(self, operations: Operations, *, rest_first: bool, crashes_after: int | None = None) -> None:
        """Do what the hosts do, then stop them: under load, or when everything has come to rest."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner.logger, "disabled", True)  # sources fail, as they are to
            patch.setattr(commits, "FURTHER_ROWS", 1)
            patch.setattr(database, "BATCH_ROWS", 3)
            patch.setattr(database.DatabaseActor, "_add", self._note_sent(database.DatabaseActor._add))
            with self.dispatcher:
                with ExitStack() as running:
                    for runtime in self.runtimes:
                        running.enter_context(runtime)
                    self._launch()
                    for number, operation in enumerate(operations):
                        if number == crashes_after:
                            Step("crash", self.dispatcher, self._crash, self.server.failures).wake()
                        self._do(*operation, number)
                    if rest_first:
                        self.dispatcher.run()
                        self._say_more()
                self.dispatcher.run()
        self.records = {record.id: record for record in self.server.store.agents()}
        self.kept = {agent: self.server.store.messages(agent) for agent in self.records}
        self.server.store.close()

    def _note_sent(self, add: Callable[..., None]) -> Callable[..., None]:
        def note(actor: database.DatabaseActor, command: Any, writes: Sequence[Write], size: int) -> None:
            sent = self.sent.setdefault((command.agent, command.generation), [])
            sent += [write.content for write in writes if isinstance(write, NewMessage)]
            add(actor, command, writes, size)

        return note

    def _say_more(self) -> None:
        """Have everybody who is at work say one thing more: whoever was refused knows of it now, and can go on."""
        if self.server.is_gone or self.refuses:
            return
        running = [record.id for record in self.runtimes[0].agents(AgentStatus.RUNNING)]
        said = [self.runtimes[int(agent[-1])]._handle(agent).emit("more") for agent in running]
        self.dispatcher.run()
        assert [future.exception(0) for future in said] == [None] * len(said)

    def _crash(self) -> bool:
        self.server.crash()
        return False

    def _launch(self) -> None:
        for number, runtime in enumerate(self.runtimes):
            ids = [f"{agent}{number}" for agent in AGENTS]
            _until_stored(lambda runtime=runtime, ids=ids: runtime.launch_many(len(ids), ids=ids))  # type: ignore[misc]
            source = f"source{number}"
            _until_stored(lambda runtime=runtime, id=source: runtime.launch(self._source, id=id, restart="on_failure"))  # type: ignore[misc]

    def _do(self, operation: str, host: int, agent: str, number: int) -> None:
        """Do something with an agent of a host."""
        runtime = self.runtimes[host]
        id = UNKNOWN if agent == UNKNOWN else f"{agent}{host}"
        try:
            self._operate(operation, runtime, id, number)
        except CommitcastError:  # the runtime has stopped, because its server is gone
            assert self.server.is_gone

    def _operate(self, operation: str, runtime: AgentRuntime, agent: str, number: int) -> None:
        handle = runtime._handle(agent)
        if operation == "run":
            self.dispatcher.pause()
        elif operation in ("emit", "cancel", "key"):
            future = handle.emit(str(number), key="k" if operation == "key" else None)
            self.emitted.setdefault(agent, []).append((str(number), future))
            if operation == "cancel":
                future.cancel()
        elif operation == "send":
            self.emitted.setdefault(agent, []).append((str(number), handle.send(str(number))))
        elif operation == "read":
            runtime.agents()
        elif operation == "fail":
            self.asked.append(handle.fail("told to"))
        else:
            self.asked.append(getattr(handle, operation)())

    def _source(self, context: AgentContext) -> Any:
        for number in range(3):
            self.dispatcher.pause()
            yield f"said {context.attempt}.{number}"
        if context.attempt < 1:
            raise ValueError("not yet")

    # What is promised.

    def check(self) -> None:
        """Everything that is promised of what happened."""
        assert self.server.failures == []
        for agent, record in self.records.items():
            self._check_messages(agent, record)
            self._check_life(agent, record)
        for agent, emitted in self.emitted.items():
            self._check_answers(agent, emitted)
        for (agent, _), sent in self.sent.items():
            kept = {message.content for message in self.kept.get(agent, ())}
            assert set(sent[: len(kept.intersection(sent))]) <= kept  # no hole
        assert all(future.done() for future in self.asked)
        assert all(runtime.stats().unacknowledged_messages == 0 for runtime in self.runtimes)

    def _check_messages(self, agent: str, record: AgentRecord) -> None:
        kept = self.kept[agent]
        assert [message.sequence for message in kept] == list(range(1, record.head + 1))
        cast = [message for one in self.server.cast if one.agent == agent for message in one.messages]
        assert cast == (kept[: len(cast)] if self.server.is_gone else kept)
        words = [message.content for message in kept if message.content.isdecimal()]
        assert words == sorted(words, key=int)

    def _check_life(self, agent: str, record: AgentRecord) -> None:
        changes = [change for one in self.server.cast if one.agent == agent for change in one.changes]
        status = status_after(changes, self.kept[agent])
        if not self.server.is_gone:
            assert record.status is status and status.is_terminal
            assert [change.status.is_terminal for change in changes].count(True) == 1

    def _check_answers(self, agent: str, emitted: list[tuple[str, Future[MessageRecord]]]) -> None:
        kept = {message.content: message for message in self.kept.get(agent, ())}
        answered = []
        for content, future in emitted:
            assert future.done()
            error = future.exception(0)
            if error is None:
                record = future.get(0)
                answered.append(record)
                assert kept[record.content] == record
            else:
                assert isinstance(error, CommitcastError)
                assert content not in kept or (self.server.is_gone and isinstance(error, StoreUnknownError))
        first = list(dict.fromkeys(message.sequence for message in answered))  # a repeat has the record of the first
        assert first == sorted(first)


def _until_stored(launch: Callable[[], object]) -> None:
    while True:
        try:
            launch()
            return
        except NotStoredError:  # as the seed says
            pass


@pytest.mark.sampled
@pytest.mark.timeout(300)
@settings(max_examples=examples(40, 200), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS, rest_first=st.booleans(), refuses=st.sampled_from((0.0, 0.0, 0.2)))
def test_no_hole_no_lie_and_one_end_in_any_order(
    seed: int, operations: Operations, rest_first: bool, refuses: float
) -> None:
    world = World(seed, refuses)

    world.play(operations, rest_first=rest_first)

    world.check()


@pytest.mark.sampled
@pytest.mark.timeout(300)
@settings(max_examples=examples(40, 200), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS, rest_first=st.booleans(), crashes_after=st.integers(0, 39))
def test_when_the_server_is_gone_at_any_step_nothing_acknowledged_is_lost_and_nothing_else_was_cast(
    seed: int, operations: Operations, rest_first: bool, crashes_after: int
) -> None:
    world = World(seed, 0.0)

    world.play(operations, rest_first=rest_first, crashes_after=crashes_after)

    world.check()


def test_two_batches_are_on_their_way_at_once() -> None:
    operations = [("emit", 0, agent) for agent in AGENTS] * 5
    most = []
    for seed in range(5):
        world = World(seed, 0.0)
        world.play(operations, rest_first=True)
        world.check()
        most.append(world.server.most_unanswered)

    assert max(most) == MAX_BATCHES


@pytest.mark.sampled
@pytest.mark.timeout(300)
@settings(max_examples=examples(5, 50), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS)
def test_the_same_seed_gives_the_same_order(seed: int, operations: Operations) -> None:
    traces = []
    for _ in range(2):
        world = World(seed, 0.0)
        world.play(operations, rest_first=False)
        traces.append(world.dispatcher.trace)

    assert traces[0] == traces[1]
