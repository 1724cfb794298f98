"""The `commitcast` command: its subcommands, and the one place where an error becomes a line and an exit code."""

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from commitcast.actors.commands.demo import demo
from commitcast.actors.commands.output import console, fail
from commitcast.actors.commands.reading import agents, messages, verify
from commitcast.actors.commands.run import run
from commitcast.actors.commands.serve import serve
from commitcast.actors.commands.tail import tail
from commitcast.persistence.errors import CommitcastError

app = typer.Typer(
    name="commitcast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Commit, then cast: an actor runtime for AI agents. Every message is committed to a database first and only "
        "then sent to WebSocket subscribers, so what anybody saw is kept and can be resumed from anywhere."
    ),
    epilog="Start with: commitcast demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"commitcast {metadata.version('commitcast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


app.command(context_settings={"allow_interspersed_args": False})(run)
app.command()(serve)
app.command()(demo)
app.command()(agents)
app.command()(messages)
app.command()(tail)
app.command()(verify)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit.

    Args:
        arguments: in place of those of the process.
    """
    try:
        app(arguments)
    except CommitcastError as error:
        fail(str(error))
        sys.exit(2 if isinstance(error, ValueError | LookupError) else 1)
    except BrokenPipeError:
        # Whoever read our output has left; closing it again at exit would only complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
