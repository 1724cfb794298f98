"""The one writer on a real store: what it does with what it refuses, in whatever order things come."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from by_hand import Office
from commitcast.actors.database import BATCH_BYTES, BATCH_ROWS
from commitcast.actors.kernel.future import Future
from commitcast.actors.messages import Append, ChangeStatus, Complete, CreateAgents, Fail, Start, Terminate
from commitcast.actors.testing import FailingStore
from commitcast.persistence import AgentNotFoundError, AgentStatus
from commitcast.persistence.errors import PrecedingRefusedError
from commitcast.persistence.records import MessageRecord
from commitcast.persistence.writes import NewMessage
from examples import examples
from stores import bad_text, commit, contents, new_agent, of, opened, text

KNOWN = ("a", "b", "c")
UNKNOWN = "nobody"
STATUSES: dict[str, Callable[[str], Any]] = {
    "start": lambda _: Start(),
    "complete": Complete,
    "fail": lambda _: Fail("Error", "no"),
    "terminate": lambda _: Terminate(),
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("say", "say", "bad", "key")), st.sampled_from((*KNOWN, UNKNOWN))),
        st.tuples(st.sampled_from(tuple(STATUSES)), st.sampled_from(KNOWN)),
        st.tuples(st.just("turn"), st.integers(0, 3)),
    ),
    max_size=60,
)


TURNS = [("turn", 0)] * 4
"""Enough for what was asked to be stored and answered."""


class Told:
    """What is told to the writer, and which refusals its sender did not know of then."""

    def __init__(self) -> None:
        self.said: dict[str, list[tuple[str, str, Future[MessageRecord]]]] = {}
        self.unknown_then: dict[str, list[Future[MessageRecord]]] = {}
        """For each step, the messages of its agent in earlier ones that had no answer when it was told."""

    def note(self, command: Any) -> None:
        """Look at a command on its way. What it says, or completes with, is the number of its step."""
        if isinstance(command, Append):
            for message in command.messages:
                self.unknown_then[message.content] = self._pending(command.agent, message.content)
        elif isinstance(command, ChangeStatus) and command.change.status is AgentStatus.COMPLETED:
            step = command.change.result_json
            assert step is not None
            self.unknown_then[step] = self._pending(command.agent, step)

    def _pending(self, agent: str, step: str) -> list[Future[MessageRecord]]:
        """What was asked before, not what was asked by now: what waits for its turn may come from a later step."""
        earlier = [future for _, said, future in self.said.get(agent, ()) if int(said) < int(step)]
        return [future for future in earlier if not future.done()]


def is_refused_itself(future: Future[MessageRecord]) -> bool:
    error = future.exception(0)
    return error is not None and not isinstance(error, PrecedingRefusedError)


@settings(max_examples=examples(40, 80), deadline=None)
@given(STEPS)
@example([("start", "c"), ("complete", "c"), ("bad", "c")])  # refused behind the completion, not before it
@example([("start", "a"), *TURNS, ("bad", "a"), ("turn", 0), ("complete", "a"), ("turn", 0)])  # told before it is known
@pytest.mark.sampled(1 / 2)
def test_behind_a_refused_message_everything_in_flight_is_refused_and_nothing_else(
    steps: list[tuple[str, Any]],
) -> None:
    with opened(":memory:") as store:
        store.commit([of(agent, new_agent()) for agent in KNOWN])
        office = Office(store)
        told = Told()
        watch_writer(office, told)
        completions: dict[str, Future[Any]] = {}
        for number, (what, which) in enumerate(steps):
            if what == "turn":
                office.dispatcher.run_one(which)
            elif what in STATUSES:
                changed = office.directory.ask(which, STATUSES[what](str(number)))
                if what == "complete":
                    completions[str(number)] = changed
            else:
                future = office.emit(which, message(what, str(number)))
                told.said.setdefault(which, []).append((what, str(number), future))
        office.run()

        stored = {agent: contents(store, agent) for agent in KNOWN}

    assert office.fatal == [] and office.credit.messages == 0
    for agent, said in told.said.items():
        kept = [content for _, content, future in said if future.exception(0) is None]
        assert [(number + 1, content) for number, content in enumerate(kept)] == stored.get(agent, [])
        for what, content, future in said:
            error = future.exception(0)
            is_behind = any(is_refused_itself(other) for other in told.unknown_then[content])
            assert isinstance(error, PrecedingRefusedError) == is_behind
            if agent == UNKNOWN:
                assert is_behind or what == "bad" or isinstance(error, AgentNotFoundError)
                assert error is not None
            elif what != "key" and not is_behind:
                assert (error is not None) == (what == "bad")
    for step, completed in completions.items():
        is_behind = any(map(is_refused_itself, told.unknown_then.get(step, ())))
        assert completed.exception(0) is not None or (step in told.unknown_then and not is_behind)


def message(what: str, content: str) -> NewMessage:
    if what == "bad":
        return bad_text(content)
    return text(content, key="k") if what == "key" else text(content)


def watch_writer(office: Office, told: Told) -> None:
    """Have every command noted before it is in the writer's mailbox."""
    tell = office.writer.tell

    def noted(command: Any) -> None:
        told.note(command)
        tell(command)

    office.writer.tell = noted


