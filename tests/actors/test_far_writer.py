"""The DatabaseActor with a writer in another process, whose answers come late: the same rules as with one of its own.

Several batches are on their way, refusals become known later, and the server may be gone at any moment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from by_hand import HandDispatcher, Office
from commitcast.actors import database
from commitcast.actors.database import DatabaseActor
from commitcast.actors.kernel.future import Future
from commitcast.actors.messages import Append, ChangeStatus, Complete, CreateAgents, Fail, Start, Terminate
from commitcast.persistence import AgentNotFoundError, AgentStatus, CommitcastError
from commitcast.persistence.errors import NotStoredError, PrecedingRefusedError, StoreUnknownError
from commitcast.persistence.records import MessageRecord
from commitcast.persistence.remote import commits
from commitcast.persistence.remote.frames import MAX_BATCHES
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import NewMessage
from examples import examples
from far_writer import FarWriter
from stores import bad_text, contents, new_agent, of, opened, text

KNOWN = ("a", "b", "c")
UNKNOWN = "nobody"
STATUSES: dict[str, Any] = {
    "start": lambda _: Start(),
    "complete": Complete,
    "fail": lambda _: Fail("Error", "no"),
    "terminate": lambda _: Terminate(),
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("say", "say", "say", "bad", "key")), st.sampled_from((*KNOWN, UNKNOWN))),
        st.tuples(st.sampled_from(tuple(STATUSES)), st.sampled_from(KNOWN)),
        st.tuples(st.sampled_from(("turn", "turn", "turn")), st.integers(0, 3)),
        st.tuples(st.sampled_from(("arrive", "commit", "answer", "step")), st.just(0)),
        st.tuples(st.just("refuse_next"), st.just(0)),
    ),
    max_size=80,
)
TURN = ("turn", 0)
STEP = ("step", 0)


def message(what: str, content: str) -> NewMessage:
    if what == "bad":
        return bad_text(content)
    return text(content, key="k") if what == "key" else text(content)


class Play:
    """What a host has said, what became of it, and what it knew when each word was sent."""

    def __init__(self, store: SqliteStore) -> None:
        self.writer = FarWriter(store)
        self.office = Office(store, self.writer)
        self.office.writer.ask(CreateAgents(tuple((agent, new_agent()) for agent in KNOWN)), block=False)
        self.rest()
        self.said: dict[str, list[tuple[str, str, Future[MessageRecord]]]] = {}
        self.ends: dict[str, Future[Any]] = {}
        self.changed: list[Future[Any]] = []
        self.unknown_then: dict[str, list[Future[MessageRecord]]] = {}
        """For each word and completion, the messages of its agent before it that had no answer when it was sent."""
        self._watch()

    def _watch(self) -> None:
        tell = self.office.writer.tell

        def noted(command: Any) -> None:
            if isinstance(command, Append):
                for message in command.messages:
                    self.unknown_then[message.content] = self._pending(command.agent, message.content)
            elif isinstance(command, ChangeStatus) and command.change.status is AgentStatus.COMPLETED:
                step = str(command.change.result_json)
                self.unknown_then[step] = self._pending(command.agent, step)
            tell(command)

        self.office.writer.tell = noted

    def _pending(self, agent: str, step: str) -> list[Future[MessageRecord]]:
        earlier = [future for _, said, future in self.said.get(agent, ()) if int(said) < int(step)]
        return [future for future in earlier if not future.done()]

    def do(self, number: int, what: str, which: Any) -> None:
        if what == "turn":
            self.office.dispatcher.run_one(which)
        elif what in STATUSES:
            changed = self.office.directory.ask(which, STATUSES[what](str(number)))
            self.changed.append(changed)
            if what == "complete":
                self.ends[str(number)] = changed
        elif what in ("say", "bad", "key"):
            future = self.office.emit(which, message(what, str(number)))
            self.said.setdefault(which, []).append((what, str(number), future))
        else:
            getattr(self.writer, what)()

    def rest(self) -> None:
        """Let everything go on until nothing is on its way."""
        self.office.run()
        while not self.writer.is_at_rest:
            self.writer.step()
            self.office.run()

    def answered(self) -> dict[str, list[tuple[str, Exception | None]]]:
        """For each agent, each word and its error."""
        return {agent: [(word, _error(future)) for _, word, future in said] for agent, said in self.said.items()}


def _error(future: Future[Any]) -> Exception | None:
    assert future.done()
    error = future.exception(0)
    assert error is None or isinstance(error, CommitcastError)
    return error


def is_refused_itself(future: Future[MessageRecord]) -> bool:
    error = _error(future)
    return error is not None and not isinstance(error, PrecedingRefusedError)


@contextmanager
def small_batches() -> Iterator[None]:
    """Two batches on their way at once, and more of them waiting, with a few messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commits, "FURTHER_ROWS", 1)
        patch.setattr(database, "BATCH_ROWS", 4)
        yield


