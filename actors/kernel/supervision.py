"""Supervision as data: which failures are answered by a restart, how often, and what happens when that does not help.

The policy is a value and the decision is pure. `Supervisor` acts on it for actors: a failed one is replaced by a new
object behind the same ref, with the same mailbox and what waits in it. Others may restart
what is not an actor by the same policy.
"""

import logging
import math
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.dispatch import Dispatcher
from commitcast.actors.kernel.ref import ActorRef
from commitcast.actors.kernel.timers import Timer
from commitcast.persistence.errors import InvalidValueError

logger: Final = logging.getLogger(__name__)

INTENSITY: Final = 5
PERIOD_S: Final = 30.0
"""Five restarts in thirty seconds, then the failure is escalated: the intensity is that of OTP's supervisors, with a
period that suits programs which take seconds to fail."""
BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
MAX_DOUBLINGS: Final = 30
"""Enough for any maximum; more would overflow."""


class RestartPolicy(msgspec.Struct, frozen=True):
    """When and how often what has failed is restarted: an actor, or other work."""

    kind: Literal["never", "on_failure"] = "on_failure"
    intensity: int = INTENSITY
    """How many restarts there may be within `period_s`; one more failure is not answered by a restart."""
    period_s: float = PERIOD_S
    backoff_s: float = BACKOFF_S
    """Before the first restart; twice as long before each further one within the period."""
    max_backoff_s: float = MAX_BACKOFF_S

    @classmethod
    def of(cls, value: "RestartPolicy | str") -> "RestartPolicy":
        """Convert a policy or the name of its kind to a policy.

        Raises:
            InvalidValueError: it does not stand for a usable policy.
        """
        if isinstance(value, RestartPolicy):
            policy = value
        elif value == "never":
            policy = cls(kind="never")
        elif value == "on_failure":
            policy = cls()
        else:
            raise InvalidValueError(f'restart must be "never", "on_failure" or a RestartPolicy, not {value!r:.80}')
        numbers = (policy.intensity, policy.period_s, policy.backoff_s, policy.max_backoff_s)
        if policy.kind not in ("never", "on_failure") or not all(map(_is_usable, numbers)):
            raise InvalidValueError(
                f"{policy!r:.200} is not a valid restart policy: its numbers must be finite and 0 or more"
            )
        return policy


def _is_usable(number: object) -> bool:
    return isinstance(number, (int, float)) and math.isfinite(number) and number >= 0


class Restarts:
    """The restarts of one thing, counted under a policy. Pure: the time is given."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.count = 0
        """How many restarts there have been in all."""
        self._recent: list[float] = []

    def after_failure(self, now: float) -> float | None:
        """Return after how many seconds it is started again, and count that; None if it is not.

        Args:
            now: seconds of a clock that only goes forward.
        """
        policy = self.policy
        self._recent = [at for at in self._recent if now - at < policy.period_s]
        if policy.kind == "never" or len(self._recent) >= policy.intensity:
            return None
        delay_s: float = min(policy.max_backoff_s, policy.backoff_s * 2.0 ** min(len(self._recent), MAX_DOUBLINGS))
        self._recent.append(now)
        self.count += 1
        return delay_s


class Supervisor:
    """Keeps one actor alive, over all its restarts. What `Actor.supervisor` is. Any thread."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Actor],
        restart: RestartPolicy,
        dispatcher: Dispatcher,
        escalate: Callable[[str, BaseException], object],
    ) -> None:
        """Supervise an actor that is not started yet.

        Args:
            name: for the logs.
            make: makes the actor and does not start it; called again for each restart.
            restart: whether and when it is started again.
            dispatcher: whose clock and timers are used.
            escalate: called with the name and the error when a failure is not answered by a restart.
        """
        self._name = name
        self._make = make
        self._dispatcher = dispatcher
        self._escalate = escalate
        self.restarts = Restarts(restart)
        self._lock = threading.Lock()
        self._failed: Actor | None = None  # while its restart is waited for
        self._timer: Timer | None = None

    def start(self) -> ActorRef[Any]:
        """Make and start the actor; raises what its `on_start` raises. The ref stays valid over restarts."""
        actor = self._make()
        actor.supervisor = self
        actor.begin()
        return actor.actor_ref

    def on_failure(self, actor: Actor, error: BaseException) -> bool:
        """Decide on a failure; return whether the actor will be replaced, so that its mailbox stays open.

        Called by the actor that failed, on the thread of its turn.
        """
        delay_s = self.restarts.after_failure(self._dispatcher.now())
        if delay_s is None:
            return False
        logger.warning("%s failed and will be restarted in %g s", self._name, delay_s)
        self._failed = actor
        self._timer = self._dispatcher.call_later(delay_s, self.restart_now)
        return True

    def on_given_up(self, error: BaseException) -> None:
        """Escalate a failure without a restart; every ask that waited for the actor has been answered."""
        logger.critical("%s failed too often and is not restarted again: %s", self._name, error)
        self._escalate(self._name, error)

    def restart_now(self) -> None:
        """Restart the actor if it waits for that, without its delay. Idempotent."""
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            successor = self._make()
            successor.supervisor = self
            successor.take_over(failed)
        except BaseException as error:  # a start that fails counts as one more failure
            if not self.on_failure(failed, error):
                failed.abandon(error)
