"""The gate between page reads and commits: who is let in, in which turn, and that nobody starves."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from commitcast.persistence.sqlite.gate import Gate
from commitcast.persistence.sqlite.store import SqliteStore
from faulty_disk import DATABASE, FaultyDisk
from stores import commit, new_agent, opened, text
from waiting import TIMEOUT_S, wait_until


class Visitor:
    """A thread that enters, stays until it is told to leave, and is gone."""

    def __init__(self, name: str, place: AbstractContextManager[object], log: list[str]) -> None:
        self._name = name
        self._place = place
        self._log = log
        self._may_leave = threading.Event()
        self.is_inside = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self._thread.start()

    def _visit(self) -> None:
        with self._place:
            self._log.append(self._name)
            self.is_inside.set()
            assert self._may_leave.wait(TIMEOUT_S)

    def wait(self) -> "Visitor":
        assert self.is_inside.wait(TIMEOUT_S), f"{self._name} did not get in: {self._log}"
        return self

    def leave(self) -> None:
        self._may_leave.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


class Building:
    """A gate and everybody at it."""

    def __init__(self, max_readers: int) -> None:
        self.gate = Gate(max_readers)
        self.log: list[str] = []
        self._visitors: list[Visitor] = []

    def reader(self, name: str) -> Visitor:
        """A reader who has come, and is inside or queues."""
        return self._visit(name, self.gate.reading(), len(self.gate._queue), self.gate._readers)

    def writer(self, name: str = "writer") -> Visitor:
        """A writer who has come, and is inside or waits."""
        visitor = Visitor(name, self.gate.writing(), self.log)
        self._visitors.append(visitor)
        wait_until(lambda: self.gate._writer_waits or self.gate._writing, "the writer to come")
        return visitor

    def _visit(self, name: str, place: AbstractContextManager[object], queued: int, inside: int) -> Visitor:
        visitor = Visitor(name, place, self.log)
        self._visitors.append(visitor)
        wait_until(
            lambda: (len(self.gate._queue), self.gate._readers) in ((queued + 1, inside), (queued, inside + 1)),
            f"{name} to come",
        )
        return visitor

    def clear(self) -> None:
        for visitor in self._visitors:
            visitor._may_leave.set()
        for visitor in self._visitors:
            visitor.leave()


@contextmanager
def building(max_readers: int = 4) -> Iterator[Building]:
    found = Building(max_readers)
    try:
        yield found
    finally:
        found.clear()
    assert (found.gate._readers, found.gate._queue, found.gate._writing) == (0, found.gate._queue.__class__(), False)


def test_readers_are_inside_together() -> None:
    with building() as place:
        readers = [place.reader(str(number)).wait() for number in range(4)]

        assert all(reader.is_inside.is_set() for reader in readers)


def test_a_writer_is_alone() -> None:
    with building() as place:
        reader = place.reader("reader").wait()
        writer = place.writer()
        assert not writer.is_inside.is_set()

        reader.leave()
        writer.wait()
        late = place.reader("late")

        assert not late.is_inside.is_set()
        writer.leave()
        late.wait()
        assert place.log == ["reader", "writer", "late"]


def test_a_waiting_commit_keeps_new_readers_out() -> None:
    with building() as place:
        inside = place.reader("inside").wait()
        writer = place.writer()

        late = place.reader("late")

        assert not late.is_inside.is_set()
        inside.leave()
        writer.wait()
        assert not late.is_inside.is_set()


def test_queued_readers_get_in_before_the_next_commit() -> None:
    with building() as place:
        first = place.writer("first").wait()
        readers = [place.reader("reader") for _ in range(3)]
        first.leave()

        second = place.writer("second")

        for reader in readers:
            reader.wait()
            assert not second.is_inside.is_set()
            reader.leave()
        second.wait()
        assert place.log == ["first", "reader", "reader", "reader", "second"]


def test_no_more_than_the_limit_are_inside_and_the_next_gets_in_when_one_leaves() -> None:
    with building(max_readers=2) as place:
        first, second = place.reader("first").wait(), place.reader("second").wait()

        third = place.reader("third")

        assert not third.is_inside.is_set()
        first.leave()
        third.wait()
        assert second.is_inside.is_set()


def test_more_readers_than_places_get_in_by_turns_in_the_order_in_which_they_came() -> None:
    with building(max_readers=3) as place:
        writer = place.writer("commit").wait()
        readers = [place.reader(str(number)) for number in range(8)]
        for turn in ([0, 1, 2], [3, 4, 5], [6, 7]):
            writer.leave()
            inside = [readers[number].wait() for number in turn]
            writer = place.writer("commit")

            assert len(place.gate._queue) == 7 - turn[-1]
            assert not writer.is_inside.is_set()

            for reader in inside:
                reader.leave()
            writer.wait()

        turns = " ".join(place.log).split("commit")
        assert [sorted(turn.split()) for turn in turns] == [[], ["0", "1", "2"], ["3", "4", "5"], ["6", "7"], []]


def test_a_new_reader_does_not_take_the_place_of_an_admitted_one() -> None:
    with building(max_readers=1) as place:
        writer = place.writer("first").wait()
        queued = place.reader("queued")
        with place.gate._changed:  # `queued` is let in but cannot wake yet; the next commit and the newcomer are here
            place.gate._writing = False
            place.gate._admit()
            place.gate._writing = True
            newcomer = Visitor("newcomer", place.gate.reading(), place.log)
        place._visitors.append(newcomer)
        queued.wait()
        wait_until(lambda: len(place.gate._queue) == 1, "the newcomer to queue")

        assert not newcomer.is_inside.is_set()
        queued.leave()
        writer.leave()
        newcomer.wait()


@pytest.mark.parametrize("who", ["reader", "writer"])
def test_a_wait_that_is_broken_off_leaves_no_place_taken(who: str) -> None:
    with building() as place:
        inside = place.reader("inside").wait()
        blocker = place.writer() if who == "reader" else None

        def interrupt() -> None:
            waits = (lambda: place.gate._queue) if who == "reader" else (lambda: place.gate._writer_waits)
            wait_until(waits, "the main thread to wait")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt), place.gate.reading() if who == "reader" else place.gate.writing():
            raise AssertionError("it got in")
        interrupter.join()
        inside.leave()
        if blocker is not None:
            blocker.wait().leave()

        place.reader("next").wait().leave()
        place.writer("next").wait()


def test_neither_side_starves_in_a_storm() -> None:
    gate = Gate(2)
    inside: list[str] = []
    turns = {"reader": 0, "writer": 0}
    wanted = 300
    wrong: list[list[str]] = []

    def visit(kind: str) -> None:
        while min(turns.values()) < wanted:  # whoever is ahead goes on, so that the other has it as hard as can be
            with gate.reading() if kind == "reader" else gate.writing():
                inside.append(kind)
                if inside.count("reader") > 2 or ("writer" in inside and len(inside) > 1):
                    wrong.append(list(inside))
                turns[kind] += 1
                os.sched_yield()
                inside.remove(kind)

    threads = [threading.Thread(target=visit, args=(kind,)) for kind in ("reader",) * 5 + ("writer",)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert not any(thread.is_alive() for thread in threads), turns
    assert wrong == []
    assert min(turns.values()) >= wanted


MAX_COMMITS_A_PAGE = 4
"""On average: one that a page waits for, one that the reader's thread needs to come back, and as much again for luck.
Without the gate it is thousands: SQLite's own readers poll, and find a busy file locked nearly every time."""


