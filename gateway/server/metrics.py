"""The gateway's counters, and Prometheus' text format. Counts are plain numbers of the gateway's loop.

`Traffic` is what the loop adds to; a collector turns it into metrics when they are asked for. The actors add their
collector to the gateway's, so two runtimes in one process have separate metrics.

The format is written here, in ten lines, and not by `prometheus_client`: importing that takes as long as a third of
commitcast, which every program that embeds a runtime would wait for.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

if TYPE_CHECKING:  # a runtime without subscribers has metrics, and no hub
    from commitcast.gateway.hub.subscription import Subscriber


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of Prometheus' text format."""
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds for times: from a commit on a fast disk to a stall that a person notices."""


class Metric(msgspec.Struct, frozen=True):
    """One metric, with its values at one moment."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    meaning: str
    values: Mapping[str, float]
    """By what follows the name on the line: a suffix, labels, or nothing."""


class Collector(Protocol):
    """A source of metrics."""

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""


def counter(name: str, meaning: str, value: float) -> Metric:
    """Return a number that only grows."""
    return Metric("counter", name, meaning, {"": value})


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a number that goes up and down."""
    return Metric("gauge", name, meaning, {"": value})


def labelled(label: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of a metric that has one for each value of a label."""
    return {f"{{{label}={json.dumps(of, ensure_ascii=False)}}}": value for of, value in values.items()}


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

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    def metric(self, name: str, meaning: str) -> Metric:
        """Return it for Prometheus."""
        bounds = [*map(str, self._bounds), "+Inf"]
        values = {
            f'_bucket{{le="{bound}"}}': count for bound, count in zip(bounds, accumulate(self._counts), strict=True)
        }
        return Metric("histogram", name, meaning, {**values, "_count": sum(self._counts), "_sum": self._sum})


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


LAG_BOUNDS: Final = (0.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


def gateway_metrics(
    traffic: Traffic, subscribers: "Collection[Subscriber]", lags: Iterable[int], refused_tokens: Mapping[str, int]
) -> Iterable[Metric]:
    """Yield the metrics of a gateway. On its loop.

    Args:
        traffic: since the start.
        subscribers: all connections.
        lags: of each subscription to one agent, in messages.
        refused_tokens: since the start, by error code.
    """
    paused = sum(subscriber.is_paused for subscriber in subscribers)
    subscriptions = sum(len(subscriber.subscriptions) for subscriber in subscribers)
    yield gauge("commitcast_connections", "WebSocket connections that are open", len(subscribers))
    yield gauge("commitcast_connections_paused", "Connections whose write buffer is full", paused)
    yield gauge("commitcast_subscriptions", "Subscriptions", subscriptions)
    yield counter("commitcast_frames_out", "Frames written to subscribers", traffic.frames)
    yield counter("commitcast_messages_out", "Messages written to subscribers", traffic.messages)
    yield counter("commitcast_bytes_out", "Bytes written to subscribers", traffic.bytes)
    yield counter("commitcast_pages_read", "Pages read from the store", traffic.pages)
    yield counter("commitcast_pump_cpu_seconds", "CPU time spent on encoding and sending", traffic.pumped_cpu_s)
    yield counter(
        "commitcast_fan_out_seconds",
        "Time spent on sending frames that are shared by subscribers",
        traffic.shared_s,
    )
    yield traffic.commit_to_write.metric(
        "commitcast_commit_to_write_seconds", "Time from a commit until it is written to all live subscribers"
    )
    behind = Histogram(LAG_BOUNDS)
    for lag in lags:
        behind.observe(lag)
    yield behind.metric("commitcast_subscription_lag_messages", "Messages by which subscriptions are behind now")
    closes = {str(code): count for code, count in sorted(traffic.closes.items())}
    meaning = "Connections that the gateway closed"
    yield Metric("counter", "commitcast_closes", meaning, labelled("code", closes))
    refused = labelled("code", dict(sorted(refused_tokens.items())))
    yield Metric("counter", "commitcast_tokens_refused", "Tokens that were not accepted", refused)


def exposition(collectors: Iterable[Collector]) -> bytes:
    """Return every metric in Prometheus' text format."""
    lines = []
    for metric in (metric for collector in collectors for metric in collector.collect()):
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} {metric.kind}"]
        lines += [f"{name}{rest} {float(value)}" for rest, value in metric.values.items()]
    return "\n".join([*lines, ""]).encode()
