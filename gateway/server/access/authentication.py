"""Checks tokens: what each grants, how many wrong ones an address has presented, and a log line about them.

Owns the verifier. Must never keep, log or repeat a token: it keeps digests of accepted tokens and counts refused ones.
An address that has presented too many wrong tokens, over WebSocket and HTTP together, is refused without a further
check, so that tokens cannot be guessed; tokens that were accepted before are still accepted, because a proxy brings all
its clients from one address. Runs on the gateway's loop.
"""

import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import ANYBODY, Grant, Verifier
from commitcast.gateway.server.access.limits import Bucket, origin_of
from commitcast.gateway.server.errors import TokenError

logger: Final = logging.getLogger(__name__)

MAX_ADDRESSES: Final = 4_096
"""Addresses whose refusals are counted; beyond it the one that was quiet for longest is forgotten."""
MAX_ACCEPTED: Final = 10_000
"""Digests of accepted tokens that are kept; the default limit of connections."""
LOG_EVERY_S: Final = 10.0
"""Between two log lines about refused tokens: any client can cause one, and must not fill the log."""
_SHOWN: Final = 200
"""Characters of the reason that are logged."""
_MINUTE_S: Final = 60.0


class Authenticator:
    """Checks the tokens of one gateway."""

    def __init__(
        self, verifier: Verifier | None, refused_a_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make it. Without a verifier every client may read."""
        self.refused: Counter[str] = Counter()
        """Refused tokens, by error code."""
        self._verifier = verifier
        self._refused_a_minute = refused_a_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._logged_at = -LOG_EVERY_S
        self._unlogged = 0

    @property
    def needs_token(self) -> bool:
        """Whether clients must present a token."""
        return self._verifier is not None

    def grant_of(self, token: str | None, address: str) -> Grant | None:
        """Return what a token from an address grants; None if there is no token but one is needed.

        Raises:
            TokenError: it is not accepted, has expired, allows nothing, or its address presented too many wrong ones.
        """
        if self._verifier is None:
            return ANYBODY
        if token is None:
            return None
        try:
            return self._verified(self._verifier, token, address)
        except TokenError as error:
            self.refused[error.error_code.value] += 1
            self._log(address, error, token)
            raise

    def _verified(self, verifier: Verifier, token: str, address: str) -> Grant:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if digest not in self._accepted:
            self._check_may_try(address)
        try:
            grant = verifier.verify(token)
        except TokenError as error:
            if error.error_code is ErrorCode.UNAUTHENTICATED:  # an expired token is not a guess
                self._bucket_of(address).take(self._clock(), 1.0)
            raise
        except BaseException as error:  # the host's verifier must neither look like a lost connection nor end this loop
            raise RuntimeError("the token verifier failed") from error
        if grant.has_expired(time.time()):
            raise TokenError("the token has expired: present a new one", error_code=ErrorCode.TOKEN_EXPIRED)
        if not grant.capabilities:
            raise TokenError("this token grants no rights: ask for one that does", error_code=ErrorCode.FORBIDDEN)
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
            message = "too many tokens from this address were not accepted: wait a minute, then present a valid one"
            raise TokenError(message, error_code=ErrorCode.RATE_LIMITED)

    def _bucket_of(self, address: str) -> Bucket:
        origin = origin_of(address)
        bucket = self._buckets.get(origin)
        if bucket is None:
            rate = self._refused_a_minute / _MINUTE_S
            bucket = self._buckets[origin] = Bucket(rate, self._refused_a_minute, self._clock())
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(origin)
        return bucket

    def _log(self, address: str, error: TokenError, token: str) -> None:
        """Log a refused token, at most once in `LOG_EVERY_S`."""
        now = self._clock()
        if now - self._logged_at < LOG_EVERY_S:
            self._unlogged += 1
            return
        others = f", and {self._unlogged} more since the last such line" if self._unlogged else ""
        why = "the reason is not shown" if token in str(error) else ascii(str(error))[1:-1][:_SHOWN]
        logger.warning("a token from %s was refused: %s%s", address or "an unknown address", why, others)
        self._logged_at, self._unlogged = now, 0
