"""The `commitcast` command: its subcommands, and the one place where an error becomes a line and an exit code."""

import io
import os
import sys
from importlib import import_module, metadata
from typing import Annotated, Any, Final, NoReturn

import typer

from commitcast.actors.commands.output import fail, leave
from commitcast.persistence.errors import CommitcastError

COMMANDS: Final = {
    "run": "run",
    "serve": "serve",
    "demo": "demo",
    "agents": "reading",
    "messages": "reading",
    "tail": "tail",
    "verify": "verify",
}
"""The subcommands, in the order of the help, and the module of each in `commands`."""

_UsageError: Final[type[Any]] = typer.BadParameter.__mro__[1]
"""Mistakes in the command line: of click, or of the copy of it that newer versions of typer contain."""


def _application(first: str) -> typer.Typer:
    """Return the application for a command line that begins with `first`.

    Has only the subcommand that is called, because the modules of all take longer to load than most commands take. All
    are needed for the help, and to suggest a name in place of an unknown one.
    """
    application = typer.Typer(
        name="commitcast",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help=(
            "Commit, then cast: an actor runtime for AI agents. Every message is committed to a database first and "
            "only then sent to WebSocket subscribers, so nothing that a subscriber has seen is ever lost."
        ),
        epilog="Start with: commitcast demo",
    )
    application.callback()(_options)
    for name in [first] if first in COMMANDS else [] if first == "--version" else COMMANDS:
        function = getattr(import_module(f"commitcast.actors.commands.{COMMANDS[name]}"), name)
        # The arguments of the program that `run` starts may look like options.
        application.command(name, context_settings={"allow_interspersed_args": name != "run"})(function)
    return application


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"commitcast {metadata.version('commitcast')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit.

    Args:
        arguments: in place of those of the process.
    """
    _make_output_safe()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        application = _application(arguments[0] if arguments else "")
        sys.exit(application(arguments, prog_name="commitcast", standalone_mode=False))
    except _UsageError as error:
        _fail_usage(error)
    except typer.Abort:  # older versions of typer turn Ctrl-C into it
        sys.exit(130)
    except CommitcastError as error:
        fail(str(error))
        sys.exit(2 if isinstance(error, ValueError | LookupError) else 1)
    except BrokenPipeError:
        _leave()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer makes a plain 1 of it
            _leave()
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, OverflowError) as error:  # of the command line or the terminal: one line, no traceback
        fail(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _fail_usage(error: Any) -> NoReturn:
    """Report a mistake in the command line like every other error; without arguments show the help."""
    if error.ctx is None or error.message == error.ctx.get_help():
        error.show()
    else:
        fail(f"{error.format_message().rstrip('.')} (see {error.ctx.command_path} --help)")
    sys.exit(error.exit_code)


def _leave() -> NoReturn:
    """Exit as a program does that SIGPIPE kills: its output is not read any more."""
    leave(sys.stdout)  # the interpreter would report at exit that it cannot be flushed
    sys.exit(141)


def _make_output_safe() -> None:
    """Have somewhere to write to, and a way to write what the terminal's encoding does not know."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # lives as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
