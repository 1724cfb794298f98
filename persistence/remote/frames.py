"""The protocol between a host and its server process: frames as types, their encoding, and their framing. Pure.

Both ends are of one machine and one user. A frame is four bytes with its length (little-endian), then a msgpack array
that begins with the number of its type. A host has two connections:

* *commits* carries `Commit` and, in the same order, `Stored` or `NotStored`. Up to `MAX_BATCHES` may be unanswered.
* *requests* carries everything else. Either side may `Ask`, and each request gets one `Answer`, in any order.

Each begins with `Hello`, which is answered with `Welcome` or `Refused`.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, NewType

import msgspec

from commitcast.persistence.errors import InvalidValueError, LinkError
from commitcast.persistence.writes import AgentWrites

PROTOCOL: Final = 1
"""Host and server must have the same. It changes with every change of a frame or of what it means."""
MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
"""A peer that announces more is not one of ours. The largest frames are the creation of an agent, with its prompt, the
same as its first message, and a configuration, of 64 MiB each; and its record with a result."""
MAX_BATCHES: Final = 2
"""Of one host, unanswered: while the server commits one, the next is on its way."""

COMMITS: Final = "commits"
REQUESTS: Final = "requests"
TUNNEL: Final = "tunnel"
"""Carries one conversation of a subscriber, through the web app of a host."""
DISMISS: Final = "dismiss"
"""Asks the server to end now if it has no hosts."""

_LENGTH: Final = struct.Struct("<I")
LENGTH_BYTES: Final = _LENGTH.size
"""Before each payload."""

Packed = NewType("Packed", bytes)
"""A frame with its length, ready to be sent."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error, without its traceback. See `failures`."""

    kind: str
    arguments: list[Any]
    facts: dict[str, Any]
    text: str
    code: str = "internal"
    retryable: bool = False
    enums: dict[str, str] = {}
    """Of the facts that are members of an enumeration, which one it is."""


class Settings(msgspec.Struct, frozen=True):
    """How a store is opened. The first host decides, and every further one must want the same."""

    journal_mode: str


# The beginning of each connection.


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first frame of a host."""

    protocol: int
    role: str
    """`COMMITS`, `REQUESTS` or `TUNNEL`."""
    session: str = ""
    """That `Welcome` has named, on every connection but the first, which is for requests."""
    runtime: str = ""
    """The host's process, as it names itself to its programs (`recovery.identity.this_runtime`)."""
    settings: Settings | None = None


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The host is attached."""

    session: str
    pid: int
    """Of the server."""
    recovered: int
    """How many agents a crash had left behind when the server started; for its first host, else 0."""
    is_casting: bool
    """Whether there are subscribers to cast to. `Casting` tells each change."""
    waits_for: str | None = None
    """As in `Waiting`."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The host is not attached."""

    failure: Failure | None
    """Why not; None: the server is about to end, and another one can be started."""


# Commits.


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Write a batch. Batches of one host are written in order."""

    number: int
    """One more than that of the batch before."""
    after: int
    """The last batch of whose refusals the host knew when it sent this one."""
    work: list[AgentWrites]


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one agent's writes. The host makes records of it and of what it has sent. See `outcomes`."""

    epoch: str
    previous: int
    """The agent's last sequence before them."""
    previous_entry_position: int
    position: int
    """Of the first entry; 0 if nothing was stored."""
    refused: bool = False
    replies: list[Any] | None = None
    """None: all are messages that were stored. Else one for each write: None for what was stored and can be made of the
    write, a record, or a failure."""


