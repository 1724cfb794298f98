"""The loop of connections: calls in order on its thread, timers and descriptors. No error in a callback ends it."""

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial

import pytest

from commitcast.persistence import fork
from commitcast.persistence.remote import loop as loops
from commitcast.persistence.remote.loop import GONE, READ, WRITE, Loop
from looping import each, on_loop, running
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that runs on another thread."""
    loop = Loop()
    with running(loop):
        yield loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_calls_are_made_in_order_on_the_thread_of_the_loop(loop: Loop) -> None:
    seen: list[tuple[int, int]] = []
    for number in range(100):
        loop.call(lambda number=number: seen.append((number, threading.get_ident())))  # type: ignore[misc]

    thread = on_loop(loop, threading.get_ident)

    assert seen == [(number, thread) for number in range(100)]
    assert thread != threading.get_ident()


def test_a_call_that_is_made_in_a_call_comes_after_those_that_wait_and_is_not_left_waiting(loop: Loop) -> None:
    seen: list[str] = []
    done = threading.Event()

    def first() -> None:
        loop.call(each(lambda: seen.append("inner"), done.set))
        seen.append("first")

    on_loop(loop, each(lambda: loop.call(first), lambda: loop.call(lambda: seen.append("second"))))

    assert done.wait(TIMEOUT_S)
    assert seen == ["first", "second", "inner"]


def test_calls_of_many_threads_are_all_made(loop: Loop) -> None:
    counts = [0] * 8

    def count(thread: int) -> None:
        counts[thread] += 1

    threads = [
        threading.Thread(target=lambda number=number: [*map(loop.call, [lambda: count(number)] * 200)])
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    wait_until(lambda: counts == [200] * 8, "all calls", show=lambda: counts)


def test_a_call_in_a_signal_handler_of_the_thread_that_polls_is_made() -> None:
    """The server's loop is on its main thread. There is nothing else that would wake it."""
    loop = Loop()
    seen: list[str] = []

    def call() -> None:
        seen.append("called")
        loop.stop()

    before = signal.signal(signal.SIGUSR1, lambda *_: loop.call(call))
    limit = loop.call_later(TIMEOUT_S, loop.stop)
    killer = threading.Thread(target=each(lambda: wait_until(lambda: loop._is_polling, "it to poll"), _kill))
    try:
        killer.start()
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
        killer.join(TIMEOUT_S)
        loop.close()

    assert seen == ["called"]
    assert limit.due > time.monotonic()  # it was not the limit that ended it


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_timers_fire_in_order_of_their_time_and_a_cancelled_one_does_not(loop: Loop) -> None:
    seen: list[str] = []
    done = threading.Event()

    def begin() -> None:
        loop.call_later(0.5, each(lambda: seen.append("third"), done.set))
        loop.call_later(0.0, lambda: seen.append("first"))
        cancelled = loop.call_later(0.005, lambda: seen.append("cancelled"))
        loop.call_later(0.01, lambda: loop.call_later(0.0, lambda: seen.append("second")))
        cancelled.cancel()
        cancelled.cancel()

    loop.call(begin)

    assert done.wait(TIMEOUT_S)
    assert seen == ["first", "second", "third"]


def test_timers_of_the_same_time_fire_in_the_order_in_which_they_were_set() -> None:
    loop, seen = Loop(), list[int]()
    now = time.monotonic()
    for number in range(50):
        loop.call_later(0.0, lambda number=number: seen.append(number)).due = now  # type: ignore[misc]
    loop.call_later(0.0, loop.stop)
    loop.run()
    loop.close()

    assert seen == sorted(seen) and len(seen) == 50


