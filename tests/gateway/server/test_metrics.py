"""Metrics in Prometheus' text format, read by Prometheus' own parser."""

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from commitcast.gateway.server.metrics import Histogram, Metric, counter, exposition, gauge, labelled


class Numbers:
    """A collector of given metrics."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        return self._metrics


def parsed(*metrics: Metric) -> dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]]:
    """Return the type, meaning and samples of each family."""
    text = exposition([Numbers(*metrics)]).decode()
    return {
        family.name: (
            family.type,
            family.documentation,
            [(sample.name, dict(sample.labels), sample.value) for sample in family.samples],
        )
        for family in text_string_to_metric_families(text)
    }


def test_counters_and_gauges_have_their_type_meaning_and_value() -> None:
    found = parsed(counter("frames", "Frames written", 12_345_678), gauge("open", "Open now", 2))

    assert found == {
        "frames": ("counter", "Frames written", [("frames_total", {}, 12_345_678)]),
        "open": ("gauge", "Open now", [("open", {}, 2)]),
    }


def test_the_value_of_a_label_may_be_any_text() -> None:
    odd = 'a "quoted" \\ line\nand another, é'

    found = parsed(Metric("gauge", "waiting", "Waiting", labelled("actor", {"gateway": 1, odd: 2})))

    assert found["waiting"][2] == [("waiting", {"actor": "gateway"}, 1), ("waiting", {"actor": odd}, 2)]


def test_the_buckets_of_a_histogram_are_cumulative() -> None:
    histogram = Histogram((0.5, 2.0))
    for value in (0.1, 0.2, 1.0, 7.0):
        histogram.observe(value)

    found = parsed(histogram.metric("took_seconds", "Took"))

    buckets = [("took_seconds_bucket", {"le": bound}, count) for bound, count in (("0.5", 2), ("2.0", 3), ("+Inf", 4))]
    assert found == {
        "took_seconds": ("histogram", "Took", [*buckets, ("took_seconds_count", {}, 4), ("took_seconds_sum", {}, 8.3)])
    }


def test_the_metrics_of_all_collectors_are_in_one_text() -> None:
    text = exposition([Numbers(gauge("a", "A", 1)), Numbers(gauge("b", "B", 2))])

    assert text == b"# HELP a A\n# TYPE a gauge\na 1.0\n# HELP b B\n# TYPE b gauge\nb 2.0\n"
