"""A host's half of a store: it waits for nobody who cannot answer, and says once that its server is lost."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.persistence.errors import (
    CommitcastError,
    InvalidValueError,
    ServerLostError,
    StoreClosedError,
    StoreReadTimeoutError,
    StoreUnknownError,
)
from commitcast.persistence.read_timeout import read_within
from commitcast.persistence.remote import store as stores_module
from commitcast.persistence.remote.connections import Receivers, SocketConnections
from commitcast.persistence.remote.frames import (
    Abandon,
    Answer,
    Ask,
    Casting,
    Commit,
    Deframer,
    Frame,
    Log,
    News,
    NotStored,
    Progress,
    Settings,
    Waiting,
    Welcome,
    pack,
    unpack,
)
from commitcast.persistence.remote.store import LONG_AT_ONCE, READS_AT_ONCE, RemoteStore
from forking import forked, refused
from stores import commit, of, text
from waiting import TIMEOUT_S, wait_until


class Peer:
    """The server's end of one connection, in the hands of a test."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(TIMEOUT_S)
        self._deframer = Deframer()

    def next(self) -> Frame:
        """The next frame of the host."""
        while data := self.socket.recv(self._deframer.missing_bytes):
            for payload in self._deframer.feed(memoryview(data)):
                return unpack(payload)
        raise AssertionError("the host has ended the connection")

    def ask(self, method: str) -> Ask:
        """The next request of the host, which must be this one."""
        frame = self.next()
        assert isinstance(frame, Ask) and frame.method == method
        return frame

    def send(self, frame: Frame) -> None:
        """Send a frame to the host."""
        self.socket.sendall(pack(frame))

    def has_ended(self) -> bool:
        """Whether the host has ended the connection."""
        return self.socket.recv(1) == b""


class Server:
    """Both connections of a store with a test, and the store."""

    def __init__(self) -> None:
        self.begin()
        self.lost: list[CommitcastError] = []
        self.store = RemoteStore("a.db", journal_mode="delete", connect=self._connect)

    def begin(self) -> None:
        """Begin, or begin again."""
        pairs = socket.socketpair(), socket.socketpair()
        self.requests, self.commits = (Peer(ours) for ours, _ in pairs)
        self.hosts_ends = tuple(theirs for _, theirs in pairs)

    def _connect(self, path: Path, settings: Settings, receivers: Receivers) -> SocketConnections:
        assert settings == Settings("delete") and path.is_absolute()
        welcome = Welcome("session", 7, 3, True, "a lock")
        requests, commits = self.hosts_ends
        return SocketConnections(requests, commits, welcome, "address", receivers)

    def open(self) -> None:
        """Open the store, and have it tell when its server is lost."""
        self.store.open()
        self.store.call_when_lost(self.lost.append)

    def leave(self) -> None:
        """End, as a server that was killed."""
        for each in (self.requests, self.commits):
            each.socket.close()

    def close(self) -> None:
        self.leave()
        self.store.close()
        for each in self.hosts_ends:
            each.close()


@pytest.fixture
def closed() -> Iterator[Server]:
    """A store that is not open yet."""
    closed = Server()
    yield closed
    closed.close()


@pytest.fixture
def served(closed: Server) -> Server:
    """The server of an open store."""
    closed.open()
    return closed


class Beside:
    """A call on another thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._result: Any = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:
            self._result = error

    def result(self) -> Any:
        """What it returned or raised, within a time."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "it hangs"
        return self._result


def uses_of(store: RemoteStore) -> list[Callable[[], object]]:
    return [
        lambda: store.agent("a"),
        lambda: store.feed(0),
        lambda: commit(store, "a", text("more")),
        lambda: store.backup("copy.db"),
        store.verify,
    ]


def test_it_says_at_once_that_its_server_was_lost_before_anybody_wanted_to_know(closed: Server) -> None:
    closed.store.open()
    closed.leave()
    wait_until(lambda: refused(lambda: closed.store.agent("a")) == "ServerLostError", "the loss to be noticed")

    closed.store.call_when_lost(closed.lost.append)

    assert [type(error) for error in closed.lost] == [ServerLostError]


def test_it_can_be_opened_again_after_the_loss_of_its_server(closed: Server) -> None:
    """With numbers from the beginning, of a server that knows none of its agents."""
    closed.open()
    write = Beside(lambda: commit(closed.store, "a", text("sent")))
    closed.commits.next()
    closed.leave()
    write.result()
    closed.store.close()
    closed.begin()
    closed.open()

    write = Beside(lambda: commit(closed.store, "a", text("sent")))
    assert closed.commits.next() == Commit(1, 0, [of("a", text("sent"))])
    closed.leave()
    assert isinstance(write.result(), StoreUnknownError)
    wait_until(lambda: len(closed.lost) == 2, "the second loss to be told")


def test_who_is_told_of_the_loss_is_told_before_those_who_wait(served: Server) -> None:
    seen: list[str] = []
    served.store.call_when_lost(lambda error: seen.append("lost"))
    served.store.asking.ask("forward", [], lambda answer: seen.append("answer"))
    served.leave()

    wait_until(lambda: len(seen) == 2, "both")
    assert seen == ["lost", "answer"]


