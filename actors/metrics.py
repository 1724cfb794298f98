"""What the actors count of themselves, for Prometheus: commits, and what waits in mailboxes."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from commitcast.actors.commit_meter import CommitMeter
from commitcast.actors.system import RuntimeStats


class RuntimeCollector:
    """Turns a runtime's numbers into metrics."""

    def __init__(self, stats: Callable[[], RuntimeStats], commits: CommitMeter) -> None:
        self._stats = stats
        self._commits = commits

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, as Prometheus' client wants it. Any thread."""
        stats = self._stats()
        yield self._commits.seconds.metric("commitcast_commit_seconds", "Of one transaction, to the disk")
        yield self._commits.sizes.metric("commitcast_batch_writes", "Messages and changes in one transaction")
        yield CounterMetricFamily(
            "commitcast_commit_refusals", "Refused for the moment, and tried again", self._commits.refusals
        )
        yield GaugeMetricFamily(
            "commitcast_commit_waiting", "1 while a commit is kept waiting", int(stats.waits_for is not None)
        )
        depths = GaugeMetricFamily("commitcast_mailbox_messages", "Waiting in a mailbox", labels=["actor"])
        depths.add_metric(["database"], stats.database_waiting)
        depths.add_metric(["gateway"], stats.gateway_waiting)
        yield depths
        yield GaugeMetricFamily("commitcast_agents", "Agents that have an actor", stats.agents)
        yield GaugeMetricFamily(
            "commitcast_unacknowledged_messages", "On their way to the disk", stats.unacknowledged_messages
        )
        yield GaugeMetricFamily(
            "commitcast_unacknowledged_bytes", "Of messages on their way to the disk", stats.unacknowledged_bytes
        )
        yield CounterMetricFamily("commitcast_dead_letters", "Messages that reached nobody", stats.dead_letters)
        yield CounterMetricFamily("commitcast_gateway_restarts", "Of the gateway's actor", stats.gateway_restarts)