@pytest.mark.sampled
@settings(max_examples=examples(80, 600), deadline=None)
@given(steps=STEPS)
@example(steps=[("bad", "a"), TURN, TURN, ("say", "a"), TURN, TURN, *[STEP] * 4])
@example(  # a message that was sent after its agent knew of the first refusal, and before it knew of the second
    steps=[("bad", "a"), TURN, TURN, ("say", "a"), TURN, TURN, STEP, STEP, STEP, TURN, TURN, ("say", "a"), TURN, TURN]
)
def test_behind_a_refused_message_everything_in_flight_is_refused_and_nothing_else(
    steps: list[tuple[str, Any]],
) -> None:
    with small_batches(), opened(":memory:") as store:
        play = Play(store)
        for number, (what, which) in enumerate(steps):
            play.do(number, what, which)
        play.rest()
        stored = {agent: contents(store, agent) for agent in KNOWN}

    office = play.office
    assert office.fatal == [] and office.credit.messages == 0 and play.writer.most_in_flight <= MAX_BATCHES
    assert all(future.done() for future in play.changed)
    for agent, said in play.said.items():
        kept = [content for _, content, future in said if _error(future) is None]
        assert [(number + 1, content) for number, content in enumerate(kept)] == stored.get(agent, [])
        for what, content, future in said:
            error = _error(future)
            is_behind = any(map(is_refused_itself, play.unknown_then[content]))
            is_of_its_batch = type(error) is NotStoredError  # of which nothing was stored
            assert isinstance(error, PrecedingRefusedError) == (is_behind and not is_of_its_batch)
            if agent == UNKNOWN and not is_behind and what != "bad":
                assert is_of_its_batch or isinstance(error, AgentNotFoundError)
            elif what == "say" and not is_behind:
                assert error is None or is_of_its_batch
    for step, completed in play.ends.items():
        is_behind = any(map(is_refused_itself, play.unknown_then.get(step, ())))
        assert completed.exception(0) is not None or (step in play.unknown_then and not is_behind)


@pytest.mark.sampled
@settings(max_examples=examples(80, 600), deadline=None)
@given(steps=STEPS, lost_at=st.integers(0, 80))
def test_when_the_server_is_lost_every_answer_is_true(steps: list[tuple[str, Any]], lost_at: int) -> None:
    with small_batches(), opened(":memory:") as store:
        play = Play(store)
        for number, (what, which) in enumerate([*steps, *[STEP, TURN] * 3]):
            if number == lost_at:
                play.writer.lose()
            play.do(number, what, which)
        play.writer.lose()
        play.rest()
        stored = {agent: [content for _, content in contents(store, agent)] for agent in KNOWN}

    assert play.office.credit.messages == 0
    assert all(future.done() for future in play.changed)
    for agent, answers in play.answered().items():
        kept = stored.get(agent, [])
        known = {word for word, error in answers if error is None}
        possible = {word for word, error in answers if error is None or isinstance(error, StoreUnknownError)}
        assert known <= set(kept) <= possible
        assert kept == sorted(kept, key=int)


