"""One end of a connection: every frame that was sent before its end is received, in order; nobody waits for a peer."""

import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.persistence import fork
from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote import link as links
from commitcast.persistence.remote import system_calls
from commitcast.persistence.remote.frames import Answer, Ask, Cast, Frame, News, pack
from commitcast.persistence.remote.link import KEPT_FRAME_BYTES, RECEIVE_BYTES, Link, check_same_user, credentials_of
from commitcast.persistence.remote.loop import Loop
from commitcast.persistence.remote.system_calls import Receiver
from forking import forked
from looping import on_loop, running
from waiting import TIMEOUT_S, wait_until


class End:
    """A link whose loop runs when a test lets it, and all that it was given."""

    def __init__(
        self, connection: socket.socket, on_frame: Callable[[Frame], object] = lambda frame: None, **options: Any
    ):
        self.loop = Loop()
        self.frames: list[Frame] = []
        self.sizes: list[int] = []
        self.ends: list[Exception | None] = []
        self.link = Link(connection, self.loop, self._take, self.ends.append, **options)
        self.link.begin()
        self.on_frame: Callable[[Frame], object] = lambda frame: None

    def _take(self, frame: Frame, size: int) -> None:
        self.frames.append(frame)
        self.sizes.append(size)
        self.on_frame(frame)

    def wait_for_end(self) -> Exception | None:
        wait_until(lambda: self.ends, "the connection to end")
        on_loop(self.loop, lambda: None)
        (end,) = self.ends
        return end


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.settimeout(TIMEOUT_S)
    yield ours, theirs
    for each in (ours, theirs):
        each.close()


@pytest.fixture
def end(pair: tuple[socket.socket, socket.socket]) -> Iterator[End]:
    """One whose peer is a plain socket, with a loop that does not run yet."""
    end = End(pair[0], max_unsent_bytes=1_000_000)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)  # as where the system allows no more
    yield end
    end.loop.close()


