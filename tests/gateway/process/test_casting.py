"""What is committed is cast when its host casts it, or when that is late: once, in order, and within bounds."""

import itertools
import threading
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.gateway.process import casting as module
from commitcast.gateway.process.casting import PATIENCE_S, Casting
from commitcast.persistence.records import Committed
from commitcast.persistence.sqlite.opening import MEMORY
from examples import examples
from stores import new_agent, of, opened, proof, text
from waiting import TIMEOUT_S

EPSILON = 1e-6
"""Seconds that what is a sum of others may differ from it."""


class Desk:
    """Commits of some agents by hosts, a clock that a test moves, and what was cast."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cast: list[int] = []
        """Positions."""
        self.calls = 0
        self.casting = Casting(self._publish, lambda: self.now)
        self.casting.is_on = True
        with opened(MEMORY) as store:
            created = store.commit([of(agent, new_agent()) for agent in "abc"])
            more = [store.commit([of(agent, text("x" * 100))])[0] for agent in "abc" * 20]
        self.commits = [proof(outcome) for outcome in (*created, *more)]
        self._next = iter(self.commits)

    def _publish(self, committed: Sequence[Committed]) -> None:
        self.calls += 1
        self.cast += [one.last_position for one in committed]

    def keep(self, host: str, count: int = 1) -> list[int]:
        """Commit something of a host; return the positions."""
        commits = list(itertools.islice(self._next, count))
        self.casting.keep(host, commits)
        return [one.last_position for one in commits]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_host_casts_what_it_has_acknowledged(desk: Desk) -> None:
    positions = desk.keep("one", 3)
    assert desk.cast == []

    desk.casting.cast("one", [positions[1], positions[0]])
    assert desk.cast == [positions[1], positions[0]] and desk.calls == 1  # as it has said, and together
    desk.casting.cast("one", positions)
    assert desk.cast == [positions[1], positions[0], positions[2]]  # each once


def test_nobody_casts_what_is_not_its_own(desk: Desk) -> None:
    positions = desk.keep("one")

    desk.casting.cast("two", positions)
    desk.casting.cast("one", [999])
    assert desk.cast == [] and desk.calls == 0


def test_what_is_late_is_cast_here_in_order_of_positions(desk: Desk) -> None:
    first = desk.keep("one") + desk.keep("two") + desk.keep("one")
    desk.now += PATIENCE_S / 2
    second = desk.keep("two")

    assert desk.casting.cast_late() == pytest.approx(PATIENCE_S / 2, abs=2 * EPSILON) and desk.cast == []
    desk.now += PATIENCE_S / 2 + EPSILON
    assert desk.casting.cast_late() == pytest.approx(PATIENCE_S / 2, abs=2 * EPSILON) and desk.cast == first
    desk.now += PATIENCE_S + EPSILON
    assert desk.casting.cast_late() is None and desk.cast == first + second
    desk.casting.cast("one", first)  # the host goes on
    assert desk.cast == first + second


def test_a_host_that_is_stopped_delays_nobody_else(desk: Desk) -> None:
    desk.keep("stopped")
    own = desk.keep("one")
    desk.casting.cast("one", own)

    assert desk.cast == own


def test_at_the_end_of_a_host_all_of_it_is_cast_at_once(desk: Desk) -> None:
    positions = desk.keep("one", 2)
    desk.keep("two")
    desk.casting.cast_all("one")
    desk.casting.cast_all("one")
    desk.casting.cast_all("three")

    assert desk.cast == positions and desk.calls == 1
    end = desk.keep("one")
    desk.casting.cast_all("one")
    assert desk.cast == positions + end


def test_beyond_the_bound_the_oldest_is_cast_of_whichever_host(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk.keep("one", 3)
    size = desk.casting._bytes
    monkeypatch.setattr(module, "KEPT_BYTES", size + 800)
    desk.now += 0.01
    two = desk.keep("two")
    assert desk.cast == []

    desk.now += 0.01
    desk.keep("three")
    assert desk.cast == one[:1]
    desk.keep("three", 2)
    assert desk.cast == [*one, *two][: len(desk.cast)] and len(desk.cast) >= 3
    assert desk.casting._bytes <= size + 800


def test_one_commit_beyond_the_bound_is_cast_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    positions = desk.keep("one")

    assert desk.cast == positions and desk.casting._bytes == 0


def test_while_nobody_subscribes_nothing_is_kept(desk: Desk) -> None:
    desk.casting.is_on = False
    positions = desk.keep("one")
    desk.casting.is_on = True
    desk.casting.cast("one", positions)

    assert desk.cast == [] and desk.casting.cast_late() is None and desk.casting._bytes == 0


def test_what_was_kept_when_the_last_subscriber_went_is_not_kept_for_ever(desk: Desk) -> None:
    desk.keep("one")
    desk.casting.is_on = False
    desk.now += PATIENCE_S + EPSILON

    assert desk.casting.cast_late() is None and desk.casting._bytes == 0


def test_one_chain_of_looks_is_begun_and_ends_when_nothing_is_kept(desk: Desk) -> None:
    keep = desk.casting.keep
    assert [keep("one", [commit]) for commit in desk.commits[:3]] == [True, False, False]
    assert keep("two", desk.commits[3:4]) is False

    assert desk.casting.cast_late() is not None
    assert keep("one", desk.commits[4:5]) is False
    desk.casting.cast("one", [commit.last_position for commit in desk.commits])
    desk.casting.cast_all("two")
    assert keep("two", desk.commits[5:6]) is False  # the look that is due finds it
    desk.now += PATIENCE_S + EPSILON
    assert desk.casting.cast_late() is None
    assert keep("one", desk.commits[6:7]) is True


moves = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.sampled_from(["one", "two"]), st.integers(1, 3)),
        st.tuples(st.just("cast"), st.sampled_from(["one", "two"]), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, PATIENCE_S / 2, PATIENCE_S]), st.just(0)),
        st.tuples(st.just("end"), st.sampled_from(["one", "two"]), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.sampled
@settings(max_examples=examples(50, 500))
@given(moves=moves, bound=st.sampled_from([module.KEPT_BYTES, 3_000]))
def test_everything_is_cast_once_in_the_order_of_each_agent_and_nothing_waits_too_long(
    moves: list[tuple[str, object, int]], bound: int
) -> None:
    """Each agent belongs to one host, which acknowledges in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT_BYTES", bound)
        desk = Desk()
        commits = {
            "one": [c for c in desk.commits if c.agent != "b"],
            "two": [c for c in desk.commits if c.agent == "b"],
        }
        kept: dict[str, list[Committed]] = {"one": [], "two": []}
        since: dict[int, float] = {}
        acknowledged = {"one": 0, "two": 0}
        for what, which, count in moves:
            if what == "keep":
                new = commits[str(which)][len(kept[str(which)]) :][:count]
                desk.casting.keep(which, new)
                kept[str(which)] += new
                since |= {one.last_position: desk.now for one in new}
            elif what == "cast":
                own = kept[str(which)][acknowledged[str(which)] :][:count]
                acknowledged[str(which)] += len(own)
                desk.casting.cast(which, [one.last_position for one in own])
            elif what == "end":
                desk.casting.cast_all(which)
                assert {one.last_position for one in kept[str(which)]} <= set(desk.cast)
            else:
                assert isinstance(which, float)
                desk.now += which
                desk.casting.cast_late()
                late = {position for position, at in since.items() if desk.now - at >= PATIENCE_S + EPSILON}
                assert late <= set(desk.cast)
            assert desk.casting._bytes <= bound
        for host in kept:
            desk.casting.cast_all(host)

    check_order(desk, [*kept["one"], *kept["two"]])
    assert desk.casting._bytes == 0


def check_order(desk: Desk, kept: Iterable[Committed]) -> None:
    agents = {one.last_position: one.agent for one in kept}
    assert sorted(desk.cast) == sorted(agents)
    for agent in "abc":
        of_agent = [position for position in desk.cast if agents[position] == agent]
        assert of_agent == sorted(of_agent)


def test_what_one_thread_casts_is_not_overtaken_by_what_another_casts_next(desk: Desk) -> None:
    """A host casts, and at that moment what it has acknowledged next is late."""
    first, second = desk.keep("one", 2)
    is_casting, is_overtaken = threading.Event(), threading.Event()
    publish = desk._publish

    def slowly(committed: Sequence[Committed]) -> None:
        if committed[0].last_position == first:
            is_casting.set()
            is_overtaken.wait(0.02)
        publish(committed)

    def late() -> None:
        is_casting.wait(TIMEOUT_S)
        desk.now += PATIENCE_S + EPSILON
        desk.casting.cast_late()
        is_overtaken.set()

    desk.casting._publish = slowly
    other = threading.Thread(target=late)
    other.start()
    desk.casting.cast("one", [first])
    other.join(TIMEOUT_S)

    assert desk.cast == [first, second]
