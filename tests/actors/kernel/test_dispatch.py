"""Actors on few threads: one at a time, in order, each on its own when it fails, and every ask is answered."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, ClassVar

import pykka
import pytest

from commitcast.actors.kernel.actor import TURN_MESSAGES, Actor
from commitcast.actors.kernel.dispatch import Dispatcher, PinnedActor, ThreadDispatcher
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.loopcalls import call_on_loop
from commitcast.actors.kernel.mailbox import Envelope
from forking import forked, refused
from waiting import wait_until

SECONDS = 10.0


class Says:
    """What the actors of these tests do with a message."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard: list[Any] = []
        self.busy = False
        self.overlaps = 0
        self.ended: list[str] = []

    def on_receive(self, message: Any) -> Any:
        self.overlaps += self.busy
        self.busy = True
        try:
            if isinstance(message, BaseException):
                raise message
            if callable(message):
                return message()
            self.heard.append(message)
            return message
        finally:
            self.busy = False

    def on_stop(self) -> None:
        self.ended.append("stop")

    def on_failure(self, *_: object) -> None:
        self.ended.append("failure")


class Pooled(Says, Actor):
    pass


class Pinned(Says, PinnedActor):
    pass


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    dispatcher = ThreadDispatcher("test", workers=2)
    yield dispatcher
    dispatcher.stop()


@pytest.fixture(params=["pooled", "pinned"])
def actor(request: pytest.FixtureRequest, dispatcher: Dispatcher) -> Iterator[Any]:
    made = Pooled("a", dispatcher) if request.param == "pooled" else Pinned("a")
    made.begin()
    yield made
    made.actor_ref.stop(block=True, timeout=SECONDS)


def test_messages_of_one_sender_are_handled_in_order_and_one_at_a_time(actor: Any) -> None:
    for number in range(5 * TURN_MESSAGES):
        actor.actor_ref.tell(number)

    assert actor.actor_ref.ask("last", timeout=SECONDS) == "last"
    assert actor.heard == [*range(5 * TURN_MESSAGES), "last"]


