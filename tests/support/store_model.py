"""A simple model of a store, and random batches of everything that are checked against it."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from commitcast.actors.lifecycle import TRANSITIONS
from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    IdempotencyConflictError,
    IllegalTransitionError,
    PrecedingRefusedError,
    RowRefusedError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, Entry, MessageRecord, StatusChange
from commitcast.persistence.writes import AgentPatch, AgentWrites, NewAgent, NewMessage, NewStatus, Outcome, Write
from databases import Database
from stores import AT, COMPLETED, INITIALIZING, change, new_agent, of, text

AGENTS = ("a", "b", "c", "d")
REOPEN = "reopen"
Batches = tuple[dict[str, list[Write]], list[Any]]
"""A first batch, then batches and `REOPEN`."""

contents = st.sampled_from(["x", "yy", "\u00fc"])
keys = st.sampled_from([None, None, None, "k", "l"])
good_messages = st.builds(text, contents, key=keys, metadata=st.sampled_from([None, {}, {"n": 1}]))
bad_messages = st.builds(
    lambda content, key: NewMessage("whisper", None, content, "text", AT, 1, key=key), contents, keys
)
launches = st.builds(
    lambda said, prompt, key: new_agent(*said, prompt=prompt, idempotency_key=key),
    st.lists(contents, max_size=2),
    st.sampled_from(["", "p"]),
    st.sampled_from([None, "k"]),
)
steps = [change(one, other) for one, others in TRANSITIONS.items() for other in others]
changes = st.sampled_from(steps) | st.builds(change, st.sampled_from(AgentStatus), st.sampled_from(AgentStatus))
patches = st.builds(AgentPatch, pid=st.integers(1, 9))
writes = st.lists(good_messages | good_messages | changes | bad_messages | patches | launches, min_size=1, max_size=5)
groups = st.dictionaries(st.sampled_from(AGENTS), writes, min_size=1)
launched = st.fixed_dictionaries({agent: st.lists(launches, min_size=1, max_size=1) for agent in AGENTS[:3]})
batches: st.SearchStrategy[Batches] = st.tuples(
    launched | groups, st.lists(groups | groups | st.just(REOPEN), min_size=1, max_size=6)
)


class Model:
    """One agent as it ought to be."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.status: AgentStatus | None = None  # None: unknown
        self.entries: list[tuple[Any, ...]] = []
        self.head = 0
        self.previous_entry_position = 0
        self.kept: dict[str, NewMessage] = {}
        self.launched: dict[str, NewAgent] = {}

    def expect(self, writes: list[Write]) -> Iterator[type]:
        """Apply the writes; yield the class of each reply."""
        refused = False
        for write in writes:
            reply = self._reply(write, refused)
            refused |= isinstance(write, NewMessage) and issubclass(reply, Exception)
            yield reply

    def _reply(self, write: Write, refused: bool) -> type:
        match write:
            case NewMessage():
                return PrecedingRefusedError if refused else self._append(write)
            case NewStatus():
                return PrecedingRefusedError if refused and write.status is COMPLETED else self._change(write)
            case NewAgent():
                return self._launch(write)
            case AgentPatch():
                return AgentRecord if self.status else AgentNotFoundError

    def _append(self, new: NewMessage) -> type:
        if new.key is not None and (kept := self.kept.get(new.key)):
            return MessageRecord if (kept.type, kept.content) == (new.type, new.content) else IdempotencyConflictError
        if new.type == "whisper":
            return RowRefusedError
        if self.status is None:
            return AgentNotFoundError
        self.head += 1
        self.entries.append((self.head, new.content, new.metadata_json, new.key))
        if new.key is not None:
            self.kept[new.key] = new
        return MessageRecord

    def _change(self, new: NewStatus) -> type:
        if self.status is None:
            return AgentNotFoundError
        if self.status != new.previous:
            return IllegalTransitionError
        if new.status not in TRANSITIONS[new.previous]:
            return RowRefusedError
        self.status = new.status
        self.entries.append((new.previous, new.status, self.head))
        return AgentRecord

    def _launch(self, new: NewAgent) -> type:
        if new.idempotency_key is not None and (kept := self.launched.get(new.idempotency_key)):
            return AgentRecord if kept.prompt == new.prompt else IdempotencyConflictError
        if self.status is not None:
            return AgentExistsError
        self.status = INITIALIZING
        self.entries.append((self.agent, new.prompt, len(new.messages)))
        for message in new.messages:
            self._append(message)
        if new.idempotency_key is not None:
            self.launched[new.idempotency_key] = new
        return AgentRecord


def told(entry: Entry) -> tuple[Any, ...]:
    """An entry as the model writes it."""
    match entry:
        case AgentRecord():
            return entry.id, entry.prompt, entry.head
        case MessageRecord():
            return entry.sequence, entry.content, entry.metadata_json, entry.key
        case StatusChange():
            return entry.previous, entry.status, entry.sequence
    raise AssertionError(entry)


def check(model: Model, writes: list[Write], outcome: Outcome) -> list[int]:
    """Compare one agent's outcome with the model; return the positions it was given."""
    known, head = len(model.entries), model.head

    assert [type(reply) for reply in outcome.replies] == list(model.expect(writes))

    new = model.entries[known:]
    if outcome.committed is None:
        assert new == []
        return []
    committed = outcome.committed
    assert [told(entry) for entry in committed.entries] == new
    assert (committed.agent, committed.previous, committed.last) == (model.agent, head, model.head)
    assert (committed.previous_entry_position, committed.epoch) == (model.previous_entry_position, "e" + model.agent)
    assert committed.size == sum(
        len(message.content.encode()) + len(message.metadata_json or "") for message in committed.messages
    )
    found = [entry.position for entry in committed.entries]
    assert all(one + 1 == other for one, other in pairwise(found))
    model.previous_entry_position = found[-1]
    return found


def own_keys(agent: str, writes: list[Write]) -> AgentWrites:
    """Give launches an epoch and a key of their own agent: which of two agents wins a key depends on the order."""
    return of(
        agent,
        *(
            new_agent(
                *(message.content for message in write.messages),
                epoch="e" + agent,
                prompt=write.prompt,
                idempotency_key=write.idempotency_key and write.idempotency_key + agent,
            )
            if isinstance(write, NewAgent)
            else write
            for write in writes
        ),
    )


def check_batches(database: Database, batches: Batches) -> None:
    """Commit everything to a store and to the models, and compare what can be read in the end."""
    models = {agent: Model(agent) for agent in AGENTS}
    last = 0
    with ExitStack() as stores:
        store = stores.enter_context(database.opened())
        for batch in [batches[0], *batches[1]]:
            if batch == REOPEN:
                if database.is_durable:
                    stores.close()
                    store = stores.enter_context(database.opened())
                continue
            groups = [own_keys(agent, writes) for agent, writes in batch.items()]
            given_out: list[int] = []
            for group, outcome in zip(groups, store.commit(groups), strict=True):
                given_out += check(models[group.agent], group.writes, outcome)
            assert sorted(given_out) == list(range(last + 1, last + 1 + len(given_out)))
            last += len(given_out)
            assert store.position()[0] == last
        for agent, model in models.items():
            if model.status is not None:
                record, entries = store.agent(agent), store.entries(agent, 0, 0).entries
                assert record is not None and (record.status, record.head) == (model.status, model.head)
                assert [told(entry) for entry in entries] == model.entries[1:]
        assert [entry.position for entry in store.feed(0).entries] == list(range(1, last + 1))
    assert database.problems() == []
