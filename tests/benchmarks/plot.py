"""Throughput and latency against concurrency, drawn into a PNG by matplotlib, which is an extra."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmark_errors import BenchmarkError
from results import Result, Yardsticks
from streams import StreamResult

_WAYS: Final = {
    "control": "s:k",
    "control_process": "s:c",
    "emit": "o-b",
    "follow": "o-g",
    "subscriber": "o-r",
}
"""Those that are timed, and how they are drawn."""
_COLOURS: Final = {"pipelined": "tab:blue", "closed": "tab:orange", "mixed": "tab:green"}


def load_pyplot() -> ModuleType:
    """Return `matplotlib.pyplot`, drawing to files only.

    Raises:
        BenchmarkError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise BenchmarkError("a plot needs matplotlib: pip install matplotlib") from error


def draw(pyplot: ModuleType, path: Path, yardsticks: Yardsticks, results: Sequence[Result]) -> None:
    """Draw the results of the full chain into a file.

    Args:
        pyplot: of `load_pyplot`.
        path: of the PNG, which is replaced.
        yardsticks: drawn as lines to compare with.
        results: those without agents in turn are left out.
    """
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 9), layout="constrained")
    try:
        for name, colour in _COLOURS.items():
            series = sorted((one for one in results if one.scenario == name), key=lambda one: one.agents)
            if series:
                _draw_throughput(above, name, colour, series)
                _draw_latency(below, name, colour, series)
        _draw_yardsticks(above, below, yardsticks)
        above.set(xscale="log", yscale="log", ylabel="messages/s")
        naive = yardsticks.naive_per_s
        right = above.secondary_yaxis("right", functions=(lambda rate: rate / naive, lambda times: times * naive))
        right.set_ylabel("× naive")
        below.set(xscale="log", yscale="log", xlabel="agents", ylabel="acknowledgement, ms")
        machine = yardsticks.machine
        figure.suptitle(f"commitcast {machine['commitcast']}: {machine['cpu']}, {machine['filesystem']}")
        for axes in (above, below):
            axes.grid(True, which="major", alpha=0.3)
            axes.legend(fontsize="small")
        figure.savefig(path, format="png", dpi=120)
    finally:
        pyplot.close(figure)


def draw_streams(pyplot: ModuleType, path: Path, machine: dict[str, Any], results: Sequence[StreamResult]) -> None:
    """Draw the latencies of streams against the number of agents into a file, a panel for each work of the host."""
    works = sorted({one.host_us for one in results})
    figure, panels = pyplot.subplots(
        1, len(works), sharey=True, squeeze=False, figsize=(5 * len(works), 5), layout="constrained"
    )
    try:
        for axes, host_us in zip(panels[0], works, strict=True):
            for way, style in _WAYS.items():
                series = [one for one in results if (one.way, one.host_us) == (way, host_us) and one.p50_ms]
                agents = [one.agents for one in series]
                axes.plot(agents, [one.p50_ms for one in series], style, label=way.replace("_", ", in a "))
            axes.set(xscale="log", yscale="log", xlabel="agents", title=f"{host_us} µs of the host's own a token")
            sizes = sorted({one.agents for one in results})
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.grid(True, which="major", alpha=0.3)
        panels[0][0].set_ylabel("from saying to acknowledged or heard, p50 ms")
        panels[0][0].legend(fontsize="small")
        figure.suptitle(f"commitcast {machine['commitcast']}: {machine['cpu']}, {machine['filesystem']}")
        figure.savefig(path, format="png", dpi=120)
    finally:
        pyplot.close(figure)


def _draw_throughput(axes: Any, name: str, colour: str, series: Sequence[Result]) -> None:
    agents = [one.agents for one in series]
    axes.plot(agents, [one.messages_per_s for one in series], "o-", color=colour, label=name)
    spreads = [one.spread["messages_per_s"] for one in series]
    axes.vlines(agents, [least for least, _ in spreads], [most for _, most in spreads], color=colour, alpha=0.5)


def _draw_latency(axes: Any, name: str, colour: str, series: Sequence[Result]) -> None:
    agents = [one.agents for one in series]
    axes.plot(agents, [one.ack_p50_ms for one in series], "o-", color=colour, label=f"{name}, p50")
    axes.plot(agents, [one.ack_p99_ms for one in series], "o--", color=colour, alpha=0.6, label=f"{name}, p99")


def _draw_yardsticks(above: Any, below: Any, yardsticks: Yardsticks) -> None:
    sizes = sorted(yardsticks.by_agents)
    ceilings = [yardsticks.by_agents[size].ceiling_per_s for size in sizes]
    naives = [yardsticks.by_agents[size].naive_per_s for size in sizes]
    commits = [yardsticks.by_agents[size].commit_p50_ms for size in sizes]
    above.plot(sizes, ceilings, "s:", color="black", label="ceiling")
    above.plot(sizes, naives, "s:", color="gray", label="naive")
    below.plot(sizes, commits, "s:", color="gray", label="a bare commit, p50")
