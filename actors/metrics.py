"""What the actors count of themselves, for Prometheus: commits, and what waits in mailboxes."""

from collections.abc import Callable, Iterable

from commitcast.actors.commit_meter import CommitMeter
from commitcast.actors.system import RuntimeStats
from commitcast.gateway.server.metrics import Metric, counter, gauge, labelled


class RuntimeCollector:
    """Turns a runtime's numbers into metrics."""

    def __init__(self, stats: Callable[[], RuntimeStats], commits: CommitMeter) -> None:
        self._stats = stats
        self._commits = commits

    def collect(self) -> Iterable[Metric]:
        """Yield every metric. Any thread."""
        stats = self._stats()
        yield self._commits.seconds.metric("commitcast_commit_seconds", "Of one transaction, to the disk")
        yield self._commits.sizes.metric("commitcast_batch_writes", "Messages and changes in one transaction")
        yield counter("commitcast_commit_refusals", "Refused for the moment, and tried again", self._commits.refusals)
        yield gauge("commitcast_commit_waiting", "1 while a commit is kept waiting", int(stats.waits_for is not None))
        depths = {"database": stats.database_waiting, "gateway": stats.gateway_waiting}
        yield Metric("gauge", "commitcast_mailbox_messages", "Waiting in a mailbox", labelled("actor", depths))
        yield gauge("commitcast_agents", "Agents that have an actor", stats.agents)
        yield gauge("commitcast_unacknowledged_messages", "On their way to the disk", stats.unacknowledged_messages)
        yield gauge(
            "commitcast_unacknowledged_bytes", "Of messages on their way to the disk", stats.unacknowledged_bytes
        )
        yield counter("commitcast_dead_letters", "Messages that reached nobody", stats.dead_letters)
        yield counter("commitcast_gateway_restarts", "Of the gateway's actor", stats.gateway_restarts)
