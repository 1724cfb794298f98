"""Limits on what one client may use: their values, and the counters that enforce them. Pure.

`Limits` is the configuration. `Bucket` meters requests, `FrameMeter` what a session does not see (control frames and
fragments), `ConnectionCounts` connections per address. Each counter belongs to one event loop.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
from websockets.frames import Opcode

from commitcast.gateway.protocol.errors import CloseCode
from commitcast.gateway.server.access.origins import is_loopback
from commitcast.persistence.errors import InvalidValueError

MAX_FRAGMENTS: Final = 64
"""Per message: clients do not split a frame of 64 KiB into more."""
OVERDRAFT: Final = 500.0
"""The cost of refused requests after which a client that does not slow down is closed."""
BYTES_PER_REQUEST: Final = 16 * 1024
"""A frame costs one request more for each of these: reading them takes about as long as answering one."""
STRANGER_RATE: Final = 10.0
"""Requests per second of a connection that is not authenticated yet: `hello` is the only one it needs."""
STRANGER_BURST: Final = 20.0
"""Requests at once of the same; after as many refused ones it is closed."""
MAX_LIMIT: Final = 10**9
"""The largest value of any limit: clients are told the limits as whole numbers, so none can be infinite."""
MESSAGE_TOO_BIG: Final = 1009
"""RFC 6455 section 7.4.1."""
DROPPED_BEYOND: Final = 2
"""Times the connection limit: up to this, surplus connections are closed with a reason; beyond, without an answer."""
_IPV6_NETWORK_BITS: Final = 64
"""The smallest network that one customer is given; its 2^64 addresses are counted as one."""
ORIGINS: Final = 4_096
"""Addresses whose origin is remembered: parsing one takes longer than all else that checks a token."""

Fault = tuple[int, str]
"""Code and reason of a close."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one server."""

    connections: int = 10_000
    """In total; each costs about 20 KiB. Further handshakes are answered with 503."""
    connections_per_peer: int | None = None
    """Per address. None is 256, and unlimited within `connections` for this machine's own addresses, because a local
    proxy brings all its clients from there."""
    subscriptions: int = 1_024
    """Per connection; each costs a cursor, and a read when it begins."""
    requests_per_s: float = 100.0
    """Per connection, sustained; a `send` counts for 5, a `launch` and a `terminate` for 20, and every frame for one
    more per 16 KiB."""
    burst: float = 2_000.0
    """Requests at once, after a pause: a client that reconnects subscribes to everything again."""
    running_requests: int = 16
    """Per connection, unanswered `launch`, `send` and `terminate` requests together."""
    refused_tokens: int = 60
    """Per address and minute, over WebSocket and HTTP together; then only tokens that were accepted before are checked.
    All clients of a proxy have the proxy's address."""
    handshake_timeout_s: float = 5.0
    """From accepting a connection to the last byte of its request, TLS included."""
    answer_timeout_s: float = 30.0
    """For an HTTP response to be made, else it is 503; and again for the client to read it, else it is dropped."""
    hello_timeout_s: float = 5.0
    """For a connection that needs a token to present it."""
    stall_timeout_s: float = 30.0
    """A connection that reads nothing at all for this long is closed; a slow one is not."""

    def __post_init__(self) -> None:
        """Refuse values that are not positive numbers up to `MAX_LIMIT`."""
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            kind = (int, float) if field.type is float else int
            if value is None and field.default is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value <= MAX_LIMIT:
                what = "number" if field.type is float else "whole number"
                bounds = f"above 0 and at most {MAX_LIMIT:,}"
                raise InvalidValueError(f"the limit {field.name} must be a {what} {bounds}, not {value!r:.80}")

    def connections_from(self, *, is_local: bool) -> int:
        """Return how many connections one address may have."""
        if self.connections_per_peer is not None:
            return self.connections_per_peer
        return self.connections if is_local else min(256, self.connections)


class Bucket:
    """A token bucket: a sustained rate, and a burst after a pause.

    Refused requests are drawn as well, so a client that does not slow down falls into overdraft.
    """

    __slots__ = ("_at", "_burst", "_level", "_overdraft", "_rate")

    def __init__(self, rate: float, burst: float, now: float, overdraft: float = OVERDRAFT) -> None:
        self._rate = rate
        self._overdraft = overdraft
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float, cost: float) -> bool:
        """Draw a cost; return whether the bucket had it."""
        self._fill(now)
        self._level -= cost
        return self._level >= 0

    def holds(self, now: float, cost: float) -> bool:
        """Whether the bucket has a cost; it is not drawn."""
        self._fill(now)
        return self._level >= cost

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now

    @classmethod
    def of_stranger(cls, now: float) -> "Bucket":
        """Return the bucket of a connection that is not authenticated yet."""
        return cls(STRANGER_RATE, STRANGER_BURST, now, overdraft=STRANGER_BURST)

    @property
    def is_overdrawn(self) -> bool:
        """Whether the overdraft exceeds its limit, so that the connection must be closed."""
        return self._level < -self._overdraft


class FrameMeter:
    """Counts the frames of one connection that no session sees: each costs as much as a request to parse."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pings = 0
        self._fragments = 0

    def ping(self) -> None:
        """Note a ping to the peer: the pong that answers it is free."""
        self._pings += 1

    def fault_of(self, opcode: Opcode, bucket: Bucket, *, is_open: bool) -> Fault | None:
        """Count a frame; return what to close the connection with if it exceeds a limit.

        Args:
            opcode: of the frame.
            bucket: of the connection. A message is drawn from it by its session, every other frame here.
            is_open: False once the connection is closing, when no session counts.
        """
        if opcode is Opcode.CONT:
            self._fragments += 1
            if self._fragments >= MAX_FRAGMENTS:
                return MESSAGE_TOO_BIG, f"a message may have at most {MAX_FRAGMENTS} fragments"
        elif opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._fragments = 0
            if is_open:
                return None
        elif opcode is Opcode.PONG and self._pings:
            self._pings -= 1
            return None
        bucket.take(self._clock(), 1.0)
        return (CloseCode.RATE, "too many frames: slow down") if bucket.is_overdrawn else None


class ConnectionCounts:
    """Counts connections per address, and compares them with the limit."""

    def __init__(self, limits: Limits) -> None:
        self.by_origin: Counter[str] = Counter()
        """Of each address, or network, that has any."""
        self._limits = limits

    def enter(self, address: str) -> bool:
        """Count a connection; False if its address is so far over the limit that it is dropped without an answer."""
        origin = origin_of(address)
        self.by_origin[origin] += 1
        return self.by_origin[origin] <= DROPPED_BEYOND * self._limit_of(origin)

    def leave(self, address: str) -> None:
        """Remove a connection from the count."""
        origin = origin_of(address)
        self.by_origin[origin] -= 1
        if not self.by_origin[origin]:
            del self.by_origin[origin]

    def exceeds(self, address: str) -> bool:
        """Whether an address has more connections than are served."""
        origin = origin_of(address)
        return self.by_origin[origin] > self._limit_of(origin)

    def _limit_of(self, origin: str) -> int:
        return self._limits.connections_from(is_local=is_loopback(origin))


@lru_cache(ORIGINS)
def origin_of(address: str) -> str:
    """Return what an address is counted as: itself; for IPv6 its network of 64 bits, except for loopback."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # an ASGI server may give a name
        return address
    if not isinstance(parsed, ipaddress.IPv6Address) or parsed.is_loopback:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_NETWORK_BITS), strict=False))
