"""Checks tokens: what each grants, how many wrong ones an address has presented, and a log line about them.

Owns the verifier. Must never keep, log or repeat a token: it keeps digests of accepted tokens and counts refused ones.
An address that has presented too many wrong tokens, over WebSocket and HTTP together, is refused without a further
check, so that tokens cannot be guessed; tokens that were accepted before are still accepted, because a proxy brings all
its clients from one address. The answer of a verifier may be awaited. A verification under way counts like a wrong
token until it ends, so that an address cannot begin more of them than it has guesses. Without an answer in time no
token is accepted. Runs on the gateway's loop.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import ANYBODY, Grant, Verifier
from commitcast.gateway.server.access.limits import Bucket, origin_of
from commitcast.gateway.server.access.turns import HasRoom, Turns
from commitcast.gateway.server.access.verifying import VERIFY_TIMEOUT_S, FailureLog, SparseLog, late, shown, verified
from commitcast.gateway.server.errors import TokenError, VerifierUnavailableError

logger: Final = logging.getLogger(__name__)

MAX_ADDRESSES: Final = 4_096
"""Addresses whose refusals are counted; beyond it the one that was quiet for longest is forgotten."""
MAX_ACCEPTED: Final = 10_000
"""Digests of accepted tokens that are kept; the default limit of connections."""
KNOWN_AT_ONCE: Final = 64
"""Verifications under way for one address of tokens that were accepted before; further ones wait for their turn."""
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
        self._turns = Turns()
        self._refusals, self._failures = SparseLog(clock), FailureLog(clock)

    @property
    def needs_token(self) -> bool:
        """Whether clients must present a token."""
        return self._verifier is not None

    async def grant_of(self, token: str | None, address: str) -> Grant | None:
        """Return what a token from an address grants; None if there is no token but one is needed.

        Waits only if the verifier's answer is awaited, for `VERIFY_TIMEOUT_S` at most. Cancelling is safe.

        Raises:
            TokenError: it is not accepted, has expired, allows nothing, or its address presented too many wrong ones.
            VerifierUnavailableError: the verifier failed, or has not answered in time.
        """
        if self._verifier is None:
            return ANYBODY
        if token is None:
            return None
        try:
            return await self._verified(self._verifier, token, address)
        except TokenError as error:
            self.refused[error.error_code.value] += 1
            self._log_refusal(address, error, token)
            raise
        except VerifierUnavailableError as error:
            self.refused[ErrorCode.UNAVAILABLE.value] += 1
            self._failures.log(error, token)
            raise

    async def _verified(self, verifier: Verifier, token: str, address: str) -> Grant:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        grant = await self._ask(verifier, token, digest, origin_of(address))
        if grant.has_expired(time.time()):  # after the wait, and nothing waits from here to its use
            raise TokenError("the token has expired: present a new one", error_code=ErrorCode.TOKEN_EXPIRED)
        if not grant.capabilities:
            raise TokenError("this token grants no rights: ask for one that does", error_code=ErrorCode.FORBIDDEN)
        self._accept(digest)
        return grant

    async def _ask(self, verifier: Verifier, token: str, digest: bytes, origin: str) -> Grant:
        """Return the verifier's answer, once it is the turn of this verification."""
        has_room = self._room_for(digest, origin)
        kind = origin, digest in self._accepted
        timeout_s = VERIFY_TIMEOUT_S
        if not self._turns.take(kind, has_room):
            timeout_s -= await self._wait_for_turn(kind, has_room)
        try:
            return await verified(verifier, token, timeout_s)
        except TokenError as error:
            if error.error_code is ErrorCode.UNAUTHENTICATED:  # an expired token is not a guess
                self._bucket_of(origin).take(self._clock(), 1.0)
            raise
        finally:
            self._turns.leave(kind)

    async def _wait_for_turn(self, kind: tuple[str, bool], has_room: HasRoom) -> float:
        """Return the seconds that it took."""
        began = self._clock()
        try:
            async with asyncio.timeout(VERIFY_TIMEOUT_S):
                await self._turns.wait(kind, has_room)
        except TimeoutError:
            raise VerifierUnavailableError from late()
        return self._clock() - began

    def _room_for(self, digest: bytes, origin: str) -> HasRoom:
        """Return the limit on the verifications of an address, to which one of this token belongs."""

        def has_room(count: int) -> bool:
            if digest in self._accepted:
                return count <= KNOWN_AT_ONCE
            bucket = self._buckets.get(origin)
            if bucket is None:
                return count <= self._refused_a_minute
            if not bucket.holds(self._clock(), 1.0):
                message = "too many tokens from this address were not accepted: wait a minute, then present a valid one"
                raise TokenError(message, error_code=ErrorCode.RATE_LIMITED)
            return bucket.holds(self._clock(), count)

        return has_room

    def _accept(self, digest: bytes) -> None:
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > MAX_ACCEPTED:
            self._accepted.popitem(last=False)

    def _bucket_of(self, origin: str) -> Bucket:
        bucket = self._buckets.get(origin)
        if bucket is None:
            rate = self._refused_a_minute / _MINUTE_S
            bucket = self._buckets[origin] = Bucket(rate, self._refused_a_minute, self._clock())
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(origin)
        return bucket

    def _log_refusal(self, address: str, error: TokenError, token: str) -> None:
        """Log a refused token, at most once in `LOG_EVERY_S`."""
        others = self._refusals.others()
        if others is not None:
            why = "the reason is not shown" if token in str(error) else shown(error)
            logger.warning("a token from %s was refused: %s%s", address or "an unknown address", why, others)
