"""`commitcast agents` and `messages`: the contents of a file, also while a runtime has it open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from commitcast.actors.commands import options
from commitcast.actors.commands.output import note
from commitcast.actors.commands.printing import Printer, print_agent, print_ending
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import PAGE_ROWS


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