def test_pages_and_commits_of_a_busy_file_take_turns(path: Path) -> None:
    with opened(path) as store:
        commit(store, "a", new_agent(*["said before"] * 50))
        commits, pages = 0, 100
        is_over, has_begun = threading.Event(), threading.Event()

        def write() -> None:
            nonlocal commits
            while not is_over.is_set():
                commit(store, "a", text("more"))
                commits += 1
                has_begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert has_begun.wait(TIMEOUT_S)
            before = commits
            for _ in range(pages):
                assert len(store.messages("a", limit=50)) == 50
            during = commits - before
        finally:
            is_over.set()
            writer.join()

    assert 0 < during <= pages * MAX_COMMITS_A_PAGE


def test_a_page_meets_a_commit_at_the_gate_and_not_at_the_lock_of_the_file(path: Path, disk: FaultyDisk) -> None:
    with opened(path, vfs=disk.name) as store:
        commit(store, "a", new_agent("one"))
        pages: list[int] = []
        reader = threading.Thread(target=lambda: pages.append(len(store.messages("a"))))

        def read() -> None:
            reader.start()
            wait_until(lambda: store._pool.gate._queue, "the reader to queue")

        disk.on("sync", DATABASE, read)  # the commit holds the file
        commit(store, "a", text("two"))
        reader.join(TIMEOUT_S)

    assert pages == [2]


def test_a_commit_meets_a_page_at_the_gate_and_not_at_the_lock_of_the_file(path: Path, disk: FaultyDisk) -> None:
    with opened(path, vfs=disk.name) as store:
        commit(store, "a", new_agent("one"))
        disk.operations.clear()
        writer = threading.Thread(target=lambda: commit(store, "a", text("two")))
        with store._pool.snapshot():
            writer.start()
            wait_until(lambda: store._pool.gate._writer_waits, "the commit to wait")

            assert ("write", DATABASE) not in disk.operations
        writer.join(TIMEOUT_S)
        assert len(store.messages("a")) == 2


def test_closing_waits_for_a_commit_under_way(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    commit(store, "a", new_agent())
    assert store._writer is not None
    is_writing, may_go_on = threading.Event(), threading.Event()

    def pause(*_: object) -> None:
        is_writing.set()
        assert may_go_on.wait(TIMEOUT_S)

    store._writer.set_update_hook(pause)
    outcomes: list[object] = []
    writer = threading.Thread(target=lambda: outcomes.append(commit(store, "a", text("kept")).committed))
    closer = threading.Thread(target=store.close)
    writer.start()
    assert is_writing.wait(TIMEOUT_S)
    closer.start()
    wait_until(store._closing.is_set, "the store to be closing")
    assert closer.is_alive()

    may_go_on.set()
    writer.join(TIMEOUT_S)
    closer.join(TIMEOUT_S)

    assert outcomes and outcomes[0] is not None
    with opened(path) as store:
        assert [message.content for message in store.messages("a")] == ["kept"]
