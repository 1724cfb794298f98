"""The actors' counters (commits, mailboxes, dead letters), and their export to Prometheus."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from commitcast.actors.kernel.deadletters import DeadLetter
from commitcast.gateway.server.metrics import Histogram, Metric, counter, gauge, labelled

BATCH_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
"""Bounds for the writes of one transaction, which has 4,096 at most."""


class CommitStats:
    """Durations and sizes of a store's commits. The writer's thread counts; any may read."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.sizes = Histogram(BATCH_SIZES)
        self.refusals = 0
        """Commits that were refused for the moment and are tried again."""

    @property
    def count(self) -> int:
        """How many batches of this runtime were committed."""
        return self.sizes.count


class RuntimeStats(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime's counts of agents, messages and restarts at one moment."""

    agents: int = 0
    """Agents that have an actor: those at work, and those that were sent a command a moment ago."""
    unacknowledged_messages: int = 0
    unacknowledged_bytes: int = 0
    database_waiting: int = 0
    """Messages in the writer's mailbox."""
    commits: int = 0
    """Batches that were committed, since the start."""
    waits_for: str | None = None
    """Why commits are kept waiting (a full disk, another program's lock); None if they are not."""
    gateway_waiting: int = 0
    gateway_restarts: int = 0
    dead_letters: int = 0
    """Messages that could not be delivered, since the start."""
    latest_dead_letters: tuple[DeadLetter, ...] = ()


class RuntimeCollector:
    """Turns a runtime's numbers into metrics."""

    def __init__(self, stats: Callable[[], RuntimeStats], commits: CommitStats) -> None:
        self._stats = stats
        self._commits = commits

    def collect(self) -> Iterable[Metric]:
        """Yield every metric. Any thread."""
        stats = self._stats()
        yield self._commits.seconds.metric("commitcast_commit_seconds", "Duration of a transaction")
        yield self._commits.sizes.metric("commitcast_batch_writes", "Messages and changes of status in a transaction")
        yield counter("commitcast_commit_refusals", "Commits that failed temporarily", self._commits.refusals)
        yield gauge("commitcast_commit_waiting", "1 while a commit is being retried", int(stats.waits_for is not None))
        depths = {"database": stats.database_waiting, "gateway": stats.gateway_waiting}
        yield Metric("gauge", "commitcast_mailbox_messages", "Messages in a mailbox", labelled("actor", depths))
        yield gauge("commitcast_agents", "Agents that have an actor", stats.agents)
        yield gauge("commitcast_unacknowledged_messages", "Messages not yet committed", stats.unacknowledged_messages)
        yield gauge("commitcast_unacknowledged_bytes", "Bytes not yet committed", stats.unacknowledged_bytes)
        yield counter("commitcast_dead_letters", "Messages that could not be delivered", stats.dead_letters)
        yield counter("commitcast_gateway_restarts", "Restarts of its actor", stats.gateway_restarts)
