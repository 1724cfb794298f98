"""Measures commitcast's speed as ratios to bare SQLite on the same disk, in the same minutes.

    python tests/benchmarks/run.py --scenario closed --scenario pipelined --agents 256 --json

Files and sockets are real, and the receiver is a process of its own that checks every message. Exit code 0 if every
message arrived, whether the goals are met or not; 1 if a message was wrong or missing, which invalidates the
measurement; 2 if an option is wrong. Needs commitcast and its dependencies; `--plot` needs matplotlib.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

import streams
from commitcast.persistence import CommitcastError
from commitcast.persistence.sqlite.journal import DELETE, WAL
from harness import STANDARD_ROWS, Harness
from machine import describe_machine
from plot import draw, draw_streams, load_pyplot
from report import describe, describe_machine_in_short, table_of, table_of_streams
from scenarios import SCENARIOS, plan, run_rounds, summarize
from streams import Place

STREAMS: Final = "streams"

_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the results, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _measure(options)
    except CommitcastError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace) -> None:
    pyplot = load_pyplot() if options.plot is not None else None
    names = [name for name in options.scenario if name != STREAMS]
    wanted = plan(names, options.agents) if names or not options.scenario else None
    places: list[Place] = []
    if not options.scenario or STREAMS in options.scenario:
        places = streams.plan(options.agents, options.host_us)
    stream_rounds = options.rounds if options.scenario else 1  # of all ways in all sizes each takes ten minutes
    with tempfile.TemporaryDirectory(prefix="commitcast-bench-", dir=options.folder) as made, _interruptible(made):
        machine = describe_machine(Path(made))
        if machine["filesystem"] in ("tmpfs", "ramfs"):
            print(f"{options.folder} is in memory, where a commit costs nothing: use --folder", file=sys.stderr)
        steps = (0 if wanted is None else wanted.steps(options.rounds)) + stream_rounds * len(places)
        progress = _Progress(steps, is_shown=sys.stderr.isatty() and not options.json)
        harness = Harness(
            Path(made),
            messages=options.messages,
            rows=options.rows,
            journal_mode=options.journal_mode,
            server=options.server,
            advance=progress.advance,
        )
        spoken = list(streams.run_streams(harness, places, stream_rounds, progress.start)) if places else []
        rounds = [] if wanted is None else list(run_rounds(harness, wanted, options.rounds, started=progress.start))
        progress.clear()
    of_streams = streams.results_of(places, spoken)
    values: list[msgspec.Struct] = [*of_streams]
    lines = [describe_machine_in_short(machine), *table_of_streams(of_streams)] if of_streams else []
    if wanted is not None:
        yardsticks, results = summarize(wanted, rounds, options.rows, machine)
        values += [yardsticks, *results]
        lines += [*describe(yardsticks), *table_of(results)]
        if pyplot is not None:
            draw(pyplot, options.plot, yardsticks, results)
    elif pyplot is not None:
        draw_streams(pyplot, options.plot, machine, of_streams)
    print(*([msgspec.json.encode(value).decode() for value in values] if options.json else lines), sep="\n")


class _Progress:
    """One line on a terminal."""

    def __init__(self, total: int, *, is_shown: bool) -> None:
        self._total = total
        self._is_shown = is_shown
        self._done = 0
        self._title = ""

    def start(self, title: str) -> None:
        """Show the next measurement."""
        self._done += 1
        self._title = title
        self._show(f"{self._done}/{self._total} {title}")

    def advance(self, done: int, of: int) -> None:
        """Show how much of a large file is made."""
        self._show(f"{self._done}/{self._total} {self._title}: {done:,} of {of:,} rows")

    def clear(self) -> None:
        """Remove the line."""
        self._show("")

    def _show(self, text: str) -> None:
        if self._is_shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure commitcast against bare SQLite on the same disk.")
    add = parser.add_argument
    names = ", ".join((STREAMS, *SCENARIOS))
    add(
        "--scenario",
        action="append",
        default=[],
        choices=(STREAMS, *SCENARIOS),
        metavar="NAME",
        help=f"one of {names}; can be repeated; default: all",
    )
    sizes = (
        "instead of the standard sizes; repeatable. For fanout, stalled and restart: subscribers; for replay: agents "
        "that append"
    )
    add("--agents", action="append", default=[], type=_integer(0, 1_000_000), metavar="N", help=sizes)
    host_us = "microseconds of the host's own work for each token of streams; repeatable (default: 0, 20 and 60)"
    add("--host-us", action="append", default=[], type=_integer(0, 100_000), metavar="US", help=host_us)
    rounds = (
        "rounds of each scenario; `stalled`, which takes a minute, runs once, and so does `streams` unless it is named "
        "(default: 5)"
    )
    add("--rounds", default=5, type=_integer(1, 1_000), metavar="N", help=rounds)
    messages = "messages in a round; default: as many as take 1 to 2 seconds"
    add("--messages", type=_integer(1, 100_000_000), metavar="N", help=messages)
    rows = f"rows in the larger file of growth (default: {STANDARD_ROWS:,})"
    add("--rows", default=STANDARD_ROWS, type=_integer(1, 10**9), metavar="N", help=rows)
    plot = "draw throughput and latency into this file, of streams if nothing else is measured; needs matplotlib"
    add("--plot", type=_plot_file, metavar="PNG", help=plot)
    mode = "journal mode of the runtime's file, but for idle, stalled and restart; bare SQLite stays in delete"
    add("--journal-mode", default=DELETE, choices=(DELETE, WAL), help=mode)
    form = "form of the runtimes that are measured (default: the product's own)"
    add("--server", choices=("process", "in_process"), help=form)
    folder = "folder for temporary files; default: TMPDIR, else the current folder"
    add("--folder", default=os.environ.get("TMPDIR") or ".", type=_folder, help=folder)
    add("--json", action="store_true", help="print one JSON object a line")
    return parser


def _integer(least: int, most: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:,} and {most:,}")
        return int(text)

    return integer


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}: make it, or use another")
    return Path(text)


def _plot_file(text: str) -> Path:
    _folder(str(Path(text).absolute().parent))
    return Path(text)


@contextmanager
def _interruptible(folder: str) -> Iterator[None]:
    """Remove files and children on a signal that ends a program, and exit with 128 and its number."""
    caught: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:  # asked twice: do not wait for the ordered stop of what is measured
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(128 + caught[0])
        raise KeyboardInterrupt

    ending = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # `nohup` ignores SIGHUP
    before = {number: signal.signal(number, interrupt) for number in ending}
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + caught[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