@pytest.mark.sampled
@settings(max_examples=examples(50, 300), deadline=None)
@given(
    agents=st.lists(st.sampled_from(KNOWN), min_size=1, max_size=30),
    steps=st.lists(st.sampled_from(("turn", "arrive", "commit", "answer")), max_size=40),
    refused=st.sets(st.integers(0, 29)),
)
def test_when_it_is_stopped_with_batches_on_their_way_all_is_answered_in_the_order_of_each_agent(
    agents: list[str], steps: list[str], refused: set[int]
) -> None:
    answers: dict[str, list[Any]] = {agent: [] for agent in KNOWN}
    with small_batches(), opened(":memory:") as store:
        store.commit([of(agent, new_agent()) for agent in KNOWN])
        dispatcher, writer = HandDispatcher(), FarWriter(store)
        actor = DatabaseActor(
            writer,
            acknowledge=lambda agent, told: answers[agent].extend(told.replies),
            on_fatal=lambda error: None,
            run_together=dispatcher.run_together,
            dispatcher=dispatcher,
        )
        actor.begin()
        steps_left = iter(steps)
        for number, agent in enumerate(agents):
            said = bad_text(str(number)) if number in refused else text(str(number))
            actor.actor_ref.tell(Append(agent, 1, 1, [said], said.size))
            for step in (next(steps_left, ""), next(steps_left, "")):
                if step == "turn":
                    dispatcher.run_one()
                elif step:
                    getattr(writer, step)()
        stopping = actor.actor_ref.stop(block=False)
        dispatcher.run()
        assert stopping.done()
        while not writer.is_at_rest:
            writer.step()

        for agent in KNOWN:
            assert len(answers[agent]) == agents.count(agent)
            of_the_agent = [str(number) for number, name in enumerate(agents) if name == agent]
            kept = [word for word, answer in zip(of_the_agent, answers[agent], strict=True) if not _is_error(answer)]
            assert [answer.content for answer in answers[agent] if not _is_error(answer)] == kept
            assert [content for _, content in contents(store, agent)] == kept


def _is_error(answer: Any) -> bool:
    return isinstance(answer, Exception)


def test_an_agent_that_always_has_a_batch_on_its_way_is_not_refused_for_ever() -> None:
    """Each batch is sent before the refusals in the one before it are known."""
    with small_batches(), opened(":memory:") as store:
        play = Play(store)
        for number in range(30):
            message = text(str(number)) if number else bad_text("0")
            play.said.setdefault("a", []).append(("say", str(number), play.office.emit("a", message)))
            play.office.run()
            actor = play.office.made[-1]
            if actor._outgoing:  # a busy agent waits for a turn's worth
                actor._send_outgoing()
            play.office.run()
            if number:
                play.writer.step()
            play.office.run()
        play.rest()

        errors = [error for _, error in play.answered()["a"]]
        refused = [number for number, error in enumerate(errors) if error is not None]
        assert refused == list(range(len(refused))) and len(refused) < 8
        assert len(contents(store, "a")) == 30 - len(refused)


def test_what_is_refused_beforehand_is_answered_after_what_is_on_its_way() -> None:
    """Else an agent would take the refusal for the answer to an earlier write."""
    with small_batches(), opened(":memory:") as store:
        play = Play(store)
        play.do(0, "start", "a")
        play.rest()
        steps = [("bad", "a"), TURN, TURN, ("terminate", "a"), TURN, TURN, ("say", "a"), TURN, TURN]
        for number, (what, which) in enumerate(steps, 1):
            play.do(number, what, which)
        play.rest()

        (_, bad), (_, said) = play.answered()["a"]
        assert bad is not None and isinstance(said, PrecedingRefusedError)
        assert play.changed[1].get(0).status is AgentStatus.TERMINATED
        assert play.office.fatal == []
