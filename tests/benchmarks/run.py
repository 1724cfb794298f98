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

from commitcast.persistence import CommitcastError
from commitcast.persistence.sqlite.journal import DELETE, WAL
from harness import STANDARD_ROWS, Harness
from machine import describe_machine
from plot import draw, load_pyplot
from report import describe, table_of
from scenarios import SCENARIOS, plan, run_rounds, summarize

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
    wanted = plan(options.scenario, options.agents)
    with tempfile.TemporaryDirectory(prefix="commitcast-bench-", dir=options.folder) as made, _interruptible(made):
        machine = describe_machine(Path(made))
        if machine["filesystem"] in ("tmpfs", "ramfs"):
            print(f"{options.folder} is in memory, where a commit costs nothing: use --folder", file=sys.stderr)
        progress = _Progress(wanted.steps(options.rounds), is_shown=sys.stderr.isatty() and not options.json)
        harness = Harness(
            Path(made),
            messages=options.messages,
            rows=options.rows,
            journal_mode=options.journal_mode,
            advance=progress.advance,
        )
        rounds = list(run_rounds(harness, wanted, options.rounds, started=progress.start))
        progress.clear()
    yardsticks, results = summarize(wanted, rounds, options.rows, machine)
    if options.json:
        for value in (yardsticks, *results):
            print(msgspec.json.encode(value).decode())
    else:
        print(*describe(yardsticks), *table_of(results), sep="\n")
    if pyplot is not None:
        draw(pyplot, options.plot, yardsticks, results)


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
    names = ", ".join(SCENARIOS)
    add(
        "--scenario",
        action="append",
        default=[],
        choices=SCENARIOS,
        metavar="NAME",
        help=f"one of {names}; can be repeated; default: all",
    )
    sizes = (
        "instead of the standard sizes; repeatable. For fanout, stalled and restart: subscribers; for replay: agents "
        "that append"
    )
    add("--agents", action="append", default=[], type=_integer(0, 1_000_000), metavar="N", help=sizes)
    rounds = "rounds of each scenario; `stalled`, which takes a minute, runs once (default: 5)"
    add("--rounds", default=5, type=_integer(1, 1_000), metavar="N", help=rounds)
    messages = "messages in a round; default: as many as take 1 to 2 seconds"
    add("--messages", type=_integer(1, 100_000_000), metavar="N", help=messages)
    rows = f"rows in the larger file of growth (default: {STANDARD_ROWS:,})"
    add("--rows", default=STANDARD_ROWS, type=_integer(1, 10**9), metavar="N", help=rows)
    add("--plot", type=_plot_file, metavar="PNG", help="draw throughput and latency into this file; needs matplotlib")
    mode = "journal mode of the runtime's file, but for idle, stalled and restart; bare SQLite stays in delete"
    add("--journal-mode", default=DELETE, choices=(DELETE, WAL), help=mode)
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
