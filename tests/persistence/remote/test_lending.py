"""A loop that is lent a connection receives in place of its own thread, and no frame is lost or waits because of it."""

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from commitcast.persistence import fork
from commitcast.persistence.remote import lending
from commitcast.persistence.remote.frames import Cast, Frame, pack
from commitcast.persistence.remote.lending import Lending
from commitcast.persistence.remote.link import Link
from commitcast.persistence.remote.loop import Loop
from commitcast.persistence.remote.own_socket import OwnSocket
from forking import forked
from looping import on_loop, running
from no_descriptors import every_descriptor_used
from waiting import TIMEOUT_S, wait_until


class Lent:
    """A connection with a loop of its own, and its peer."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.loop = Loop()
        self.received: list[tuple[int, int]] = []
        """Of each frame, its number and the thread that has received it."""
        self.ends: list[Exception | None] = []
        self.link = Link(ours, self.loop, self._take, self.ends.append)
        self.link.begin()
        self.lending = Lending(self.link, self.loop)
        self.sent = 0

    def _take(self, frame: Frame, _: int) -> None:
        assert isinstance(frame, Cast)
        self.received.append((frame.positions[0], threading.get_ident()))

    def send(self, count: int = 1) -> None:
        """Have the peer send frames."""
        for _ in range(count):
            self.sent += 1
            self.peer.sendall(pack(Cast([self.sent])))

    def wait(self) -> None:
        """Wait until all of them have come, in order."""
        wait_until(lambda: len(self.received) == self.sent, "all frames", show=lambda: (len(self.received), self.sent))
        assert [number for number, _ in self.received] == list(range(1, self.sent + 1))

    @property
    def latest_thread(self) -> int:
        return self.received[-1][1]


@contextmanager
def lent_connection() -> Iterator[Lent]:
    lent = Lent()
    with running(lent.loop):
        yield lent
        lent.lending.end()
        lent.link.end()
        wait_until(lambda: lent.ends, "the connection to end")
    assert lent.lending.reclaim()
    lent.peer.close()


@pytest.fixture
def lent() -> Iterator[Lent]:
    with lent_connection() as lent:
        yield lent


async def eventually(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not predicate():
            await asyncio.sleep(0.001)


def test_the_loop_that_is_lent_the_connection_receives(lent: Lent) -> None:
    async def host() -> None:
        lent.lending.offer()
        lent.send(10)
        await eventually(lambda: len(lent.received) == 10)
        assert {thread for _, thread in lent.received} == {threading.get_ident()}

    asyncio.run(host())


def test_a_thread_without_a_loop_is_lent_nothing(lent: Lent) -> None:
    lent.lending.offer()
    lent.send()
    lent.wait()

    assert lent.latest_thread != threading.get_ident()


def test_what_a_blocked_loop_leaves_lying_is_received_by_its_own_thread(lent: Lent) -> None:
    async def host() -> None:
        lent.lending.offer()
        lent.send()
        lent.wait()  # blocks this loop
        assert lent.latest_thread != threading.get_ident()

        await asyncio.sleep(0)
        lent.lending.offer()
        lent.send()
        await eventually(lambda: len(lent.received) == 2)
        assert lent.latest_thread == threading.get_ident()

    asyncio.run(host())


@pytest.mark.parametrize("is_closed", [False, True])
def test_after_the_end_of_a_loop_the_connection_is_received_by_its_own_thread(lent: Lent, is_closed: bool) -> None:
    async def host() -> None:
        lent.lending.offer()
        lent.send()
        await eventually(lambda: lent.received)

    loop = asyncio.new_event_loop()
    before = len(os.listdir("/proc/self/fd"))
    loop.run_until_complete(host())
    if is_closed:
        loop.close()
    lent.send(5)
    lent.wait()
    assert lent.latest_thread != threading.get_ident()
    if not is_closed:
        loop.run_until_complete(asyncio.sleep(0))  # it gives back what it was lent
        assert len(os.listdir("/proc/self/fd")) == before
        loop.close()


def test_what_a_loop_has_not_given_back_when_it_was_closed_is_taken_from_it(
    lent: Lent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "RECLAIM_S", 0.001)

    async def host() -> None:
        lent.lending.offer()

    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(host())
    lent.lending.end()  # the loop would give it back when it runs again
    assert not lent.lending.reclaim()
    loop.close()

    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, "the descriptor to be closed")


def test_the_next_batch_without_a_loop_does_not_wait_for_a_look(lent: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 3_600.0)

    async def host() -> None:
        lent.lending.offer()

    asyncio.run(host())
    lent.lending.offer()
    lent.send()

    lent.wait()


def test_a_loop_that_sends_nothing_for_a_while_is_not_looked_at_until_the_next_batch(
    lent: Lent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 0.001)
    monkeypatch.setattr(lending, "IDLE_LOOKS", 3)

    async def host() -> None:
        lent.lending.offer()
        await eventually(lambda: not lent.lending._looks_left)
        assert not on_loop(lent.loop, lambda: lent.loop._timers)

        lent.lending.offer()
        lent.send()
        lent.wait()  # blocks this loop, and is looked at again

    asyncio.run(host())


def test_a_batch_of_another_thread_wakes_the_one_that_looks(lent: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 0.001)

    def emit() -> None:
        lent.lending.offer()
        lent.send()

    async def host() -> None:
        lent.lending.offer()
        await eventually(lambda: not lent.lending._looks_left)
        thread = threading.Thread(target=emit)
        thread.start()
        thread.join(TIMEOUT_S)
        lent.wait()  # blocks this loop

    asyncio.run(host())


def test_looks_are_counted_from_the_last_batch(lent: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 0.001)

    async def host() -> None:
        lent.lending.offer()
        await eventually(lambda: lent.lending._looks_left < lending.IDLE_LOOKS - 2)
        left = lent.lending._looks_left
        lent.lending.offer()
        await eventually(lambda: lent.lending._looks_left > left)

    asyncio.run(host())


def test_one_loop_at_a_time_is_lent_it(lent: Lent) -> None:
    threads: set[int] = set()

    async def other() -> None:
        lent.lending.offer()
        lent.send()
        await eventually(lambda: len(lent.received) == 1)

    async def host() -> None:
        lent.lending.offer()
        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        await asyncio.to_thread(thread.join, TIMEOUT_S)
        threads.add(threading.get_ident())

    asyncio.run(host())
    assert {lent.latest_thread} == threads


@pytest.mark.parametrize("when", ["at first", "later"])
def test_without_a_free_descriptor_its_own_thread_goes_on(lent: Lent, when: str) -> None:
    async def host() -> None:
        if when == "later":
            lent.lending.offer()
            lent.send()
            await eventually(lambda: lent.received)
        with every_descriptor_used():
            lent.lending.offer()
            lent.send()
            await eventually(lambda: len(lent.received) == lent.sent)

    asyncio.run(host())
    assert (lent.latest_thread == threading.get_ident()) == (when == "later")


def test_beyond_descriptor_1023_what_lies_is_found_too(lent: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 0.001)
    with lent_connection() as high:
        old = high.link._socket
        on_loop(high.loop, lambda: high.loop.forget(old.descriptor))
        high.link._socket = OwnSocket(socket.socket(fileno=os.dup2(old.descriptor, 1_500, inheritable=False)))
        high.link.begin()

        async def host() -> None:
            high.lending.offer()
            high.send()
            high.wait()  # blocks this loop

        asyncio.run(host())
    old.close()


def test_a_loop_without_readers_is_lent_nothing(lent: Lent) -> None:
    class NoReaders(asyncio.SelectorEventLoop):
        def add_reader(self, *_: Any) -> None:  # type: ignore[override]  # whatever it is given
            raise NotImplementedError

    async def host() -> None:
        before = len(os.listdir("/proc/self/fd"))
        lent.lending.offer()
        assert len(os.listdir("/proc/self/fd")) == before
        lent.send()
        lent.wait()

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(host())


def test_the_end_of_the_connection_reaches_its_owner_and_gives_the_loop_peace(lent: Lent) -> None:
    async def host() -> None:
        lent.lending.offer()
        lent.send(3)
        lent.peer.close()
        await eventually(lambda: lent.ends)
        assert len(lent.received) == 3
        lent.lending.end()
        await asyncio.sleep(0)
        began, turns = time.process_time(), 0
        while turns < 20:
            await asyncio.sleep(0.001)
            turns += 1
        assert time.process_time() - began < 0.019

    asyncio.run(host())
    assert lent.ends == [None]


def test_what_came_before_a_failed_send_is_received_once_though_two_threads_may_receive() -> None:
    for _ in range(100):
        with lent_connection() as lent:

            async def host(lent: Lent = lent) -> None:
                lent.lending.offer()
                lent.send(200)
                lent.peer.close()
                lent.link.send(Cast([0]))  # fails: its own thread receives the rest
                await eventually(lambda: lent.ends)

            asyncio.run(host())

        assert [number for number, _ in lent.received] == list(range(1, 201))


def test_no_frame_is_lost_or_repeated_whatever_the_loop_does(lent: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LOOK_S", 0.001)
    order = random.Random(7)
    is_over = threading.Event()

    def speak() -> None:
        while not is_over.wait(order.random() * 0.002):
            lent.send(order.randrange(20))

    async def host() -> None:
        for _ in range(order.randrange(4)):
            lent.lending.offer()
            if order.random() < 0.5:
                time.sleep(order.random() * 0.005)  # it is blocked
            await asyncio.sleep(order.random() * 0.004)

    thread = threading.Thread(target=speak)
    thread.start()
    for _ in range(25):
        asyncio.run(host())
        if order.random() < 0.3:
            lent.lending.end()
    is_over.set()
    thread.join(TIMEOUT_S)

    lent.wait()
    assert len({thread for _, thread in lent.received}) == 2


def test_a_forked_child_has_nothing_of_it(lent: Lent) -> None:
    def in_child() -> str:
        descriptors = [*lent.lending.drop_in_child(), lent.link.drop_in_child(), *lent.loop.drop_in_child()]
        fork.silence(descriptors)
        lent.lending.end()
        return " ".join({os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in descriptors})

    async def host() -> None:
        lent.lending.offer()
        with forked(in_child) as child:
            assert child.answer() == "/dev/null"
            lent.send()
            await eventually(lambda: lent.received)

    asyncio.run(host())