@pytest.fixture
def peer(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    return pair[1]


def received(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = peer.recv(min(count - len(data), 1 << 20))
        assert piece, "it ended early"
        data += piece
    return bytes(data)


def test_frames_of_any_size_arrive_in_order_both_ways(pair: tuple[socket.socket, socket.socket]) -> None:
    """Larger ones than the socket takes at once, and than is received at once."""
    order = random.Random(1)
    sizes = [order.choice((0, 10, 1_000, RECEIVE_BYTES, 3 * RECEIVE_BYTES + 5)) for _ in range(40)]
    frames: list[Frame] = [Answer(number, "x" * size) for number, size in enumerate(sizes)]
    one, other = End(pair[0]), End(pair[1])
    with running(one.loop), running(other.loop):
        for frame in frames:
            one.link.send(frame)
            other.link.send(frame)
        wait_until(lambda: len(one.frames) == len(other.frames) == 40, "all frames")
        assert one.link.unsent_bytes == other.link.unsent_bytes == 0
        one.link.end()
        assert (one.wait_for_end(), other.wait_for_end()) == (None, None)

    assert one.frames == other.frames == frames
    assert other.sizes == [len(pack(frame)) - 4 for frame in frames]


def test_frames_of_many_threads_are_whole_and_each_threads_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = End(pair[0]), End(pair[1])

    def send(thread: int) -> None:
        for number in range(100):
            one.link.send(Ask(number, str(thread), ["x" * (number % 7) * 20_000]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    with running(one.loop), running(other.loop):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        wait_until(lambda: len(other.frames) == 400, "all frames", show=lambda: len(other.frames))
        one.link.end()
        other.wait_for_end()

    for name in map(str, range(4)):
        asks = [frame for frame in other.frames if isinstance(frame, Ask) and frame.method == name]
        assert [ask.id for ask in asks] == list(range(100))


def test_a_peer_that_reads_late_gets_everything(end: End, peer: socket.socket) -> None:
    frames = [Answer(number, "x" * 100_000) for number in range(8)]
    with running(end.loop):
        for frame in frames:
            end.link.send(frame)
        assert 0 < end.link.unsent_bytes < 900_000
        expected = b"".join(map(pack, frames))

        assert received(peer, len(expected)) == expected
        wait_until(lambda: end.link.unsent_bytes == 0, "all to be sent")
        assert end.link.is_open
        end.link.end()
        end.wait_for_end()


def test_a_peer_that_does_not_read_is_bounded_and_cut(end: End, peer: socket.socket) -> None:
    with running(end.loop):
        for number in range(10_000):
            end.link.send(Answer(number, "x" * 50_000))
            if not end.link.is_open:
                break
        error = end.wait_for_end()
        end.link.send(Cast([1]))

    assert number < 60
    assert isinstance(error, LinkError) and "bytes unread" in str(error)
    assert end.link.unsent_bytes == 0
    assert len(end.ends) == 1


def test_what_small_frames_take_in_memory_counts(end: End, peer: socket.socket) -> None:
    sent = 0
    with running(end.loop):
        while end.link.is_open and sent < 200_000:
            end.link.send(News("a", False))
            sent += 1
        end.wait_for_end()

    in_the_socket = 1_000_000 // KEPT_FRAME_BYTES
    assert sent < 20 * in_the_socket


def test_one_frame_that_is_larger_than_the_bound_is_sent(end: End, peer: socket.socket) -> None:
    frame = Answer(1, "x" * 3_000_000)
    with running(end.loop):
        end.link.send(frame)
        assert end.link.unsent_bytes > 1_000_000 and end.link.is_open

        assert received(peer, len(pack(frame))) == pack(frame)
        wait_until(lambda: end.link.unsent_bytes == 0, "all to be sent")
        end.link.send(Cast([1]))
        assert received(peer, len(pack(Cast([1])))) == pack(Cast([1]))
        end.link.end()
        end.wait_for_end()


def test_everything_that_the_peer_has_sent_before_its_end_is_received(end: End, peer: socket.socket) -> None:
    frames: list[Frame] = [Answer(number, "x" * 1_000) for number in range(100)]
    peer.sendall(b"".join(map(pack, frames)) + pack(Cast([1]))[:-1])  # and half of a frame
    peer.close()
    with running(end.loop):
        assert end.wait_for_end() is None

    assert end.frames == frames


@pytest.mark.parametrize("leaves_unread", [False, True])
def test_it_is_received_also_if_a_frame_to_the_peer_fails_first(
    end: End, peer: socket.socket, leaves_unread: bool
) -> None:
    frames: list[Frame] = [Answer(number, "x" * 1_000) for number in range(100)]
    if leaves_unread:
        end.link.send(Cast([1]))
    peer.sendall(b"".join(map(pack, frames)))
    peer.close()
    end.link.send(Cast([2]))
    assert not end.link.is_open

    with running(end.loop):
        assert end.wait_for_end() is None

    assert end.frames == frames


def test_a_frame_that_is_answered_while_the_peer_goes_does_not_lose_those_behind_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    end = End(pair[0])
    end.on_frame = lambda frame: end.link.send(Cast([1]))
    frames: list[Frame] = [Answer(number) for number in range(10)]
    pair[1].sendall(b"".join(map(pack, frames)))
    pair[1].close()

    with running(end.loop):
        end.wait_for_end()

    assert end.frames == frames


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", b"\x00\0\0\0"], ids=["long", "wrong", "empty"]
)
def test_what_is_not_a_frame_ends_the_connection_after_those_before_it(
    end: End, peer: socket.socket, garbage: bytes
) -> None:
    peer.sendall(pack(Cast([1])) + garbage + pack(Cast([2])))
    with running(end.loop):
        error = end.wait_for_end()

    assert isinstance(error, LinkError)
    assert end.frames == [Cast([1])]
    assert peer.recv(10) == b""


@pytest.mark.parametrize("is_gone", [False, True], ids=["peer is there", "peer is gone"])
def test_a_frame_that_cannot_be_handled_ends_the_connection_and_says_so(
    pair: tuple[socket.socket, socket.socket], is_gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer would be missing for ever, and the rest of what was received with it would be lost."""

    def fails(frame: Frame) -> None:
        raise KeyError("a defect")

    end = End(pair[0])
    end.on_frame = fails
    pair[1].sendall(pack(Cast([1])) + pack(Cast([2])))
    if is_gone:
        pair[1].close()
        end.link.send(Cast([3]))
    with running(end.loop):
        error = end.wait_for_end()

    assert isinstance(error, LinkError) and "KeyError" in str(error)
    assert end.frames == [Cast([1])]
    assert "a frame of the other process could not be handled" in caplog.text
    assert pair[0].fileno() == -1


def test_it_ends_once_whoever_ends_it(end: End, peer: socket.socket) -> None:
    with running(end.loop):
        threads = [threading.Thread(target=end.link.end) for _ in range(8)]
        for thread in threads:
            thread.start()
        peer.close()
        for thread in threads:
            thread.join(TIMEOUT_S)
        end.wait_for_end()
        end.link.end()
        on_loop(end.loop, lambda: None)

    assert end.ends == [None]


def test_a_connection_that_is_handed_over_gives_out_only_the_frames_before(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    given: list[socket.socket] = []
    end = End(pair[0])
    end.on_frame = lambda frame: given.append(end.link.hand_over())
    pair[1].sendall(pack(Cast([1])) + pack(Cast([2])))
    with running(end.loop):
        wait_until(lambda: given, "it to be handed over")
        on_loop(end.loop, lambda: None)
        end.link.end()
        end.link.send(Cast([3]))
        on_loop(end.loop, lambda: None)

    assert end.frames == [Cast([1])] and end.ends == []
    given[0].settimeout(TIMEOUT_S)
    pair[1].sendall(b"x")
    assert given[0].recv(10) == b"x"


def test_a_forked_child_has_nothing_of_it_and_the_parent_goes_on(end: End, peer: socket.socket) -> None:
    def in_child() -> str:
        descriptors = [end.link.drop_in_child(), *end.loop.drop_in_child()]
        fork.silence(descriptors)
        end.link.send(Cast([9]))
        end.link.end()
        end.loop.stop()
        return " ".join(os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in descriptors)

    with running(end.loop):
        with forked(in_child) as child:
            assert child.answer() == "/dev/null /dev/null /dev/null /dev/null"
            end.link.send(Cast([1]))
            assert received(peer, len(pack(Cast([1])))) == pack(Cast([1]))
            peer.sendall(pack(Cast([2])))
            wait_until(lambda: end.frames == [Cast([2])], "its answer")
        assert end.ends == []
        peer.close()
        assert end.wait_for_end() is None


def test_a_frame_of_a_full_batch_is_sent_in_parts_while_the_peer_is_busy(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []
    send = system_calls.send

    def counted(descriptor: int, data: bytes) -> int:
        parts.append(len(data))
        return send(descriptor, data)

    monkeypatch.setattr(system_calls, "send", counted)
    end = End(pair[0])
    allowed = int(Path("/proc/sys/net/core/wmem_max").read_text())
    frame = Answer(1, "x" * min(600_000, allowed))
    end.link.send(frame)
    assert end.link.unsent_bytes == 0
    end.loop.close()

    assert received(pair[1], len(pack(frame))) == pack(frame)
    assert sum(parts) == len(pack(frame)) and max(parts) <= links.SEND_BYTES


def test_the_process_at_the_other_end_is_known_and_of_this_user(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials_of(pair[0]) == (os.getpid(), os.geteuid())
    assert check_same_user(pair[0]).pid == os.getpid()

    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(LinkError, match=f"the process {os.getpid()} at the other end is of user {os.getuid()}, not of"):
        check_same_user(pair[0])


# The calls to the system that keep the interpreter's lock.


def test_a_socket_that_is_full_takes_nothing_and_one_that_is_closed_is_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    taken = 0
    while sent := system_calls.send(ours.fileno(), b"x" * 50_000):
        taken += sent
    assert system_calls.send(ours.fileno(), b"x") == 0

    assert len(received(theirs, taken)) == taken
    theirs.close()
    with pytest.raises(BrokenPipeError) as caught:  # and no signal
        system_calls.send(ours.fileno(), b"x")
    assert caught.value.errno == errno.EPIPE


def test_receiving_tells_nothing_from_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    receiver = Receiver(4)
    assert receiver.receive(ours.fileno()) is None

    theirs.sendall(b"abcdef")
    seen = []
    while (data := receiver.receive(ours.fileno())) is not None:
        seen.append(bytes(data))
    assert seen == [b"abcd", b"ef"]

    theirs.close()
    data = receiver.receive(ours.fileno())
    assert data is not None and len(data) == 0
    with pytest.raises(OSError):
        receiver.receive(-1)
