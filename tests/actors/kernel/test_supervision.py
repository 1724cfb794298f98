"""Supervision: how often something is started again is decided purely, and done behind the same ref."""

from typing import Any

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from by_hand import HandDispatcher, Listener
from commitcast.actors.kernel.ref import ActorStopped
from commitcast.actors.kernel.supervision import RestartPolicy, Restarts, Supervisor
from commitcast.persistence import InvalidValueError

POLICY = RestartPolicy(intensity=3, period_s=100, backoff_s=1, max_backoff_s=3)


class TestThePolicy:
    def test_it_is_known_by_its_kind_or_given_whole(self) -> None:
        assert RestartPolicy.of("never") == RestartPolicy(kind="never")
        assert RestartPolicy.of("on_failure") == RestartPolicy()
        assert RestartPolicy.of(POLICY) is POLICY

    @pytest.mark.parametrize(
        "value",
        [
            "always",
            "",
            None,
            True,
            5,
            RestartPolicy(kind="always"),  # type: ignore[arg-type]
            RestartPolicy(intensity=-1),
            RestartPolicy(period_s=-0.1),
            RestartPolicy(backoff_s=float("nan")),
            RestartPolicy(max_backoff_s=-1),
            RestartPolicy(intensity="5"),  # type: ignore[arg-type]
            RestartPolicy(backoff_s=None),  # type: ignore[arg-type]
            RestartPolicy(backoff_s=float("inf"), max_backoff_s=float("inf")),
        ],
    )
    def test_anything_else_is_refused_in_one_sentence(self, value: Any) -> None:
        with pytest.raises(InvalidValueError) as refused:
            RestartPolicy.of(value)

        assert "\n" not in str(refused.value) and "restart" in str(refused.value)


class TestCounting:
    def test_the_backoff_doubles_up_to_its_maximum_and_one_failure_more_is_not_answered(self) -> None:
        restarts = Restarts(RestartPolicy(intensity=5, period_s=100, backoff_s=1, max_backoff_s=5))

        delays = [restarts.after_failure(number) for number in range(6)]

        assert delays == [1, 2, 4, 5, 5, None]
        assert restarts.count == 5

    def test_what_is_longer_ago_than_the_period_counts_no_more(self) -> None:
        restarts = Restarts(RestartPolicy(intensity=1, period_s=10, backoff_s=1))

        assert [restarts.after_failure(now) for now in (0, 9, 10, 19, 21)] == [1, None, 1, None, 1]

    def test_never_means_never(self) -> None:
        restarts = Restarts(RestartPolicy(kind="never"))

        assert restarts.after_failure(0) is None
        assert restarts.count == 0

    @given(
        intensity=st.integers(0, 5),
        period=st.integers(0, 20),
        steps=st.lists(st.integers(0, 8), max_size=60),
    )
    def test_in_no_period_are_there_more_restarts_than_the_intensity(
        self, intensity: int, period: int, steps: list[int]
    ) -> None:
        policy = RestartPolicy(intensity=intensity, period_s=period, backoff_s=1, max_backoff_s=6)
        restarts = Restarts(policy)
        now, at = 0, []

        for step in steps:
            now += step
            delay_s = restarts.after_failure(now)
            if delay_s is not None:
                at.append(now)
                assert 1 <= delay_s <= 6
            else:
                assert sum(now - period < other <= now for other in at) >= intensity  # refused with reason only

        assert restarts.count == len(at)
        for begin in at:
            assert sum(begin <= other < begin + period for other in at) <= intensity or period == 0

    def test_the_backoff_of_a_thing_that_failed_a_thousand_times_is_still_its_maximum(self) -> None:
        restarts = Restarts(RestartPolicy(intensity=5_000, period_s=1e9, backoff_s=0.001, max_backoff_s=2.0))

        delays = [restarts.after_failure(float(number)) for number in range(1_500)]

        assert delays[-1] == 2.0


class Child:
    """A supervised listener, its makes and what was escalated."""

    def __init__(self, policy: RestartPolicy = POLICY) -> None:
        self.dispatcher = HandDispatcher()
        self.heard: list[Any] = []
        self.made: list[Listener] = []
        self.escalated: list[tuple[str, BaseException]] = []
        self.told: list[ActorStopped] = []
        self.fails_to_start = 0
        self.supervisor = Supervisor(
            "child", self._make, policy, self.dispatcher, lambda *what: self.escalated.append(what)
        )
        self.ref = self.supervisor.start()
        self.ref.watch(self.told.append)

    def _make(self) -> Listener:
        child = self

        class Starts(Listener):
            def on_start(self) -> None:
                if child.made and child.fails_to_start:
                    child.fails_to_start -= 1
                    raise OSError("no such device")

        made = Starts("child", self.dispatcher, self.heard)
        self.made.append(made)
        return made

    def fail(self, error: BaseException | None = None) -> BaseException:
        error = error or ValueError("a defect")
        self.ref.tell(error)
        self.dispatcher.run()
        return error


