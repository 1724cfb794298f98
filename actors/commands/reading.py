"""`commitcast agents`, `messages` and `verify`: the contents of a file, also while a runtime has it open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from commitcast.actors.commands import options
from commitcast.actors.commands.output import console, counted, note, notes, print_agent, print_ending, print_json
from commitcast.actors.commands.printing import Printer
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import PAGE_ROWS, Report
from commitcast.persistence.verification import verify as verify_file


@contextmanager
def _opened(db: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(db, read_only=True)
    store.open()
    try:
        yield store
    finally:
        store.close()


def agents(
    db: options.Database = options.DEFAULT_DATABASE,
    status: Annotated[str | None, typer.Option(help=f"Only agents with this status: {', '.join(AgentStatus)}.")] = None,
    json: options.Json = False,
) -> None:
    """List the agents in a database: id, status, messages, type and time."""
    if status is not None and status not in list(AgentStatus):
        raise InvalidValueError(f"{status!r} is not a status: use one of {', '.join(AgentStatus)}")
    wanted = None if status is None else AgentStatus(status)
    with _opened(db) as store:
        after = 0
        while page := store.agents(wanted, after):
            for record in page:
                print_agent(record, as_json=json)
            after = page[-1].position


def messages(
    agent: Annotated[str, typer.Argument(help="The agent's id.")],
    db: options.Database = options.DEFAULT_DATABASE,
    after: Annotated[int, typer.Option(min=0, max=2**53, help="Only messages after this sequence.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**53, help="At most this number of messages. Without it: all.")
    ] = None,
    all: options.All = False,
    json: options.Json = False,
) -> None:
    """Print an agent's messages in order. A text in pieces is one line, with the sequence of its first piece."""
    left = limit
    printer = Printer(as_json=json, all=all)
    with _opened(db) as store:
        if store.agent(agent) is None:
            raise AgentNotFoundError(agent)
        while (left is None or left > 0) and (
            page := store.messages(agent, after, PAGE_ROWS if left is None else min(left, PAGE_ROWS))
        ):
            for message in page:
                printer.record(message)
            after = page[-1].sequence
            left = None if left is None else left - len(page)
        printer.end()
        record = store.agent(agent)
    if json or record is None:
        return
    if after < record.head:
        note(f"to continue: --after {after}{printer.account()}")
    else:
        print_ending(record, as_json=False, account=printer.account())


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
    with Progress(console=notes, transient=True, disable=not notes.is_terminal or json) as progress:
        task = progress.add_task("verifying", total=None)
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
        console.print(problem, style="red", markup=False)
    if report.more_problems:
        console.print(f"and {report.more_problems} more", style="red")
    for remark in report.notes:
        console.print(remark, style="bright_black", markup=False)
    verdict = "sound" if report.is_sound else counted(len(report.problems) + report.more_problems, "problem")
    console.print(
        f"{report.path}: {verdict}   {counted(report.agents, 'agent')}, {counted(report.messages, 'message')}, "
        f"{counted(report.transitions, 'status change')}, position {report.position}",
        style="green" if report.is_sound else "red",
        markup=False,
    )
