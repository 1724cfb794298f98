"""An agent belongs to the host that has created it, from that commit to the commit of its end."""

from collections.abc import Iterator

import pytest

from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.sqlite.opening import MEMORY
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import Write
from stores import (
    COMPLETED,
    FAILED,
    INITIALIZING,
    RUNNING,
    bad_text,
    change,
    new_agent,
    of,
    opened,
    text,
)


class Hosts:
    """Two hosts that write to one store."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.owners = Owners()

    def write(self, owner: str, agent: str, *writes: Write) -> None:
        work = of(agent, *writes)
        self.owners.note(owner, work, self.store.commit([work])[0])


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with opened(MEMORY) as store:
        yield Hosts(store)


def test_it_belongs_to_its_creator_until_its_end(hosts: Hosts) -> None:
    owners = hosts.owners
    assert owners.of("a") is None and owners.may_write("one", "a") and owners.may_write("two", "a")

    hosts.write("one", "a", new_agent())
    hosts.write("one", "a", change(INITIALIZING, RUNNING), text("said"))
    assert owners.of("a") == "one" and owners.may_write("one", "a") and not owners.may_write("two", "a")
    assert (owners.agents("one"), owners.agents("two")) == ({"a"}, set())

    hosts.write("one", "a", text("last"), change(RUNNING, COMPLETED), text("late"))
    assert owners.of("a") is None and owners.may_write("two", "a") and owners.agents("one") == set()


def test_one_that_is_created_and_ended_at_once_belongs_to_nobody(hosts: Hosts) -> None:
    hosts.write("one", "a", new_agent("prompt"), change(INITIALIZING, FAILED, wants_record=False))

    assert hosts.owners.of("a") is None and hosts.owners.agents("one") == set()


def test_an_end_that_was_refused_changes_nothing(hosts: Hosts) -> None:
    hosts.write("one", "a", new_agent())
    hosts.write("one", "a", change(RUNNING, COMPLETED), text("said"))  # it is not running
    hosts.write("one", "a", bad_text(), change(INITIALIZING, COMPLETED), change(INITIALIZING, RUNNING))

    assert hosts.owners.of("a") == "one"


@pytest.mark.parametrize("epoch", ["its own", "of the repeat"])
def test_the_repeat_of_a_launch_by_another_host_changes_nothing(hosts: Hosts, epoch: str) -> None:
    hosts.write("one", "a", new_agent("p", epoch="its own", idempotency_key="k"))
    hosts.write("two", "a", new_agent("p", epoch=epoch, idempotency_key="k"), text("with it"))
    hosts.write("two", "b", new_agent("p", epoch=epoch, idempotency_key="k"))  # the reply is the record of `a`

    assert (hosts.owners.of("a"), hosts.owners.of("b")) == ("one", None)
    assert hosts.owners.agents("two") == set()


def test_what_is_asked_for_is_a_copy(hosts: Hosts) -> None:
    hosts.write("one", "a", new_agent())
    agents = hosts.owners.agents("one")
    hosts.write("one", "a", change(INITIALIZING, FAILED))

    assert agents == {"a"}


def test_nothing_is_kept_of_a_host_whose_agents_have_ended(hosts: Hosts) -> None:
    for agent in "ab":
        hosts.write("one", agent, new_agent())
    for agent in "ab":
        hosts.write("one", agent, change(INITIALIZING, FAILED))

    assert hosts.owners._of == {} and hosts.owners._agents == {}