def test_many_senders_lose_nothing_and_never_overlap(actor: Any) -> None:
    def send(sender: int) -> None:
        for number in range(500):
            actor.actor_ref.tell((sender, number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    actor.actor_ref.ask("last", timeout=SECONDS)

    assert len(actor.heard) == 4_001
    assert actor.overlaps == 0
    for sender in range(8):
        assert [number for who, number in actor.heard[:-1] if who == sender] == list(range(500))


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no")])
def test_an_error_in_an_ask_goes_to_the_asker_and_the_actor_lives(actor: Any, error: Exception) -> None:
    with pytest.raises(type(error)):
        actor.actor_ref.ask(error, timeout=SECONDS)

    assert actor.actor_ref.ask("still here", timeout=SECONDS) == "still here"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_would_end_a_thread_ends_one_actor_and_the_asker_is_told(
    actor: Any, dispatcher: Dispatcher, error: BaseException
) -> None:
    other = Pooled.start("other", dispatcher)

    with pytest.raises(type(error)):
        actor.actor_ref.ask(error, timeout=SECONDS)

    wait_until(lambda: not actor.actor_ref.is_alive(), "the actor to be stopped")
    assert actor.ended == ["failure"]
    assert other.ask("still here", timeout=SECONDS) == "still here"
    other.stop(block=True, timeout=SECONDS)


def test_an_error_in_a_tell_stops_the_actor_and_whoever_waits_is_told(actor: Any) -> None:
    entered, gone_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        gone_on.wait(SECONDS)

    actor.actor_ref.tell(hold)
    entered.wait(SECONDS)
    actor.actor_ref.tell(ValueError("a defect"))
    waiting = actor.actor_ref.ask("too late", block=False)
    gone_on.set()

    with pytest.raises(pykka.ActorDeadError):
        waiting.get(timeout=SECONDS)
    assert actor.ended == ["failure"]


def test_stop_comes_after_what_was_sent_before_it_and_is_answered_every_time(actor: Any) -> None:
    for number in range(100):
        actor.actor_ref.tell(number)

    assert actor.actor_ref.stop(block=True, timeout=SECONDS) is True
    assert actor.actor_ref.stop(block=True, timeout=SECONDS) is False
    assert actor.heard == list(range(100))
    assert actor.ended == ["stop"]
    with pytest.raises(pykka.ActorDeadError):
        actor.actor_ref.tell("too late")


def test_asks_that_race_with_the_stop_are_all_answered(dispatcher: Dispatcher) -> None:
    """Pykka's own threading actor leaves a few of them waiting for ever."""
    for _ in range(50):
        ref = Pooled.start("a", dispatcher)
        barrier = threading.Barrier(4)

        def ask(ref: Any = ref, barrier: threading.Barrier = barrier) -> list[Any]:
            barrier.wait(SECONDS)
            return [ref.ask(number, block=False) for number in range(50)]

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            pool.submit(lambda ref=ref, barrier=barrier: (barrier.wait(SECONDS), ref.stop(block=False)))  # type: ignore[misc]
            futures = [future for asked in asking for future in asked.result(SECONDS)]

        for future in futures:
            try:
                future.get(timeout=SECONDS)
            except pykka.ActorDeadError:
                pass


def test_start_raises_what_on_start_raises(dispatcher: Dispatcher) -> None:
    class Broken(Actor):
        def on_start(self) -> None:
            raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        Broken.start("broken", dispatcher)


def test_a_busy_actor_lets_the_others_have_their_turn(dispatcher: Dispatcher) -> None:
    single = ThreadDispatcher("single", workers=1)
    order: list[str] = []
    busy, quiet = Pooled.start("busy", single), Pooled.start("quiet", single)
    entered, gone_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        gone_on.wait(SECONDS)

    busy.tell(hold)
    entered.wait(SECONDS)
    for _ in range(10 * TURN_MESSAGES):
        busy.tell(lambda: order.append("busy"))
    quiet.tell(lambda: order.append("quiet"))
    gone_on.set()
    busy.ask("last", timeout=SECONDS)
    single.stop()

    assert order.index("quiet") <= TURN_MESSAGES


def test_a_thousand_idle_actors_need_no_threads(dispatcher: Dispatcher) -> None:
    before = threading.active_count()

    actors = [Pooled.start(str(number), dispatcher) for number in range(1_000)]

    assert [actor.ask(number, timeout=SECONDS) for number, actor in enumerate(actors)] == list(range(1_000))
    assert threading.active_count() == before


def test_a_forked_child_has_actors_of_its_own_and_no_answer_that_was_on_its_way_to_the_parent(
    dispatcher: Dispatcher,
) -> None:
    asked: Future[object] = Future()

    def in_the_child() -> str:
        own = ThreadDispatcher("child")
        ref = Pooled.start("a", own)
        answer: str = ref.ask("answered", timeout=SECONDS)
        ref.stop(timeout=SECONDS)
        own.stop()
        return f"{answer} {refused(lambda: asked.get(SECONDS))}"

    with forked(in_the_child) as child:
        assert child.answer() == "answered ForkedRuntimeError"
    asked.set("in the parent")
    assert asked.get(0) == "in the parent"


def test_a_pinned_actor_may_fork_and_its_thread_ends_in_the_child() -> None:
    actor = Pinned("a")
    actor.begin()
    answers: list[str] = []

    def fork() -> None:
        with forked(lambda: "here") as child:
            answers.append(child.answer())

    actor.actor_ref.ask(fork, timeout=SECONDS)
    actor.actor_ref.stop(timeout=SECONDS)

    assert answers == ["here"]


@pytest.mark.parametrize(
    ("where", "is_inline"), [("main", False), ("loop", True), ("plain loop", False), ("thread", True)]
)
def test_a_turn_is_inline_where_nothing_can_interrupt_it(
    dispatcher: ThreadDispatcher, where: str, is_inline: bool
) -> None:
    actor = Pooled("a", dispatcher)
    actor.begin()

    def put() -> tuple[int, int]:
        answer: Future[int] = Future()
        actor.actor_inbox.put(Envelope(threading.get_ident, answer), inline=True)
        return answer.get(SECONDS), threading.get_ident()

    async def put_on_loop() -> tuple[int, int]:
        return put()

    with ThreadPoolExecutor(1) as pool:
        if where == "main":
            handled_on, put_on = put()
        elif where == "loop":
            handled_on, put_on = asyncio.run(put_on_loop())
        elif where == "plain loop":  # Python's own handler of Ctrl-C stays
            with closing(asyncio.new_event_loop()) as loop:
                handled_on, put_on = loop.run_until_complete(put_on_loop())
        else:
            handled_on, put_on = pool.submit(put).result()

    assert (handled_on == put_on) == is_inline
    actor.actor_ref.stop(block=True, timeout=SECONDS)


class Follower(Pooled):
    follows_its_senders: ClassVar[bool] = True


class WokenLoop(asyncio.SelectorEventLoop):
    """Counts how often it is woken, and does at once what it is woken for, like one that takes the interpreter."""

    wakes = 0

    def call_soon_threadsafe(self, callback: Any, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]  # passed on
        self.wakes += 1
        callback()
        return super().call_soon_threadsafe(lambda: None)


@pytest.mark.parametrize("inline", [True, False])
def test_turns_taken_together_wake_a_loop_once_and_what_follows_them_once(
    dispatcher: ThreadDispatcher, inline: bool
) -> None:
    log: list[tuple[str, int]] = []

    def note(what: str) -> None:
        log.append((what, threading.get_ident()))

    follower = Follower("follower", dispatcher)
    follower.begin()
    agents = [Pooled(str(number), dispatcher) for number in range(5)]
    for agent in agents:
        agent.begin()
    with closing(WokenLoop()) as loop:

        def work(number: int) -> None:
            note(f"turn {number}")
            call_on_loop(loop, lambda: note(f"call {number}"))
            follower.actor_ref.tell(lambda: note(f"after {number}"))

        def wake() -> None:
            for number, agent in enumerate(agents):
                agent.actor_ref.tell(partial(work, number))

        dispatcher.run_together(wake, inline=inline)
        wait_until(lambda: len(log) == 15, "the turns and what follows them")

        assert loop.wakes == 1
    turns, after, calls = log[:5], log[5:10], log[10:]
    assert [what for what, _ in turns] == [f"turn {number}" for number in range(5)]
    assert [what for what, _ in after] == [f"after {number}" for number in range(5)]
    assert [what for what, _ in calls] == [f"call {number}" for number in range(5)]
    assert len({thread for _, thread in turns + after}) == 1
    assert (turns[0][1] == threading.get_ident()) == inline


def test_what_does_not_follow_has_its_turn_on_another_thread(dispatcher: ThreadDispatcher) -> None:
    threads: list[int] = []
    first, second = Pooled("first", dispatcher), Pooled("second", dispatcher)
    for actor in (first, second):
        actor.begin()

    def work() -> None:
        second.actor_ref.tell(lambda: threads.append(threading.get_ident()))

    dispatcher.run_together(lambda: first.actor_ref.tell(work), inline=True)
    wait_until(lambda: threads, "the turn")

    assert threads != [threading.get_ident()]


def test_a_child_forked_in_a_turn_wakes_its_loops_itself(dispatcher: ThreadDispatcher) -> None:
    actor = Pooled("a", dispatcher)
    actor.begin()
    seen: list[Any] = []

    def in_the_child() -> str:
        async def waits() -> str:
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            call_on_loop(asyncio.get_running_loop(), lambda: answer.set_result("answered"))
            return await answer

        return asyncio.run(asyncio.wait_for(waits(), SECONDS))

    def fork() -> None:
        with forked(in_the_child) as child:
            seen.append(child.answer())

    dispatcher.run_together(lambda: actor.actor_ref.tell(fork), inline=True)

    assert seen == ["answered"]


def test_a_handler_of_ctrl_c_is_not_asked_for_its_name(dispatcher: ThreadDispatcher) -> None:
    class Handler:
        names = 0

        def __call__(self, *_: object) -> None: ...

        def __repr__(self) -> str:
            self.names += 1
            return "a handler"

    actor, handler = Pooled("a", dispatcher), Handler()
    actor.begin()

    async def scenario() -> tuple[int, int]:
        signal.signal(signal.SIGINT, handler)
        before = handler.names
        actor.actor_inbox.put(Envelope("x"), inline=True)
        return handler.names - before, len(actor.heard)

    usual = signal.getsignal(signal.SIGINT)
    try:
        assert asyncio.run(scenario()) == (0, 1)  # it takes 15 us under `asyncio.run`, for each message
    finally:
        signal.signal(signal.SIGINT, usual)
