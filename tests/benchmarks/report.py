"""The results as text for people."""

from collections.abc import Sequence
from typing import Any, Final

from results import Result, Verdict, Yardsticks
from streams import StreamResult

_UNITS: Final = {
    "times_naive": "× naive",
    "of_ceiling": "of ceiling",
    "ack_of_commit": "× a bare commit",
    "bytes_per_agent": "B an agent",
    "stop_s": "s to stop",
    "of_chain": "of the chain",
    "of_small": "× the small file's time",
    "of_bare": "of a bare server",
    "send_of_bare": "of it by CPU of a send",
    "live_p99_ms": "ms p99",
    "p99_of_alone": "× the p99 alone",
    "grown_mib": "MiB grown",
    "back_after_term_s": "s back after TERM",
    "back_after_kill_s": "s back after KILL",
}

_ALSO: Final = (
    *("stop_s", "of_chain", "of_small", "of_bare", "send_of_bare"),
    *("live_p99_ms", "p99_of_alone", "grown_mib", "back_after_term_s", "back_after_kill_s"),
)
_TEXTS: Final = ("scenario", "streams", "also", "goal")


def describe_machine_in_short(machine: dict[str, Any]) -> str:
    """Return the line that says on what it was measured."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['filesystem']} · Python {machine['python']}, "
        f"SQLite {machine['sqlite']}, apsw {machine['apsw']}, commitcast {machine['commitcast']}"
    )


def describe(yardsticks: Yardsticks) -> list[str]:
    """Return the lines that stand above the table: on what it was measured, and against what."""
    spread = yardsticks.spread
    return [
        describe_machine_in_short(yardsticks.machine),
        f"with {yardsticks.agents} agents in turn: naive {yardsticks.naive_per_s:,.0f} messages/s "
        f"({_range(spread['naive_per_s'])}), ceiling {yardsticks.ceiling_per_s:,.0f} messages/s "
        f"({_range(spread['ceiling_per_s'])}), a bare commit {yardsticks.commit_p50_ms:.2f} ms",
    ]


def table_of(results: Sequence[Result]) -> list[str]:
    """Return the lines of a table, without the columns that no result fills."""
    return _table([_cells(result) for result in results])


def table_of_streams(results: Sequence[StreamResult]) -> list[str]:
    """Return the lines of the table of streams."""
    return _table([_cells_of_stream(result) for result in results])


def _table(rows: list[dict[str, str]]) -> list[str]:
    columns = []
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if any(cells):
            width = max(map(len, (name, *cells)))
            columns.append([f"{cell:{'<' if name in _TEXTS else '>'}{width}}" for cell in (name, *cells)])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _cells_of_stream(result: StreamResult) -> dict[str, str]:
    is_timed = result.p50_ms > 0
    return {
        "streams": result.way,
        "agents": f"{result.agents:,}",
        "host µs": f"{result.host_us}",
        "p50/p99 ms": f"{result.p50_ms:.2f}/{result.p99_ms:.1f}" if is_timed else "",
        "of control": _number(result.of_control, ".2f"),
        "of its process": _number(result.of_control_process, ".2f"),
        "CPU µs/token": f"{result.cpu_us:.0f}",
        "loop p99 ms": f"{result.loop_p99_ms:.1f}",
        "commits": f"{result.commits:,.0f}",
        "delivered": f"{result.delivered:.2f}",
        "goal": "; ".join(
            f"{'≤' if goal.at_most else '≥'} {goal.limit:g}{' ×' if ' of ' in goal.field else ''} {goal.field} "
            + ("met" if goal.met else "missed")
            for goal in result.goals
        ),
    }


def _cells(result: Result) -> dict[str, str]:
    spread = result.spread.get("messages_per_s") or next(iter(result.spread.values()), None)
    pool = "" if result.subscribers is None else f" to {result.subscribers:,}"
    latencies = (result.ack_p50_ms, result.ack_p99_ms)
    return {
        "scenario": result.scenario + pool,
        "agents": f"{result.agents:,}",
        "messages/s": _number(result.messages_per_s, ",.0f"),
        "min-max": "" if spread is None else _range(spread),
        "× naive": _number(result.times_naive, ".1f"),
        "of ceiling": _number(result.of_ceiling, ".2f"),
        "ack p50/p99 ms": "/".join(_number(found, ".2f") for found in latencies if found is not None),
        "of bare commit": _number(result.ack_of_commit, ".2f"),
        "B/agent": _number(result.bytes_per_agent, ",.0f"),
        "also": ", ".join(
            f"{getattr(result, field):.2f} {_UNITS[field]}" for field in _ALSO if getattr(result, field) is not None
        ),
        "goal": "; ".join(_goal(verdict) for verdict in result.goals),
    }


def _goal(verdict: Verdict) -> str:
    sign = "≤" if verdict.at_most else "≥"
    return f"{sign} {verdict.limit:g} {_UNITS[verdict.field]} {'met' if verdict.met else 'missed'}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _range(spread: tuple[float, float]) -> str:
    least, most = spread
    form = ",.0f" if most >= 100 else ".3g"
    return f"{least:{form}}-{most:{form}}"
