"""`commitcast verify`: proves a file."""

import sys
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from commitcast.actors.commands import options
from commitcast.actors.commands.output import counted, print_json, say
from commitcast.persistence.errors import StoreOpenError
from commitcast.persistence.paths import real
from commitcast.persistence.sqlite.lock import wait_for_server
from commitcast.persistence.sqlite.verify import verify as verify_file
from commitcast.persistence.store import Report


def verify(
    db: options.Database = options.DEFAULT_DATABASE,
    deep: Annotated[
        bool, typer.Option("--deep", help="Check SQLite's own structures even while a runtime has the file open.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Verify a database: sequences, positions, checksums, foreign keys, and exactly one end for every agent.

    Exit code 0 if it is sound; else 1, and the problems are listed.
    """
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty() or json) as progress:
        task = progress.add_task("verifying", total=None)
        with suppress(OSError, StoreOpenError):  # what is wrong with the file is said below
            wait_for_server(real(db))  # it stays for a second after the last program has gone
        report = verify_file(
            db, deep=deep, progress=lambda done, of: progress.update(task, completed=done, total=max(done, of))
        )
    _print_report(report, as_json=json)
    raise typer.Exit(0 if report.is_sound else 1)


def _print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json({"sound": report.is_sound, **{name: getattr(report, name) for name in report.__struct_fields__}})
        return
    for problem in report.problems:
        say(problem, "red")
    if report.more_problems:
        say(f"and {report.more_problems} more", "red")
    for remark in report.notes:
        say(remark, "bright_black")
    verdict = "sound" if report.is_sound else counted(len(report.problems) + report.more_problems, "problem")
    say(
        f"{report.path}: {verdict}   {counted(report.agents, 'agent')}, {counted(report.messages, 'message')}, "
        f"{counted(report.transitions, 'status change')}, position {report.position}",
        "green" if report.is_sound else "red",
    )
