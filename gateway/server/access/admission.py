"""Tokens at the door: what each allows, how many that are not accepted come from where, and word of it to the owner.

Owns the verifier. Must never keep, log or repeat a token: of those that were accepted it knows digests, of those that
were not it knows how many. Over every door, WebSocket and HTTP alike, an address that has presented too many wrong ones
is refused without another being looked at, so that nobody can guess on; tokens that were accepted before still are,
since behind one address there may be a proxy, and behind that everybody. Runs on the gateway's loop.
"""

import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import ANYBODY, Grant, Verifier
from commitcast.gateway.server.access.connection_counts import origin_of
from commitcast.gateway.server.access.limits import Bucket
from commitcast.gateway.server.errors import TokenError

logger: Final = logging.getLogger(__name__)

MAX_ADDRESSES: Final = 4_096
"""Whose refusals are counted; the one that was quiet for longest is forgotten for another."""
MAX_ACCEPTED: Final = 10_000
"""Tokens that are known to be good; as many as there may be connections."""
LOG_EVERY_S: Final = 10.0
"""Between two lines about refused tokens: anybody can cause one, and a log must not fill with them."""
_SHOWN: Final = 200
"""Characters of why a token was refused."""
_MINUTE_S: Final = 60.0


class Admission:
    """Of one gateway."""

    def __init__(
        self, verifier: Verifier | None, refused_a_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make it.

        Args:
            verifier: of tokens; None lets anybody read.
            refused_a_minute: tokens that are not accepted, of one address, before no more are looked at.
            clock: seconds that never go back.
        """
        self.refused: Counter[str] = Counter()
        """How many were refused, by the error code."""
        self._verifier = verifier
        self._most = refused_a_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._told_at = -LOG_EVERY_S
        self._untold = 0

    @property
    def needs_token(self) -> bool:
        """Whether clients must present one."""
        return self._verifier is not None

    def grant_of(self, token: str | None, address: str) -> Grant | None:
        """Return what a token allows; None without one where one is needed.

        Args:
            token: as it was presented.
            address: where it came from, without the port; empty if that is not known.

        Raises:
            TokenError: it is not accepted, has expired, allows nothing, or too many of that address were wrong.
        """
        if self._verifier is None:
            return ANYBODY
        if token is None:
            return None
        try:
            grant = self._checked(self._verifier, token, address)
        except TokenError as error:
            self.refused[error.error_code.value] += 1
            self._tell(address, error, token)
            raise
        return grant

    def _checked(self, verifier: Verifier, token: str, address: str) -> Grant:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if digest not in self._accepted:
            self._check_may_try(address)
        try:
            grant = verifier.verify(token)
        except TokenError as error:
            if error.error_code is ErrorCode.UNAUTHENTICATED:  # one that has expired was no guess
                self._bucket_of(address).take(self._clock(), 1.0)
            raise
        except BaseException as error:  # a host's own: neither a loss of the connection, nor the end of this loop
            raise RuntimeError("the verifier of tokens failed") from error
        if grant.has_expired(time.time()):
            raise TokenError("the token has expired: present a new one", error_code=ErrorCode.TOKEN_EXPIRED)
        if not grant.capabilities:
            raise TokenError("this token allows nothing: ask for one that does", error_code=ErrorCode.FORBIDDEN)
        self._accept(digest)
        return grant

    def _accept(self, digest: bytes) -> None:
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > MAX_ACCEPTED:
            self._accepted.popitem(last=False)

    def _check_may_try(self, address: str) -> None:
        bucket = self._buckets.get(origin_of(address))
        if bucket is not None and not bucket.holds(self._clock(), 1.0):
            message = "too many tokens from this address were not accepted: wait a minute, then present a right one"
            raise TokenError(message, error_code=ErrorCode.RATE_LIMITED)

    def _bucket_of(self, address: str) -> Bucket:
        network = origin_of(address)
        bucket = self._buckets.get(network)
        if bucket is None:
            bucket = self._buckets[network] = Bucket(self._most / _MINUTE_S, self._most, self._clock())
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(network)
        return bucket

    def _tell(self, address: str, error: TokenError, token: str) -> None:
        """Log that a token was refused, but not every time."""
        now = self._clock()
        if now - self._told_at < LOG_EVERY_S:
            self._untold += 1
            return
        others = f", and {self._untold} more since the last such line" if self._untold else ""
        why = "no reason is told" if token in str(error) else ascii(str(error))[1:-1][:_SHOWN]
        logger.warning("a token from %s was refused: %s%s", address or "an unknown address", why, others)
        self._told_at, self._untold = now, 0