def test_changes_of_status_that_do_not_need_what_was_refused_are_carried_out() -> None:
    with opened(":memory:") as store:
        commit(store, "a", new_agent())
        office = Office(store)
        office.directory.ask("a", Start())
        bad = office.emit("a", bad_text("bad"))
        failed = office.directory.ask("a", Fail("Error", "no"))

        office.run()

        assert is_refused_itself(bad)
        assert failed.get(0).status is AgentStatus.FAILED
        record = store.agent("a")
        assert record is not None and (record.status, record.head) == (AgentStatus.FAILED, 0)


@pytest.mark.parametrize(
    ("agents", "each", "content"), [(90, 50, "one of many"), (3, 5, "x" * (1024 * 1024))], ids=["rows", "bytes"]
)
def test_no_transaction_is_larger_than_its_bounds(agents: int, each: int, content: str) -> None:
    with opened(":memory:") as inner:
        names = [str(number) for number in range(agents)]
        inner.commit([of(name, new_agent()) for name in names])
        store = FailingStore(inner)
        office = Office(store)
        for name in names:
            for _ in range(each):
                office.emit(name, content)
        office.run()

        batches = [[write for writes in work for write in writes.writes] for work in store.commits]
        sizes = [(len(batch), sum(write.size for write in batch if isinstance(write, NewMessage))) for batch in batches]
        assert sum(rows for rows, _ in sizes) == agents * each
        assert len(sizes) > 1
        assert all(rows <= BATCH_ROWS and size <= BATCH_BYTES for rows, size in sizes)


@pytest.mark.parametrize("kind", ["creations", "ends"])
def test_the_bytes_of_creations_and_ends_are_counted_and_not_their_characters(kind: str) -> None:
    large = "\u5b57" * (BATCH_BYTES // 5)  # three bytes each in UTF-8: two of these pass the bound
    with opened(":memory:") as inner:
        if kind == "ends":
            inner.commit([of(name, new_agent()) for name in KNOWN])
        store = FailingStore(inner)
        office = Office(store)
        for name in KNOWN:
            if kind == "ends":
                office.directory.ask(name, Fail("Error", large))
            else:
                office.writer.ask(CreateAgents(((name, new_agent(prompt=large)),)), block=False)
        office.run()

        assert [[writes.agent for writes in work] for work in store.commits] == [["a"], ["b"], ["c"]]


def test_what_a_crashed_writer_had_and_what_waits_for_it_is_answered_at_once() -> None:
    with opened(":memory:") as inner:
        inner.commit([of(agent, new_agent()) for agent in ("a", "b")])
        store = FailingStore(inner)
        office = Office(store)
        store.fail(SystemExit(3))
        futures = [office.emit("a", "in the batch"), office.emit("b", "in the batch too")]

        office.run()

        assert [future.done() for future in futures] == [True, True]


def test_a_stop_comes_after_the_commit_of_what_was_sent_before_it_even_between_two_small_batches() -> None:
    with opened(":memory:") as store:
        store.commit([of(agent, new_agent()) for agent in ("a", "b")])
        office = Office(store)
        for agent in ("a", "b"):
            office.emit(agent, "first")
        for _ in range(3):
            office.dispatcher.run_one()  # both agents send, and the writer commits two rows
        message = text("second")
        office.writer.tell(Append("a", 1, 10**9, [message], message.size))
        stopping = office.writer.stop(block=False)

        while not stopping.done():  # whatever order the writer has its turns in
            office.dispatcher.run_one(-1)

        assert contents(store, "a") == [(1, "first"), (2, "second")]
