"""Whole runtimes in thousands of possible orders, each from a seed: what was promised holds in every one of them.

Every actor runs on the test's thread under a `SeededDispatcher`; hypothesis chooses what the host does and
the seed that orders everything else. When one fails, its seed and its operations reproduce it step by step.
"""

from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.actors import AgentRuntime
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.testing import MockGateway, SeededDispatcher
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from examples import examples
from lives import status_after

AGENTS: Final = ("a", "b", "c")
SEEDS: Final = st.integers(0, 2**32)
OPERATIONS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            ("emit", "emit", "emit", "emit", "cancel", "start", "complete", "fail", "terminate", "send", "run")
        ),
        st.sampled_from((*AGENTS, "source")),
    ),
    max_size=24,
)


class KeptStore(SqliteStore):
    """A database in memory whose contents are looked at before it is gone."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.records: dict[str, AgentRecord] = {}
        self.kept: dict[str, list[MessageRecord]] = {}

    def close(self) -> None:
        if not self.records:
            self.records = {record.id: record for record in self.agents()}
            self.kept = {agent: self.messages(agent) for agent in self.records}
        super().close()


class World:
    """One runtime in one order of its events."""

    def __init__(self, seed: int, max_unacknowledged: int = 1_024) -> None:
        self.dispatcher = SeededDispatcher(seed)
        self.gateway = MockGateway(dispatcher=self.dispatcher)
        self.store = KeptStore()
        self.runtime = AgentRuntime(
            self.store, gateway=self.gateway.ref, dispatcher=self.dispatcher, max_unacknowledged=max_unacknowledged
        )
        self.emitted: dict[str, list[tuple[str, Future[MessageRecord]]]] = {}
        self.asked: list[Future[Any]] = []

    def play(self, operations: Sequence[tuple[str, str]], *, rest_first: bool) -> None:
        """Do what the host does, then stop: under load, or when everything has come to rest."""
        with self.dispatcher:
            with self.runtime:
                handles = dict(zip(AGENTS, self.runtime.launch_many(len(AGENTS), ids=AGENTS), strict=True))
                handles["source"] = self.runtime.launch(self._source, id="source", restart="on_failure")
                for number, (operation, agent) in enumerate(operations):
                    self._do(operation, agent, handles[agent], number)
                if rest_first:
                    self.dispatcher.run()
            self.dispatcher.run()
            self.gateway.stop()

    def _do(self, operation: str, agent: str, handle: Any, number: int) -> None:
        if operation == "run":
            self.dispatcher.pause()
        elif operation in ("emit", "cancel"):
            future = handle.emit(str(number))
            self.emitted.setdefault(agent, []).append((str(number), future))
            if operation == "cancel":
                future.cancel()
        elif operation == "send":
            self.emitted.setdefault(agent, []).append((str(number), handle.send(str(number))))
        elif operation == "fail":
            self.asked.append(handle.fail("told to"))
        else:
            self.asked.append(getattr(handle, operation)())

    def _source(self, context: AgentContext) -> Any:
        for number in range(3):
            self.dispatcher.pause()
            yield f"said {context.attempt}.{number}"
        if context.attempt < 2:
            raise ValueError("not yet")

    def check(self) -> None:
        """Everything that is promised of what happened."""
        for agent, record in self.store.records.items():
            self._check_messages(agent, record)
            self._check_life(agent, record)
        for agent, emitted in self.emitted.items():
            self._check_answers(agent, emitted)
        assert all(future.done() for future in self.asked)
        assert self.runtime.stats().unacknowledged_messages == 0

    def _check_messages(self, agent: str, record: AgentRecord) -> None:
        kept = self.store.kept[agent]
        assert [message.sequence for message in kept] == list(range(1, record.head + 1))
        assert [message for message in self.gateway.messages if message.agent == agent] == kept

    def _check_life(self, agent: str, record: AgentRecord) -> None:
        changes = [change for change in self.gateway.changes if change.agent == agent]
        status = status_after(changes, self.store.kept[agent])
        assert record.status is status and status.is_terminal
        assert [change.status.is_terminal for change in changes].count(True) == 1

    def _check_answers(self, agent: str, emitted: list[tuple[str, Future[MessageRecord]]]) -> None:
        kept = {message.content: message for message in self.store.kept[agent]}
        answered = []
        for content, future in emitted:
            assert future.done()
            error = future.exception(0)
            if error is None:
                answered.append(future.get(0))
                assert kept[content] == answered[-1]
            else:
                assert isinstance(error, CommitcastError)
                assert content not in kept
        assert [message.sequence for message in answered] == sorted(message.sequence for message in answered)


@pytest.mark.sampled
@settings(max_examples=examples(80, 300), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS, rest_first=st.booleans())
def test_order_and_truth_are_kept_at_rest_and_when_stopped_under_load(
    seed: int, operations: list[tuple[str, str]], rest_first: bool
) -> None:
    world = World(seed)

    world.play(operations, rest_first=rest_first)

    world.check()


@pytest.mark.sampled
@settings(max_examples=examples(50, 200), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS, rest_first=st.booleans(), bound=st.integers(1, 3))
def test_they_are_kept_at_the_bound_too_where_everybody_waits_for_everybody(
    seed: int, operations: list[tuple[str, str]], rest_first: bool, bound: int
) -> None:
    world = World(seed, bound)

    world.play(operations, rest_first=rest_first)

    world.check()


RUNS: Final = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(("fails", "fails", "ends"))), min_size=1, max_size=5
)


@pytest.mark.sampled
@settings(max_examples=examples(50, 200), deadline=None)
@given(seed=SEEDS, runs=RUNS, intensity=st.integers(0, 4), kind=st.sampled_from(("never", "on_failure")))
def test_a_source_is_run_again_within_its_limits_and_its_sequence_goes_on(
    seed: int, runs: list[tuple[int, str]], intensity: int, kind: Any
) -> None:
    world = World(seed)
    began: list[int] = []

    def source(context: AgentContext) -> Any:
        began.append(context.attempt)
        says, ending = runs[min(context.attempt, len(runs) - 1)]
        for number in range(says):
            world.dispatcher.pause()
            yield f"{context.attempt}.{number}"
        if ending == "fails":
            raise ValueError(f"failure {context.attempt}")

    with world.dispatcher:
        with world.runtime as runtime:
            policy = RestartPolicy(kind=kind, intensity=intensity, period_s=1_000.0)
            record = runtime.launch(source, id="s", restart=policy).wait(10_000.0)
        world.gateway.stop()

    world.check()
    allowed = intensity if kind == "on_failure" else 0
    fails = [ending == "fails" for _, ending in runs] + [runs[-1][1] == "fails"] * (allowed + 1)
    expected = next((attempt for attempt in range(allowed + 1) if not fails[attempt]), allowed)
    assert began == list(range(expected + 1))
    assert record.status is (AgentStatus.FAILED if fails[expected] else AgentStatus.COMPLETED)
    said = [message.content for message in world.store.kept["s"] if message.type == "assistant"]
    assert said == [f"{n}.{number}" for n in began for number in range(runs[min(n, len(runs) - 1)][0])]
    marks = [message for message in world.store.kept["s"] if message.type == "system"]
    assert [(mark.metadata or {})["restart"] for mark in marks] == began[1:]


@pytest.mark.sampled
@settings(max_examples=examples(10, 50), deadline=None)
@given(seed=SEEDS, operations=OPERATIONS)
def test_the_same_seed_gives_the_same_order(seed: int, operations: list[tuple[str, str]]) -> None:
    traces = []
    for _ in range(2):
        world = World(seed)
        world.play(operations, rest_first=False)
        traces.append(world.dispatcher.trace)

    assert traces[0] == traces[1]


def test_different_seeds_give_different_orders() -> None:
    operations = [("emit", agent) for agent in (*AGENTS, *AGENTS)]
    orders = set()
    for seed in range(20):
        world = World(seed)
        world.play(operations, rest_first=True)
        orders.add(tuple(world.dispatcher.trace))

    assert len(orders) == 20


def test_waiting_for_what_nobody_will_do_is_told_apart_from_waiting() -> None:
    with (
        SeededDispatcher(1) as dispatcher,
        pytest.raises(AssertionError, match="what the test waits for cannot happen"),
    ):
        assert dispatcher.now() == 0
        Future[int]().get()
