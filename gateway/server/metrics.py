"""The gateway's own metrics for Prometheus.

The gateway's loop adds to `Traffic`, which holds plain numbers; a collector turns them into metrics at each scrape. The
actors register theirs in the same registry, which belongs to one gateway: two runtimes of one process stay apart.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of Prometheus' text format."""
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds for times: from a commit on a fast disk to a stall that a person notices."""


class Histogram:
    """Counts values by the bounds that they are within. One thread observes; any thread may read."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def metric(self, name: str, meaning: str) -> Metric:
        """Return it for Prometheus."""
        bounds = [*map(str, self._bounds), "+Inf"]
        family = HistogramMetricFamily(name, meaning)
        family.add_metric([], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        return family


class Traffic:
    """What was sent, since the start."""

    def __init__(self) -> None:
        self.frames = 0
        self.messages = 0
        self.bytes = 0
        self.pages = 0
        self.pumped_cpu_s = 0.0
        """CPU time spent on encoding and sending frames."""
        self.shared_s = 0.0
        """Time spent on sending frames that were encoded for another subscriber."""
        self.commit_to_write = Histogram()
        self.closes: Counter[int] = Counter()

    def count(self, messages: int, size: int) -> None:
        """Count a frame that was written."""
        self.frames += 1
        self.messages += messages
        self.bytes += size


class ConnectionStats(msgspec.Struct, frozen=True):
    """The connections of a gateway, right now."""

    connections: int
    paused: int
    """Of these, with a full write buffer."""
    subscriptions: int
    refused_tokens: dict[str, int]
    """Since the start, by error code, over connections of every kind."""
    lags: list[int]
    """Of each subscription to one agent: messages that it is behind what the gateway knows."""


LAG_BOUNDS: Final = (0.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


class GatewayCollector:
    """Turns a gateway's numbers into metrics."""

    def __init__(self, traffic: Traffic, stats: Callable[[], ConnectionStats]) -> None:
        self._traffic = traffic
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, as Prometheus' client expects. On the gateway's loop."""
        now, traffic = self._stats(), self._traffic
        yield GaugeMetricFamily("commitcast_connections", "WebSocket connections that are open", now.connections)
        yield GaugeMetricFamily("commitcast_connections_paused", "Connections whose write buffer is full", now.paused)
        yield GaugeMetricFamily("commitcast_subscriptions", "Subscriptions", now.subscriptions)
        yield CounterMetricFamily("commitcast_frames_out", "Frames written to subscribers", traffic.frames)
        yield CounterMetricFamily("commitcast_messages_out", "Messages written, once for each", traffic.messages)
        yield CounterMetricFamily("commitcast_bytes_out", "Bytes written to subscribers", traffic.bytes)
        yield CounterMetricFamily("commitcast_pages_read", "Pages read for subscribers", traffic.pages)
        yield CounterMetricFamily(
            "commitcast_pump_cpu_seconds", "CPU time spent on encoding and sending", traffic.pumped_cpu_s
        )
        yield CounterMetricFamily(
            "commitcast_fan_out_seconds",
            "Time spent on sending what was encoded for another subscriber",
            traffic.shared_s,
        )
        yield traffic.commit_to_write.metric(
            "commitcast_commit_to_write_seconds", "From a commit until all live subscribers were written to"
        )
        lags = Histogram(LAG_BOUNDS)
        for lag in now.lags:
            lags.observe(lag)
        yield lags.metric("commitcast_subscription_lag_messages", "Messages that subscriptions are behind, right now")
        closes = CounterMetricFamily("commitcast_closes", "Connections that the gateway closed", labels=["code"])
        for code, count in sorted(traffic.closes.items()):
            closes.add_metric([str(code)], count)
        yield closes
        refused = CounterMetricFamily("commitcast_tokens_refused", "Tokens that were not accepted", labels=["code"])
        for reason, count in sorted(now.refused_tokens.items()):
            refused.add_metric([reason], count)
        yield refused


def exposition(registry: CollectorRegistry) -> bytes:
    """Return every metric of a registry in Prometheus' text format."""
    return generate_latest(registry)