def test_before_it_is_open_nothing_waits(closed: Server) -> None:
    assert refused(*uses_of(closed.store)) == " ".join(["StoreClosedError"] * 5)
    closed.store.send(Waiting(None))
    closed.store.close()
    assert (closed.store.address, closed.store.session, closed.store.server_pid) == ("", "", 0)


def test_it_knows_what_it_was_welcomed_with(served: Server) -> None:
    store = served.store

    assert (store.address, store.session, store.server_pid) == ("address", "session", 7)
    assert (store.recovered, store.is_casting, store.waits_for, store.journal_mode) == (3, True, "a lock", "delete")


def test_a_request_and_its_answer(served: Server) -> None:
    call = Beside(lambda: served.store.heads(["a"]))
    ask = served.requests.ask("heads")
    served.requests.send(Answer(ask.id, {"a": [1, 2]}))

    assert ask.arguments == [["a"]] and ask.timeout is None
    assert call.result() == {"a": (1, 2)}


def test_a_read_gives_up_in_time_and_its_late_answer_is_dropped(served: Server) -> None:
    def read(within_s: float) -> Any:
        with read_within(within_s):
            return served.store.agent("a")

    call = Beside(lambda: read(0.02))
    late = served.requests.ask("agent")
    assert isinstance(call.result(), StoreReadTimeoutError)
    assert late.timeout is not None and 0 < late.timeout <= 0.02

    served.requests.send(Answer(late.id, None))
    call = Beside(lambda: read(TIMEOUT_S))
    served.requests.send(Answer(served.requests.ask("agent").id, None))
    assert call.result() is None


def test_few_reads_are_on_their_way_at_once_and_one_that_waits_for_its_turn_gives_up_too(served: Server) -> None:
    calls = [Beside(lambda: served.store.agent("a")) for _ in range(READS_AT_ONCE)]
    asks = [served.requests.ask("agent") for _ in range(READS_AT_ONCE)]

    with pytest.raises(StoreReadTimeoutError), read_within(0.02):
        served.store.agent("b")
    another = Beside(lambda: served.store.agent("c"))
    served.requests.send(Answer(asks[0].id, None))
    assert served.requests.ask("agent").arguments == ["c"]  # and nothing of "b"

    served.leave()
    results = [call.result() for call in [*calls, another]]
    assert results.count(None) == 1
    assert [type(result) for result in results].count(ServerLostError) == READS_AT_ONCE


def test_few_verifications_and_backups_are_under_way_at_once(served: Server) -> None:
    """The server cuts a host that has too many requests unanswered."""
    calls = [Beside(served.store.verify) for _ in range(LONG_AT_ONCE)]
    asks = [served.requests.ask("verify") for _ in range(LONG_AT_ONCE)]
    another = Beside(lambda: served.store.backup("copy.db"))
    read = Beside(lambda: served.store.agent("a"))

    served.requests.send(Answer(served.requests.ask("agent").id, None))  # a read waits for none of them
    assert read.result() is None
    served.requests.send(Answer(asks[0].id, {"path": "a.db"}))
    served.requests.send(Answer(served.requests.ask("backup").id))
    assert another.result() is None

    served.leave()
    results = [call.result() for call in calls]
    assert [type(result).__name__ for result in results].count("ServerLostError") == LONG_AT_ONCE - 1


def test_what_cannot_be_sent_is_the_callers_error_and_the_next_call_works(served: Server) -> None:
    for _ in range(READS_AT_ONCE + 1):
        with pytest.raises(InvalidValueError):
            served.store.messages("a", after=2**70)

    call = Beside(lambda: served.store.agent("a"))
    served.requests.send(Answer(served.requests.ask("agent").id, None))
    assert call.result() is None


def test_progress_is_told_to_the_thread_that_waits(served: Server) -> None:
    told: list[tuple[int, int]] = []
    call = Beside(lambda: served.store.backup("copy.db", lambda *how_far: told.append(how_far)))
    ask = served.requests.ask("backup")
    served.requests.send(Progress(ask.id, 1, 2))
    wait_until(lambda: told, "progress")
    served.requests.send(Answer(ask.id))

    assert call.result() is None and told == [(1, 2)]
    assert Path(ask.arguments[0]).is_absolute()


def test_when_the_server_is_lost_everything_is_answered_and_the_host_is_told_once(served: Server) -> None:
    read = Beside(lambda: served.store.agent("a"))
    served.requests.ask("agent")
    write = Beside(lambda: commit(served.store, "a", text("sent")))
    assert served.commits.next() == Commit(1, 0, [of("a", text("sent"))])

    served.leave()

    assert isinstance(read.result(), ServerLostError)
    assert isinstance(write.result(), StoreUnknownError)
    assert refused(*uses_of(served.store)) == " ".join(["ServerLostError"] * 5)
    wait_until(lambda: [end.fileno() for end in served.hosts_ends] == [-1, -1], "both connections to be closed")
    assert [type(error) for error in served.lost] == [ServerLostError]