def test_what_a_callback_raises_ends_nothing(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fired = threading.Event()

    def fails(*_: object) -> None:
        raise ValueError("a defect")

    def begin() -> None:
        loop.after_events = fails
        loop.watch(ours.fileno(), each(lambda: ours.recv(10), fails))
        loop.call_later(0.0, fails)
        loop.call_later(0.01, fired.set)
        loop.call(fails)

    loop.call(begin)
    theirs.send(b"x")

    assert fired.wait(TIMEOUT_S)
    assert on_loop(loop, lambda: "still here") == "still here"
    on_loop(loop, lambda: loop.forget(ours.fileno()))


def test_it_is_logged(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        on_loop(loop, lambda: loop.call(lambda: 1 / 0))
        on_loop(loop, lambda: None)

    assert "ZeroDivisionError" in caplog.text


def test_after_each_round_of_events_it_calls_once() -> None:
    rounds: list[int] = []
    loop = Loop()
    with running(loop):
        on_loop(loop, lambda: setattr(loop, "after_events", lambda: rounds.append(1)))
        before = on_loop(loop, lambda: len(rounds))
        after = on_loop(loop, lambda: len(rounds))

    assert after >= before + 1


def test_a_descriptor_that_another_handler_has_just_forgotten_gets_no_event() -> None:
    """Both are ready in the same round; the first closes the second."""
    loop, seen = Loop(), list[int]()
    pairs = [socket.socketpair() for _ in range(2)]
    ours = [pair[0] for pair in pairs]

    def on_events(number: int) -> None:
        seen.append(number)
        for connection in ours:
            loop.forget(connection.fileno())
        loop.stop()

    for number, (one, other) in enumerate(pairs):
        loop.watch(one.fileno(), lambda events, number=number: on_events(number))  # type: ignore[misc]
        other.send(b"x")
    loop.run()
    loop.close()
    for one, other in pairs:
        one.close()
        other.close()

    assert len(seen) == 1


def test_it_watches_for_what_it_is_told(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    seen: list[int] = []

    def on_events(events: int) -> None:
        seen.append(events)
        loop.change(ours.fileno(), READ)

    loop.call(lambda: loop.watch(ours.fileno(), on_events, READ | WRITE))
    wait_until(lambda: seen, "it to be writable")
    on_loop(loop, lambda: None)
    assert seen == [WRITE]

    theirs.send(b"x")
    wait_until(lambda: len(seen) > 1, "it to be readable")
    assert seen[1] == READ
    forget = partial(loop.forget, ours.fileno())
    on_loop(loop, each(forget, forget))


def test_a_call_after_its_end_writes_to_nothing_that_has_its_descriptor_now() -> None:
    loop = Loop()
    with running(loop):
        number = loop._waking.descriptor
    others = []
    while number not in others:
        others.append(os.memfd_create("of the host"))
    try:
        loop.call(lambda: None)
        loop.stop()

        assert os.fstat(number).st_size == 0
    finally:
        for other in others:
            os.close(other)


@pytest.mark.parametrize("closed", ["woken", "waking", "epoll"])
def test_when_the_host_has_closed_what_is_not_its_own_the_handlers_are_told_and_calls_are_made(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket], closed: str
) -> None:
    monkeypatch.setattr(loops, "CHECK_S", 0.01)
    loop, seen = Loop(), list[int]()
    with running(loop):
        on_loop(loop, lambda: loop.watch(pair[0].fileno(), seen.append))
        number = loop._epoll.fileno() if closed == "epoll" else getattr(loop, f"_{closed}").descriptor
        os.close(number)
        file = os.memfd_create("of the host")
        try:
            assert file == number
            wait_until(lambda: seen, "the handler to be told")
            assert on_loop(loop, lambda: "called") == "called"
            on_loop(loop, lambda: loop.change(pair[0].fileno(), WRITE))
            on_loop(loop, lambda: loop.forget(pair[0].fileno()))
        finally:
            loop.stop()
            wait_until(lambda: loop._is_stopping, "its end")
            loop.close()
            assert os.fstat(file).st_size == 0
            os.close(file)
            loops._not_ours.remove(loop._epoll)
            loop._epoll.close()  # now its number may be closed
    assert seen == [GONE]


def test_a_thread_of_its_own_that_forks_ends_in_the_child_and_goes_on_in_the_parent() -> None:
    loop = Loop()
    statuses: list[int] = []

    def fork_here() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on: there are other threads
            child = os.fork()
        if child == 0:
            fork.silence(loop.drop_in_child())
            return
        statuses.append(os.waitpid(child, 0)[1])

    def run() -> None:
        parent = os.getpid()
        loop.run()
        if os.getpid() != parent:
            os._exit(7)

    thread = threading.Thread(target=run)
    thread.start()
    loop.call(fork_here)
    wait_until(lambda: statuses, "the child to end")
    assert on_loop(loop, lambda: "still here") == "still here"
    loop.stop()
    thread.join(TIMEOUT_S)
    loop.close()

    assert os.waitstatus_to_exitcode(statuses[0]) == 7