class TestTheSupervisor:
    def test_what_waited_and_what_came_meanwhile_is_handled_after_the_restart_in_order(self) -> None:
        child = Child()
        urn = child.ref.actor_urn
        child.ref.tell(ValueError("a defect"))
        child.ref.tell("waited")
        child.dispatcher.run()
        asked = child.ref.ask("came meanwhile", block=False)
        child.dispatcher.advance(0.9)
        assert child.heard == [] and not asked.done()

        child.dispatcher.advance(0.1)

        assert child.heard == ["waited", "came meanwhile"]
        assert asked.get(0) == "came meanwhile"
        assert child.ref.is_alive() and child.ref.actor_urn == urn
        assert len(child.made) == 2 and child.made[0].ended == ["failure"]
        assert child.supervisor.restarts.count == 1

    @pytest.mark.parametrize("error", [ValueError("a defect"), SystemExit(3)])
    def test_each_failure_waits_twice_as_long_and_one_too_many_escalates_with_its_error(
        self, error: BaseException
    ) -> None:
        child = Child()
        for _ in range(3):
            child.fail()
            child.dispatcher.advance(3)

        last = child.fail(error)

        assert child.dispatcher.delays == [1, 2, 3]
        assert child.escalated == [("child", last)]
        assert not child.ref.is_alive()
        with pytest.raises(pykka.ActorDeadError):
            child.ref.tell("anybody?")

    def test_what_waits_when_it_is_given_up_is_answered(self) -> None:
        child = Child(RestartPolicy(kind="never"))
        child.ref.tell(ValueError("a defect"))
        asked = child.ref.ask("waited", block=False)
        child.ref.tell("told")

        child.dispatcher.run()

        assert isinstance(asked.exception(0), pykka.ActorDeadError)
        assert child.dispatcher.dead_letters.count == 1
        assert len(child.escalated) == 1

    def test_an_error_that_goes_to_an_asker_restarts_nothing(self) -> None:
        child = Child()

        asked = child.ref.ask(ValueError("the asker's"), block=False)
        child.dispatcher.run()

        assert isinstance(asked.exception(0), ValueError)
        assert child.supervisor.restarts.count == 0 and len(child.made) == 1

    def test_who_watches_is_told_nothing_of_a_restart_and_once_of_the_end(self) -> None:
        child = Child()
        child.fail()
        child.dispatcher.advance(1)
        assert child.told == []

        child.ref.stop(block=False)
        child.dispatcher.run()

        assert [stopped.error for stopped in child.told] == [None]

    def test_who_watches_is_told_the_error_for_which_it_was_given_up(self) -> None:
        child = Child(RestartPolicy(intensity=1, backoff_s=1))
        child.fail()
        child.dispatcher.advance(1)

        last = child.fail()

        assert [stopped.error for stopped in child.told] == [last]

    def test_a_watch_during_the_backoff_is_kept(self) -> None:
        child = Child()
        child.fail()
        told: list[ActorStopped] = []
        child.ref.watch(told.append)
        child.dispatcher.advance(1)
        assert told == []

        child.ref.stop(block=False)
        child.dispatcher.run()

        assert len(told) == 1

    def test_a_stop_during_the_backoff_is_carried_out_after_it(self) -> None:
        child = Child()
        child.fail()
        stopping = child.ref.stop(block=False)

        child.dispatcher.advance(1)

        assert stopping.get(0) is True
        assert child.made[1].ended == ["stop"] and not child.ref.is_alive()

    def test_a_start_that_fails_counts_as_one_more_failure(self) -> None:
        child = Child()
        child.fails_to_start = 1
        child.fail()
        child.ref.tell("waited")

        child.dispatcher.advance(1 + 2)

        assert child.dispatcher.delays == [1, 2]
        assert child.heard == ["waited"]
        assert child.supervisor.restarts.count == 2

    def test_starts_that_go_on_failing_end_in_an_escalation_and_everybody_is_answered(self) -> None:
        child = Child()
        child.fails_to_start = 100
        child.fail()
        asked = child.ref.ask("anybody?", block=False)

        child.dispatcher.advance(100)

        assert [name for name, _ in child.escalated] == ["child"]
        assert isinstance(child.escalated[0][1], OSError)
        assert isinstance(asked.exception(0), pykka.ActorDeadError)
        assert len(child.told) == 1 and isinstance(child.told[0].error, OSError)

    def test_the_first_start_that_fails_is_raised_to_the_one_who_starts_it(self) -> None:
        dispatcher = HandDispatcher()

        class Broken(Listener):
            def on_start(self) -> None:
                raise OSError("no such device")

        supervisor = Supervisor("child", lambda: Broken("child", dispatcher), POLICY, dispatcher, lambda *_: None)

        with pytest.raises(OSError, match="no such device"):
            supervisor.start()

        assert dispatcher.delays == []


class TestAStartThatFails:
    def supervised(self, dispatcher: HandDispatcher, error: BaseException) -> tuple[Any, list[str]]:
        made: list[Listener] = []
        escalated: list[str] = []

        class FailsToStart(Listener):
            def on_start(self) -> None:
                if len(made) > 1:
                    raise error

        def make() -> Listener:
            made.append(FailsToStart("child", dispatcher))
            return made[-1]

        policy = RestartPolicy(intensity=1)
        ref = Supervisor("child", make, policy, dispatcher, lambda name, _: escalated.append(name)).start()
        ref.tell(ValueError("a defect"))
        dispatcher.run()
        return ref, escalated

    def test_a_child_that_was_given_up_after_a_failed_start_can_still_be_watched(self) -> None:
        dispatcher = HandDispatcher()
        ref, escalated = self.supervised(dispatcher, OSError("no such device"))
        dispatcher.advance(100)
        told: list[ActorStopped] = []

        ref.watch(told.append)

        assert escalated == ["child"]
        assert len(told) == 1

    def test_a_child_whose_start_tries_to_end_the_thread_is_given_up_too(self) -> None:
        dispatcher = HandDispatcher()
        ref, escalated = self.supervised(dispatcher, SystemExit(3))
        waiting = ref.ask("anybody?", block=False)

        dispatcher.advance(100)

        assert escalated == ["child"]
        assert isinstance(waiting.exception(0), pykka.ActorDeadError)
