"""Actors: their bound, their end, who is told of it, and an answer for everybody who asks, whatever happens."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pykka
import pytest

from by_hand import HandDispatcher, Listener
from commitcast.actors.errors import FutureCancelledError, MailboxFullError
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.dispatch import PinnedActor, ThreadDispatcher
from commitcast.actors.kernel.ref import ActorStopped
from waiting import TIMEOUT_S, wait_until


class Bounded(Listener):
    """Takes three messages at a time."""

    mailbox_limit_messages = 3


@pytest.fixture
def dispatcher() -> HandDispatcher:
    return HandDispatcher()


def started(actor: Any) -> Any:
    actor.begin()
    return actor


class TestBegin:
    def test_an_actor_begins_once(self, dispatcher: HandDispatcher) -> None:
        starts: list[Actor] = []

        class Counted(Bounded):
            def on_start(self) -> None:
                starts.append(self)

        actor = started(Counted("b", dispatcher))

        with pytest.raises(RuntimeError, match=r"Counted-b .* begins once"):
            actor.begin()
        actor.stop()
        dispatcher.run()
        with pytest.raises(RuntimeError, match="make another one"):
            actor.begin()

        assert starts == [actor]
        assert actor.ended == ["stop"]

    def test_one_that_could_not_start_is_not_begun_again(self, dispatcher: HandDispatcher) -> None:
        class Failing(Actor):
            def on_start(self) -> None:
                raise OSError("no disk")

        actor = Failing("f", dispatcher)
        with pytest.raises(OSError, match="no disk"):
            actor.begin()

        with pytest.raises(RuntimeError, match="begins once"):
            actor.begin()


class TestTheBound:
    def test_at_the_limit_a_tell_is_refused_in_words_and_nothing_is_lost_or_reordered(
        self, dispatcher: HandDispatcher
    ) -> None:
        actor = started(Bounded("b", dispatcher))
        for number in range(3):
            actor.actor_ref.tell(number)

        with pytest.raises(MailboxFullError, match=r"the mailbox of Bounded-b .* is full .3 messages") as refused:
            actor.actor_ref.tell("one too many")
        dispatcher.run()
        actor.actor_ref.tell("room again")
        dispatcher.run()

        assert refused.value.retryable and refused.value.limit_messages == 3
        assert actor.heard == [0, 1, 2, "room again"]
        assert dispatcher.dead_letters.count == 0  # the sender was told

    def test_at_the_limit_an_ask_is_answered_with_the_refusal(self, dispatcher: HandDispatcher) -> None:
        actor = started(Bounded("b", dispatcher))
        answers = [actor.actor_ref.ask(number, block=False) for number in range(5)]

        dispatcher.run()

        assert [answer.get(0) for answer in answers[:3]] == [0, 1, 2]
        assert [type(answer.exception(0)) for answer in answers[3:]] == [MailboxFullError] * 2
        assert actor.heard == [0, 1, 2]

    def test_watch_and_stop_pass_a_full_mailbox_and_come_after_what_was_sent_before(
        self, dispatcher: HandDispatcher
    ) -> None:
        actor = started(Bounded("b", dispatcher))
        told: list[ActorStopped] = []
        for number in range(3):
            actor.actor_ref.tell(number)

        actor.actor_ref.watch(told.append)
        stopping = actor.actor_ref.stop(block=False)
        assert not stopping.done() and told == []
        dispatcher.run()

        assert stopping.get(0) is True
        assert actor.heard == [0, 1, 2]
        assert len(told) == 1

    def test_an_actor_at_its_limit_can_stop_itself(self, dispatcher: HandDispatcher) -> None:
        actor = started(Bounded("b", dispatcher))

        def stop() -> None:
            for number in range(3):
                actor.actor_ref.tell(number)
            actor.stop()

        actor.actor_ref.tell(stop)
        dispatcher.run()

        assert actor.heard == [0, 1, 2]
        assert actor.ended == ["stop"]

    def test_many_senders_at_the_limit_lose_only_what_they_were_told_of(self) -> None:
        senders = 4
        threads = ThreadDispatcher("test")
        actor = started(Bounded("b", threads))

        def send(sender: int) -> list[int]:
            accepted = []
            for number in range(300):
                try:
                    actor.actor_ref.tell((sender, number))
                    accepted.append(number)
                except MailboxFullError:
                    pass
            return accepted

        with ThreadPoolExecutor(senders) as pool:
            accepted = list(pool.map(send, range(senders)))
        actor.actor_ref.stop(timeout=TIMEOUT_S)
        threads.stop()

        for sender in range(senders):
            assert [number for who, number in actor.heard if who == sender] == accepted[sender]


class TestCancelling:
    def test_a_cancelled_ask_is_not_handled_and_what_belongs_to_it_is_given_back(
        self, dispatcher: HandDispatcher
    ) -> None:
        actor = started(Listener("a", dispatcher))
        cancelled, kept = (actor.actor_ref.ask(what, block=False) for what in ("cancelled", "kept"))

        assert cancelled.cancel()
        dispatcher.run()

        assert isinstance(cancelled.exception(0), FutureCancelledError)
        assert kept.get(0) == "kept"
        assert (actor.heard, actor.dropped) == (["kept"], ["cancelled"])

    def test_an_ask_that_was_handled_cannot_be_cancelled(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        asked = actor.actor_ref.ask("handled", block=False)
        dispatcher.run()

        assert not asked.cancel()
        assert asked.get(0) == "handled" and actor.dropped == []

    def test_a_cancelled_ask_does_not_keep_those_behind_it_from_their_answers(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.watch(told.append)
        actor.actor_ref.tell(ValueError("a defect"))
        cancelled = actor.actor_ref.ask("taken back", block=False)
        behind = actor.actor_ref.ask("behind it", block=False)
        cancelled.cancel()

        dispatcher.run()

        assert isinstance(behind.exception(0), pykka.ActorDeadError)
        assert len(told) == 1

    def test_a_cancelled_stop_leaves_no_traceback_in_the_log(
        self, dispatcher: HandDispatcher, caplog: pytest.LogCaptureFixture
    ) -> None:
        actor = started(Listener("a", dispatcher))
        stopping = actor.actor_ref.stop(block=False)
        stopping.cancel()

        dispatcher.run()

        assert "callback failed" not in caplog.text


class TestWatching:
    @pytest.mark.parametrize("error", [ValueError("a defect"), SystemExit(3), asyncio.CancelledError()])
    def test_who_watches_is_told_once_and_why(self, dispatcher: HandDispatcher, error: BaseException) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.watch(told.append)

        actor.actor_ref.tell(error)
        dispatcher.run()
        actor.actor_ref.stop(block=False)
        dispatcher.run()

        assert [(stopped.name, stopped.urn, stopped.error) for stopped in told] == [
            ("a", actor.actor_ref.actor_urn, error)
        ]

    def test_of_a_stop_there_is_no_error_to_be_told(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.watch(told.append)

        actor.actor_ref.stop(block=False)
        dispatcher.run()

        assert [stopped.error for stopped in told] == [None]

    def test_who_watches_a_dead_actor_is_told_at_once(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        actor.actor_ref.stop(block=False)
        dispatcher.run()
        told: list[ActorStopped] = []

        actor.actor_ref.watch(told.append)

        assert [stopped.error for stopped in told] == [None]

    def test_who_watches_behind_the_message_that_ends_it_is_told_too(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.tell(ValueError("a defect"))
        actor.actor_ref.watch(told.append)

        dispatcher.run()

        assert len(told) == 1

    def test_a_watcher_that_raises_harms_neither_the_others_nor_the_end(
        self, dispatcher: HandDispatcher, caplog: pytest.LogCaptureFixture
    ) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []
        actor.actor_ref.watch(lambda _: 1 / 0)
        actor.actor_ref.watch(told.append)

        stopping = actor.actor_ref.stop(block=False)
        dispatcher.run()

        assert stopping.get(0) is True
        assert len(told) == 1
        assert "ZeroDivisionError" in caplog.text

    def test_another_actor_can_be_told_by_message(self, dispatcher: HandDispatcher) -> None:
        watched, watcher = started(Listener("watched", dispatcher)), started(Listener("watcher", dispatcher))
        watched.actor_ref.watch(watcher.actor_ref.tell)

        watched.actor_ref.stop(block=False)
        dispatcher.run()

        assert [stopped.name for stopped in watcher.heard] == ["watched"]


class TestTheEnd:
    def test_an_actor_says_its_last_words_before_anybody_is_told(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        ended: list[list[str]] = []
        actor.actor_ref.watch(lambda _: ended.append(list(actor.ended)))

        actor.actor_ref.tell(ValueError("a defect"))
        dispatcher.run()

        assert ended == [["failure"]]

    def test_an_error_at_the_end_of_a_turn_is_one_of_the_actor(self, dispatcher: HandDispatcher) -> None:
        class Collects(Listener):
            def on_turn_end(self) -> None:
                raise OSError("at the end of the turn")

        actor = started(Collects("a", dispatcher))
        answer = actor.actor_ref.ask("handled well", block=False)
        stopping = actor.actor_ref.stop(block=False)

        dispatcher.run()

        assert answer.get(0) == "handled well"
        assert stopping.done()
        assert not actor.actor_ref.is_alive() and actor.ended == ["failure"]

    def test_an_error_after_its_end_ends_it_no_second_time(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))

        def end_and_fail() -> None:
            actor.stop_now()
            raise OSError("after the end")

        actor.actor_ref.tell(end_and_fail)
        dispatcher.run()

        assert actor.ended == ["stop"]
        assert not actor.actor_ref.is_alive()

    def test_an_actor_that_stops_itself_at_its_start_takes_no_turn(self, dispatcher: HandDispatcher) -> None:
        class Declines(Listener):
            def on_start(self) -> None:
                self.stop_now()

        ref = Declines.start("a", dispatcher)
        dispatcher.run()

        assert not ref.is_alive()
        with pytest.raises(pykka.ActorDeadError):
            ref.ask("too late", timeout=0)

    def test_a_stopped_actor_refuses_in_words(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        actor.actor_ref.stop(block=False)
        dispatcher.run()

        with pytest.raises(pykka.ActorDeadError):
            actor.actor_ref.tell("too late")
        with pytest.raises(pykka.ActorDeadError):
            actor.actor_ref.ask("too late", timeout=0)
        assert actor.actor_ref.stop() is False

    def test_an_answer_may_come_after_the_turn(self, dispatcher: HandDispatcher) -> None:
        actor = started(Listener("a", dispatcher))
        askers: list[Any] = []
        answer = actor.actor_ref.ask(lambda: askers.append(actor.defer_reply()), block=False)
        dispatcher.run()
        assert not answer.done()

        askers[0].set("later")

        assert answer.get(0) == "later"

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
    def test_a_watcher_that_raises_anything_ends_no_thread(
        self, dispatcher: HandDispatcher, error: BaseException
    ) -> None:
        actor = started(Listener("a", dispatcher))
        told: list[ActorStopped] = []

        def raises(_: ActorStopped) -> None:
            raise error

        actor.actor_ref.watch(raises)
        actor.actor_ref.watch(told.append)
        actor.actor_ref.tell(ValueError("a defect"))

        dispatcher.run()

        assert len(told) == 1

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
    def test_last_words_that_raise_anything_end_no_thread(
        self, dispatcher: HandDispatcher, error: BaseException
    ) -> None:
        class Grumbles(Listener):
            def on_failure(self, *_: object) -> None:
                raise error

        actor = started(Grumbles("a", dispatcher))
        actor.actor_ref.tell(ValueError("a defect"))
        waiting = actor.actor_ref.ask("too late", block=False)

        dispatcher.run()

        assert isinstance(waiting.exception(0), pykka.ActorDeadError)


class Pinned(PinnedActor):
    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message


class TestRaces:
    @pytest.fixture
    def threads(self) -> Iterator[ThreadDispatcher]:
        threads = ThreadDispatcher("test")
        yield threads
        threads.stop()

    @pytest.mark.parametrize("kind", ["pooled", "pinned"])
    @pytest.mark.parametrize(
        "end", [ValueError("a defect"), SystemExit(3), asyncio.CancelledError(), None], ids=lambda e: type(e).__name__
    )
    def test_asks_that_race_with_the_end_are_all_answered_in_order(
        self, threads: ThreadDispatcher, end: BaseException | None, kind: str
    ) -> None:
        for _ in range(15):
            actor: Actor = Listener("a", threads) if kind == "pooled" else Pinned("a")
            ref = started(actor).actor_ref
            barrier = threading.Barrier(4)

            def ask(ref: Any = ref, barrier: threading.Barrier = barrier) -> list[Any]:
                barrier.wait(TIMEOUT_S)
                return [ref.ask(number, block=False) for number in range(40)]

            def finish(ref: Any = ref, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(TIMEOUT_S)
                if end is None:
                    ref.stop(block=False)
                else:
                    ref.tell(end)

            with ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(ask) for _ in range(3)]
                pool.submit(finish)
                askers = [asked.result(TIMEOUT_S) for asked in asking]

            for futures in askers:
                errors = [future.exception(TIMEOUT_S) for future in futures]
                assert all(isinstance(error, pykka.ActorDeadError) for error in errors if error is not None)
                handled = [error is None for error in errors]
                assert handled == sorted(handled, reverse=True)  # no later one was handled when an earlier was not
            wait_until(lambda ref=ref: not ref.is_alive(), "the actor to be gone")  # type: ignore[misc]

    def test_of_cancelling_and_handling_exactly_one_happens(self, threads: ThreadDispatcher) -> None:
        actor = started(Listener("a", threads))

        futures = [actor.actor_ref.ask(number, block=False) for number in range(2_000)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: [future.cancel() for future in half], (futures[::2], futures[1::2])))
        actor.actor_ref.stop(timeout=TIMEOUT_S)
        cancelled = [isinstance(future.exception(0), FutureCancelledError) for future in futures]

        handled = [number for number, was in enumerate(cancelled) if not was]
        assert actor.heard == handled
        assert len(actor.dropped) == 2_000 - len(handled)
