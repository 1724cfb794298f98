"""`commitcast bench`: how fast the product is, as ratios to bare SQLite on the same disk, in the same minutes.

Everything in it is real: files, sockets, a subscriber in another process that checks what it is given. If anything that
was given is wrong the measurement is void, and the command fails.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commitcast.actors.bench.machine import describe_machine
from commitcast.actors.bench.plot import draw, load_pyplot
from commitcast.actors.bench.report import describe, table_of
from commitcast.actors.bench.scenarios import SCENARIOS, plan, run_rounds, summarize
from commitcast.actors.bench.workshop import STANDARD_ROWS, Workshop
from commitcast.actors.commands import options
from commitcast.actors.commands.output import console, note, notes, print_json
from commitcast.actors.commands.stopping import EXIT_CODES, ending_signals
from commitcast.persistence.errors import InvalidValueError

TABLE_COLUMNS: Final = 250
"""What the table needs at most; on a narrower terminal its lines break, which is better than figures cut short."""


def bench(
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"Only these (repeat it): {', '.join(SCENARIOS)}.", show_default="all")
    ] = None,
    agents: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=1_000_000,
            help="In place of the standard sizes (repeat it). Of fanout, stalled and restart: subscribers; of replay:"
            " agents that append.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=1_000, help="How often each is measured; stalled, which takes a minute, once.")
    ] = 5,
    messages: Annotated[
        int | None,
        typer.Option(min=1, max=100_000_000, help="A round of each. Scaled to 1 to 2 seconds if not given."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=10**9, help="Of the larger file of growth.")] = STANDARD_ROWS,
    plot: Annotated[Path | None, typer.Option(help="Draw throughput and latency into this PNG.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the files are made, and removed. TMPDIR or this folder if not given.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure: throughput and latency of the full chain against bare SQLite, memory, replay, fan-out, and trouble.

    Exit code 0 if everything that was sent arrived, whether the goals are met or not; 1 if not.
    """
    unknown = [name for name in scenario or () if name not in SCENARIOS]
    if unknown:
        raise InvalidValueError(f"{unknown[0]!r} is no scenario: use {', '.join(SCENARIOS)}")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise InvalidValueError(f"there is no folder {plot.absolute().parent} for the plot: make it, or use another")
    pyplot = load_pyplot() if plot is not None else None
    wanted = plan(scenario or (), agents or ())
    where = folder or Path(os.environ.get("TMPDIR") or ".")
    if not where.is_dir():
        raise InvalidValueError(f"there is no folder {where}: make it, or use another")
    with tempfile.TemporaryDirectory(prefix="commitcast-bench-", dir=where) as made, _interruptible(made):
        machine = describe_machine(Path(made))
        if machine["filesystem"] in ("tmpfs", "ramfs"):
            note(f"{where} is in memory, where a commit costs nothing: choose a --folder on a disk")
        with _progress(is_shown=notes.is_terminal and not json) as progress:
            task = progress.add_task("", total=wanted.steps(rounds))
            build = progress.add_task("making a large file", total=1, visible=False)
            shop = Workshop(
                Path(made),
                messages=messages,
                rows=rows,
                advance=lambda done, of: progress.update(build, completed=done, total=of, visible=done < of),
            )
            found = list(
                run_rounds(
                    shop,
                    wanted,
                    rounds,
                    started=lambda title: progress.update(task, advance=1, description=title),
                )
            )
    yardsticks, results = summarize(wanted, found, rows, machine)
    if json:
        print_json(yardsticks)
        for result in results:
            print_json(result)
    else:
        for line in describe(yardsticks):
            console.print(line, markup=False)
        console.width = max(console.width, TABLE_COLUMNS)
        console.print(table_of(results), soft_wrap=False)
    if plot is not None and pyplot is not None:
        draw(pyplot, plot, yardsticks, results)


def _progress(*, is_shown: bool) -> Progress:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=notes, transient=True, disable=not is_shown)


@contextmanager
def _interruptible(folder: str) -> Iterator[None]:
    """Unwind on the signals that end a program; files and children are removed, and the exit code is the signal's."""
    caught: list[signal.Signals] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        if len(caught) > 1:  # asked twice: the ordered stop of what is measured is not waited for
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(EXIT_CODES[caught[0]])
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ending_signals()}
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODES[caught[0]] if caught else 130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