class Stored(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer to a batch: it is on disk, except for what was refused."""

    number: int
    committed_ns: int
    """When its COMMIT returned, of `time.monotonic_ns`, which is one clock for all processes."""
    parts: list[Part]


class NotStored(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The answer to a batch of which nothing was stored, or of which nobody knows."""

    number: int
    failure: Failure


# Casts and notices.


class Cast(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Cast what was committed, by the last position of each agent's part. The agents have acknowledged it."""

    positions: list[int]


class Notify(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Tell the subscribers of an agent what could not be done."""

    agent: str
    code: str
    message: str
    retry: bool


class Casting(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Whether there are subscribers to cast to."""

    is_on: bool


# News of what other hosts do.


class Watch(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Begin to tell, or with `is_on` False stop telling, when something of an agent is committed."""

    agent: str
    is_on: bool


class News(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Something of an agent was committed."""

    agent: str
    is_end: bool
    """The agent has ended."""


class Waiting(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Why commits are kept waiting; None: they are not."""

    for_what: str | None


class Log(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A line of the server's log, which the host writes to its own."""

    logger: str
    level: int
    text: str


# Requests of either side.


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Do something and answer."""

    id: int
    method: str
    arguments: list[Any] = []
    timeout: float | None = None
    """Seconds that a read may wait for a commit or another program."""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The answer to an `Ask`."""

    id: int
    value: Any = None
    failure: Failure | None = None


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """How far a long request is."""

    id: int
    done: int
    of: int


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Nobody waits for the answer to a request any more: it need not be finished, and may be answered or not."""

    id: int


class Abandon(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Give up batches of this host that wait for something outside. See `Store.abandon_waiting`."""


Frame = (
    Hello
    | Welcome
    | Refused
    | Commit
    | Stored
    | NotStored
    | Cast
    | Notify
    | Casting
    | Watch
    | News
    | Waiting
    | Log
    | Ask
    | Answer
    | Progress
    | Withdraw
    | Abandon
)

_encoder: Final = msgspec.msgpack.Encoder()
_decode: Final = msgspec.msgpack.Decoder(Frame).decode


def pack(frame: Frame) -> Packed:
    """Return a frame ready to be sent.

    Raises:
        InvalidValueError: something in it cannot be sent, or it is longer than the other end takes.
    """
    buffer = bytearray(_LENGTH.size)
    try:
        _encoder.encode_into(frame, buffer, _LENGTH.size)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"this cannot be sent to another process ({type(frame).__name__}): {error}") from error
    length = len(buffer) - _LENGTH.size
    if length > MAX_FRAME_BYTES:
        raise InvalidValueError(
            f"this cannot be sent to another process ({type(frame).__name__}): it has {length:,} bytes, and the limit"
            f" is {MAX_FRAME_BYTES:,}"
        )
    _LENGTH.pack_into(buffer, 0, length)
    return Packed(bytes(buffer))


def unpack(payload: bytes | memoryview) -> Frame:
    """Return the frame of a payload, which is a frame without its length.

    Raises:
        LinkError: it is not one.
    """
    try:
        frame: Frame = _decode(payload)
        return frame
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise LinkError(f"a frame cannot be decoded: {error}") from error


class Deframer:
    """Cuts a stream of bytes into payloads."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Take the next bytes, and yield each payload that is complete: valid until the next one is asked for.

        Raises:
            LinkError: a frame is longer than any of ours.
        """
        while self._buffer and data:  # the frame whose beginning waits; the rest need not be copied
            missing = self.missing_bytes
            self._buffer += data[:missing]
            data = data[missing:]
            if not self.missing_bytes:
                whole, self._buffer = self._buffer, bytearray()
                yield memoryview(whole)[_LENGTH.size :]
        start, end = 0, len(data)
        while end - start >= _LENGTH.size:
            following = start + _LENGTH.size + self._length(data, start)
            if following > end:
                break
            yield data[start + _LENGTH.size : following]
            start = following
        self._buffer += data[start:]

    @property
    def missing_bytes(self) -> int:
        """How many bytes the frame lacks that has begun, as far as is known: at first only its length is missing."""
        have = len(self._buffer)
        return _LENGTH.size - have if have < _LENGTH.size else _LENGTH.size + self._length(self._buffer, 0) - have

    def _length(self, data: bytearray | memoryview, at: int) -> int:
        length: int = _LENGTH.unpack_from(data, at)[0]
        if length > self._max_bytes:
            raise LinkError(f"a frame of {length:,} bytes was announced, and the limit is {self._max_bytes:,}")
        return length
