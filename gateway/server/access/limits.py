"""How much one client may ask for: the bounds as one value, and a bucket that counts against one of them. Pure."""

from typing import Final

import msgspec

from commitcast.persistence.errors import InvalidValueError

MAX_FRAGMENTS: Final = 64
"""Of one message from a client: more are a flood, since no client splits a frame of 64 KiB so small."""
OVERDRAFT: Final = 500.0
"""Refused requests, as their cost, after which a client that does not slow down is closed."""
BYTES_PER_REQUEST: Final = 16 * 1024
"""Of a frame, that cost as much as a request: receiving and looking at them takes about as long as answering one."""
STRANGER_RATE: Final = 10.0
"""Requests a second of a connection that has not said who it is, where it must: it has one thing to say, `hello`."""
STRANGER_BURST: Final = 20.0
"""Of the same: requests at once, and as many again that are refused before it is closed."""
MAX_LIMIT: Final = 10**9
"""Of any limit, as a number or in seconds: what is more, or infinite, cannot be told to a client as a whole number."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of one server."""

    connections: int = 10_000
    """In all; each costs some 20 KiB. More are refused with 503 before they become WebSockets."""
    connections_per_peer: int | None = None
    """From one address. None is 256, and for this machine's own addresses as many as in all: behind them are a proxy
    and everybody who comes through it."""
    subscriptions: int = 1_024
    """Of one connection; each costs a cursor, and a read when it begins."""
    requests_per_s: float = 100.0
    """Of one connection, in the long run; a `send` counts for 5, a `launch` and a `terminate` for 20, and every frame
    for one more with each 16 KiB of it."""
    burst: float = 2_000.0
    """Requests at once, after a while without any: a client that comes back subscribes to everything again."""
    running_requests: int = 16
    """Of one connection, `launch`, `send` and `terminate` together, that are not answered yet."""
    refused_tokens: int = 60
    """Of one address in a minute, over every door; then no other is looked at, unless it was accepted before. Behind a
    proxy everybody has the proxy's address."""
    handshake_timeout_s: float = 5.0
    """For a peer that has connected to have asked for something, to the last byte of the request; TLS included."""
    answer_timeout_s: float = 30.0
    """For an answer over HTTP to be made, else it is 503; and again for the peer to take it, else it is dropped."""
    hello_timeout_s: float = 5.0
    """For a connection that needs a token to present it."""
    stall_timeout_s: float = 30.0
    """A connection that takes nothing at all for so long is closed; a slow one is not."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            kind = (int, float) if field.type is float else int
            if value is None and field.default is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value <= MAX_LIMIT:
                what = "number" if field.type is float else "whole number"
                bounds = f"of more than 0 and at most {MAX_LIMIT:,}"
                raise InvalidValueError(f"the limit {field.name} must be a {what} {bounds}, not {value!r:.80}")

    def connections_from(self, *, is_local: bool) -> int:
        """Return how many connections one address may have."""
        if self.connections_per_peer is not None:
            return self.connections_per_peer
        return self.connections if is_local else min(256, self.connections)


class Bucket:
    """A token bucket: so much a second in the long run, and a burst after a rest.

    What is refused is drawn as well, so who goes on regardless falls into overdraft.
    """

    __slots__ = ("_at", "_burst", "_level", "_overdraft", "_rate")

    def __init__(self, rate: float, burst: float, now: float, overdraft: float = OVERDRAFT) -> None:
        self._rate = rate
        self._overdraft = overdraft
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float, cost: float) -> bool:
        """Draw a cost; return whether it was there."""
        self._fill(now)
        self._level -= cost
        return self._level >= 0

    def holds(self, now: float, cost: float) -> bool:
        """Whether a cost is there; it is not drawn."""
        self._fill(now)
        return self._level >= cost

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now

    @classmethod
    def of_stranger(cls, now: float) -> "Bucket":
        """Return that of a connection which has not said who it is."""
        return cls(STRANGER_RATE, STRANGER_BURST, now, overdraft=STRANGER_BURST)

    @property
    def is_overdrawn(self) -> bool:
        """Whether so much was drawn beyond what was there that nothing but closing helps."""
        return self._level < -self._overdraft