@pytest.mark.parametrize("which", ["requests", "commits"])
def test_when_one_connection_ends_so_does_the_other(served: Server, which: str) -> None:
    one, other = (served.requests, served.commits) if which == "requests" else (served.commits, served.requests)
    one.socket.close()

    assert other.has_ended()
    wait_until(lambda: served.lost, "the host to be told")


@pytest.mark.parametrize("frame", [Commit(1, 0, []), Welcome("s", 1, 0, False), News("a", False)])
def test_a_frame_that_a_server_does_not_send_ends_the_connections(
    served: Server, frame: Frame, caplog: pytest.LogCaptureFixture
) -> None:
    served.requests.send(frame)

    assert served.commits.has_ended()
    wait_until(lambda: served.lost, "the host to be told")
    assert f"a {type(frame).__name__} was not expected" in caplog.text


def test_an_answer_to_no_batch_ends_the_connections(served: Server) -> None:
    served.commits.send(NotStored(1, None))  # type: ignore[arg-type]  # nor is it one

    assert served.requests.has_ended()


def test_what_the_server_tells_is_known(served: Server, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Frame] = []
    served.store.on_frame = seen.append
    with caplog.at_level(logging.INFO):
        for frame in (
            Casting(False),
            Waiting(None),
            Log("commitcast.x", logging.INFO, "of 100 %"),
            News("a", True),
        ):
            served.requests.send(frame)
        wait_until(lambda: seen, "the last of them")

    assert (served.store.is_casting, served.store.waits_for, seen) == (False, None, [News("a", True)])
    assert ("commitcast.x", logging.INFO, "of 100 %") in caplog.record_tuples


def test_closing_detaches_first_and_ends_both_connections(served: Server) -> None:
    closing = Beside(served.store.close)
    ask = served.requests.ask("detach")
    served.requests.send(Answer(ask.id))

    assert closing.result() is None
    assert served.requests.has_ended() and served.commits.has_ended()
    served.store.close()
    assert served.lost == []
    assert refused(*uses_of(served.store)) == " ".join(["StoreClosedError"] * 5)


def test_closing_does_not_wait_long_for_a_server_that_is_stopped(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores_module, "DETACH_S", 0.02)

    served.store.close()

    assert isinstance(served.requests.next(), Ask) and served.requests.has_ended() and served.lost == []


def test_what_waits_when_it_is_closed_is_answered(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores_module, "DETACH_S", 0.02)
    read, write = Beside(lambda: served.store.agent("a")), Beside(lambda: commit(served.store, "a", text("sent")))
    served.requests.ask("agent")
    served.commits.next()

    served.store.close()

    assert isinstance(read.result(), StoreClosedError) and isinstance(write.result(), StoreUnknownError)


def test_if_no_thread_can_be_started_nothing_stays_open(closed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        closed.store.open()

    assert closed.requests.has_ended() and closed.commits.has_ended()
    assert closed.lost == [] and refused(lambda: closed.store.agent("a")) == "StoreClosedError"


def test_waiting_is_given_up_also_before_it_is_open(closed: Server) -> None:
    closed.store.abandon_waiting()
    closed.store.open()
    closed.store.abandon_waiting()

    assert [closed.requests.next() for _ in range(2)] == [Abandon(), Abandon()]


def test_one_that_is_opened_again_waits_again(served: Server) -> None:
    served.store.abandon_waiting()
    assert served.requests.next() == Abandon()
    served.leave()
    wait_until(lambda: served.lost, "the loss to be noticed")
    served.store.close()

    served.begin()
    served.open()
    reading = Beside(lambda: served.store.agent("a"))

    ask = served.requests.ask("agent")  # and nothing before it
    served.requests.send(Answer(ask.id, None))
    assert reading.result() is None


def test_closing_that_is_interrupted_ends_both_connections(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(served.store, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        served.store.close()

    assert served.requests.has_ended() and served.commits.has_ended()


def test_a_forked_child_is_refused_every_use_and_the_parent_goes_on(served: Server) -> None:
    """Also if another thread reads at the moment of the fork: then it has what that thread has taken."""
    calls = [Beside(lambda: served.store.agent("a")) for _ in range(READS_AT_ONCE)]
    asks = [served.requests.ask("agent") for _ in calls]
    uses = [*uses_of(served.store), served.store.open, served.store.close]

    with forked(lambda: refused(*uses)) as child:
        assert child.answer() == " ".join(["ForkedRuntimeError"] * 6 + ["-"])
        for ask in asks:
            served.requests.send(Answer(ask.id, None))
        assert [call.result() for call in calls] == [None] * READS_AT_ONCE
    assert served.lost == []


def test_a_child_that_lives_does_not_keep_the_connections_open(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores_module, "DETACH_S", 0.02)
    with forked() as child:
        child.answer()
        served.store.close()
        served.requests.next()

        assert served.requests.has_ended() and served.commits.has_ended()


def test_a_server_that_is_lost_while_it_is_closed_is_not_waited_for(served: Server) -> None:
    closing = Beside(served.store.close)
    served.requests.ask("detach")
    began = time.monotonic()
    served.leave()

    assert closing.result() is None and served.lost == []
    assert time.monotonic() - began < stores_module.DETACH_S / 2
