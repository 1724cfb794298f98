"""Agents by the refs of their actors: what a Pykka user knows works, beside the directory that finds them by id."""

from collections.abc import Iterator

import pykka
import pytest

from by_hand import Office
from commitcast.actors.messages import Complete, Emit, Start, Terminate
from commitcast.actors.testing import Probe
from commitcast.persistence import AgentStatus
from stores import new_agent, of, opened, text


@pytest.fixture
def office() -> Iterator[Office]:
    """A runtime's actors around one running agent, `a`."""
    with opened(":memory:") as store:
        store.commit([of("a", new_agent())])
        office = Office(store)
        started = office.directory.ask("a", Start())
        office.run()
        assert started.get(0).status is AgentStatus.RUNNING
        yield office


def emit(office: Office, content: str) -> Emit:
    """A message that was counted, as a handle counts it."""
    message = text(content)
    assert office.credit.try_acquire("a", message.size)
    return Emit(message)


def test_an_agent_takes_tells_and_asks_and_gives_its_answers(office: Office) -> None:
    ref = office.made[0].actor_ref

    ref.tell(emit(office, "told"))
    asked = ref.ask(emit(office, "asked"), block=False)
    office.run()
    ended = ref.ask(Complete('"well"'), block=False)
    office.run()

    assert asked.get(0).sequence == 2
    assert ended.get(0).status is AgentStatus.COMPLETED
    heard = office.gateway.heard
    assert [message.content for told in heard for message in told.messages] == ["told", "asked"]
    assert [change.status for told in heard for change in told.changes] == ["running", "completed"]


def test_an_agent_is_watched_and_stopped_like_any_actor(office: Office) -> None:
    ref = office.made[0].actor_ref
    probe = Probe(dispatcher=office.dispatcher)
    ref.watch(probe.ref.tell)
    told = ref.ask(emit(office, "before the stop"), block=False)

    stopping = ref.stop(block=False)
    office.run()

    assert stopping.get(0) is True and not ref.is_alive()
    assert told.exception(0) is not None  # it did not wait for the database: a runtime ends its agents first
    assert [stopped.name for stopped in probe.received] == ["a"]


def test_a_ref_ends_with_its_actor_and_the_id_does_not(office: Office) -> None:
    """Why handles go by id: an agent with nothing to do costs no actor, and its next message makes one."""
    ref = office.made[0].actor_ref
    ref.tell(Terminate())
    office.run()

    with pytest.raises(pykka.ActorDeadError):
        ref.tell(Start())
    late = office.emit("a", "a late result")
    office.run()

    assert late.get(0).sequence == 1
    assert len(office.made) == 2 and not ref.is_alive()
