"""Asks the host's verifier about a token, and logs it when that fails.

Must never keep, log or repeat a token, nor let the verifier end the loop. On any event loop: the gateway's, or that of
a host whose gateway is in another process.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from commitcast.gateway.server.access.auth import Grant, Verifier
from commitcast.gateway.server.errors import TokenError, VerifierUnavailableError

logger: Final = logging.getLogger(__name__)

VERIFY_TIMEOUT_S: Final = 5.0
"""For a verifier to answer, the wait for a turn included; as long as a client may take to present its token."""
LOG_EVERY_S: Final = 10.0
"""Between two log lines about refused tokens, and about the verifier: any client can cause one, and must not fill the
log."""
_SHOWN: Final = 200
"""Characters of the reason that are logged."""


async def verified(verifier: Verifier, token: str, timeout_s: float) -> Grant:
    """Return what a token grants; waits only if the verifier's answer is awaited. Cancelling is safe.

    Raises:
        TokenError: it is not accepted.
        VerifierUnavailableError: the verifier failed, or has not answered in time; its cause is why.
    """
    answer = _called(verifier, token)
    if isinstance(answer, Grant):
        return answer
    if not inspect.isawaitable(answer):
        raise VerifierUnavailableError from _wrong(answer)
    return await _answer_of(answer, timeout_s)


def late() -> TimeoutError:
    """Return why a verification failed that took too long."""
    return TimeoutError(f"it has not answered in {VERIFY_TIMEOUT_S:g} s")


def shown(error: BaseException | None) -> str:
    """Return the text of an error of a client or of the host, as a line of a log can have it."""
    return ascii(str(error))[1:-1][:_SHOWN]


class SparseLog:
    """When a kind of line may be logged again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at = -LOG_EVERY_S
        self._left_out = 0

    def others(self) -> str | None:
        """Return what to add to a line about the lines that were left out; None if this one is left out too."""
        now = self._clock()
        if now - self._logged_at < LOG_EVERY_S:
            self._left_out += 1
            return None
        others = f", and {self._left_out} more since the last such line" if self._left_out else ""
        self._logged_at, self._left_out = now, 0
        return others


class FailureLog:
    """The log of the failures of one verifier: at most one line in `LOG_EVERY_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sparse = SparseLog(clock)

    def log(self, error: VerifierUnavailableError, token: str) -> None:
        """Log a failure, and where it happened: the host wrote it."""
        cause = error.__cause__
        if isinstance(cause, VerifierUnavailableError):
            return  # it was logged in the process where it happened
        others = self._sparse.others()
        if others is None:
            return
        trace = "".join(traceback.format_exception(cause))
        is_safe = token not in trace and repr(token)[1:-1] not in trace
        why = shown(cause) if is_safe else "the reason is not shown"
        message = "no token is accepted now, because the verifier failed: %s: %s%s"
        logger.error(message, type(cause).__name__, why, others, exc_info=cause if is_safe else None)


class Verification:
    """What verifies the tokens of a gateway in another process. Any event loop."""

    def __init__(self, verifier: Verifier) -> None:
        """Make it with the host's verifier."""
        self._verifier = verifier
        self._failures = FailureLog()

    async def verify(self, token: str) -> Grant:
        """Return what a token grants; log why it cannot be found out. See `verified`."""
        try:
            return await verified(self._verifier, token, 2 * VERIFY_TIMEOUT_S)  # the gateway gives up before that
        except VerifierUnavailableError as error:
            self._failures.log(error, token)
            raise


def _called(verifier: Verifier, token: str) -> Grant | Awaitable[Grant]:
    try:
        return verifier.verify(token)
    except TokenError:
        raise
    except BaseException as error:  # the host's verifier must neither look like a lost connection nor end this loop
        raise VerifierUnavailableError from error


async def _answer_of(answer: Awaitable[Grant], timeout_s: float) -> Grant:
    """Return a verifier's answer, or raise why it refuses, once that is there.

    Raises:
        VerifierUnavailableError: it failed, or has not come in time.
    """
    asked = asyncio.ensure_future(_awaited(answer))  # a task, because it may go on although it is cancelled
    try:
        await asyncio.wait({asked}, timeout=timeout_s)
    finally:
        if not asked.done():
            asked.cancel()
            asked.add_done_callback(_ignore)
    if not asked.done():
        raise VerifierUnavailableError from late()
    try:
        return asked.result()
    except TokenError:
        raise
    except BaseException as error:  # as above; a cancelled one was not cancelled by us
        raise VerifierUnavailableError from error


async def _awaited(answer: Awaitable[Grant]) -> Grant:
    try:
        grant = await answer
    except (KeyboardInterrupt, SystemExit) as error:  # out of a task they would end the loop
        raise RuntimeError("the verifier asked for the end of the program") from error
    if not isinstance(grant, Grant):
        raise _wrong(grant)
    return grant


def _wrong(answer: object) -> TypeError:
    return TypeError(f"a verifier returns a Grant, not {type(answer).__name__}")


def _ignore(abandoned: "asyncio.Future[Grant]") -> None:
    """Take note of an answer that comes too late, so that asyncio does not report an error in it as forgotten."""
    if not abandoned.cancelled():
        abandoned.exception()
