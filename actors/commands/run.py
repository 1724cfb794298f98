"""`commitcast run`: one agent in the foreground, from a CLI to the database, the terminal and any subscriber."""

import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from commitcast.actors.commands import listening, options
from commitcast.actors.commands.output import counted, leave, note
from commitcast.actors.commands.piped_input import piped_input
from commitcast.actors.commands.printing import Printer, print_ending
from commitcast.actors.commands.stopping import EXIT_CODES, Stopping, stopping_on_signals
from commitcast.actors.errors import CommandNotFoundError, FutureTimeoutError, RuntimeStoppedError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.sources.command import EXIT_TIMEOUT_S, CommandSource
from commitcast.actors.sources.parsers import PARSERS
from commitcast.gateway.server.access.auth import StaticTokens
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.sqlite.journal import DELETE

TERMINATE_S: Final = 8.0
"""How long the end of the agent after a signal may take to be stored: longer than its program has to end."""
CATCH_UP_S: Final = 5.0
"""How long to wait at the end for subscribers to receive everything that is committed."""


def run(
    command: Annotated[
        list[str] | None, typer.Argument(help="The program and its arguments, after `--`.", show_default=False)
    ] = None,
    db: options.Database = options.DEFAULT_DATABASE,
    journal_mode: options.JournalMode = DELETE,
    id: Annotated[str | None, typer.Option(help="The agent's id. Without it: a new UUID.")] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help=f"Format of its output: {', '.join(PARSERS)}. Without it: guessed from its name, then from its output."
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(help="Replaces {prompt} in the arguments; if they have none, written to standard input."),
    ] = "",
    listen: listening.Listen = "off",
    token_file: listening.TokenFile = None,
    stdin: Annotated[
        bool | None,
        typer.Option(
            "--stdin/--no-stdin",
            help="Pass standard input on to the program, after a prompt that is written there. Without this option: "
            "only a pipe or a file, and with a prompt only if its first byte arrives within 5 s.",
            show_default=False,
        ),
    ] = None,
    all: options.All = False,
    exit_timeout_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds that a program may be silent after its verdict before it is stopped; the verdict then "
            "counts. `inf`: no limit.",
        ),
    ] = EXIT_TIMEOUT_S,
    json: options.Json = False,
) -> None:
    """Run a CLI as an agent: every line that it prints is committed before anyone sees it.

    Prints each message once it is durable; a text that arrives in pieces is one line, with the sequence of its first
    piece. Options go before the program; anything after it belongs to the program.

    Exit code 0 if the agent completed, 1 if it failed, 2 for a mistake in the command line, 128 plus the signal's
    number if a signal ended it.

    Example: commitcast run --listen 127.0.0.1:8765 -- claude -p "{prompt}" --output-format stream-json --verbose
    """
    if not command:
        raise InvalidValueError("give the command to run after `--`, for example: commitcast run -- echo hello")
    if shutil.which(command[0]) is None:
        if os.path.exists(command[0]):
            raise InvalidValueError(f"{command[0]!r} cannot be run: it is a folder or is not executable (chmod +x)")
        raise CommandNotFoundError(command[0])
    tokens = None if token_file is None else StaticTokens.from_file(token_file)
    address = None if listen == "off" else listening.address(listen, tokens)
    listening.raise_file_limit(listens=address is not None)
    printer = Printer(as_json=json, all=all)
    runtime = AgentRuntime(db, journal_mode=journal_mode, listen=address, token=tokens, catch_up_s=CATCH_UP_S)
    agents: list[AgentHandle] = []
    launched = threading.Lock()

    def terminate(reason: str) -> None:
        with launched:
            ending = [agent.terminate(reason) for agent in agents]
        for future in ending:
            try:
                future.exception(timeout=TERMINATE_S)
            except FutureTimeoutError:  # for example, the disk is full
                runtime.stop()

    with stopping_on_signals(terminate) as stopping, piped_input(stdin, has_prompt=bool(prompt)) as piped:
        source = CommandSource(command, type=type, exit_timeout_s=exit_timeout_s, stdin=piped)
        runtime.start(accept=False)
        try:
            with launched:
                agents.append(runtime.launch(source, id=id, prompt=prompt))
                if stopping.signal is not None:
                    agents[0].terminate(stopping.signal.name)
            runtime.accept()
            _announce(runtime, db)
            ended = _follow(runtime, agents[0], printer, stopping)
        except RuntimeStoppedError:
            if stopping.signal is None:
                raise
            note("stopped before the end was stored: the next start marks the agent as failed")
            raise typer.Exit(EXIT_CODES[stopping.signal]) from None
        finally:
            runtime.stop()
        _is_written(lambda: print_ending(ended, as_json=json, account=printer.account()))
        if ended.status is AgentStatus.TERMINATED:
            code = 143 if stopping.signal is None else EXIT_CODES[stopping.signal]
        else:
            code = 0 if ended.status is AgentStatus.COMPLETED else 1
    raise typer.Exit(code)


def _announce(runtime: AgentRuntime, db: Path) -> None:
    if runtime.recovered_agents:
        note(f"marked as failed after a crash: {counted(runtime.recovered_agents, 'agent')} in {db}")
    if runtime.url is not None:
        note(f"subscribers connect to {runtime.url}   page: http://{runtime.address}/")


def _follow(runtime: AgentRuntime, agent: AgentHandle, printer: Printer, stopping: Stopping) -> AgentRecord:
    try:
        is_read = True
        for message in agent.follow():
            if is_read and not stopping.has_left_output:
                is_read = _is_written(lambda: printer.record(message))  # noqa: B023  # called at once
        if is_read:
            _is_written(printer.end)
        return agent.record()
    except RuntimeStoppedError:
        if runtime.failure is not None:
            raise runtime.failure from None
        raise


def _is_written(write: Callable[[], None]) -> bool:
    """Write to our output; return whether it can be written again. The agent and its subscribers always continue."""
    try:
        write()
    except BrokenPipeError:  # the reader has closed it
        leave(sys.stdout)
    except OSError as error:  # the disk of a file is full, the terminal is gone
        leave(sys.stdout)
        with suppress(OSError):
            note(f"the output cannot be written ({error.strerror}): the agent continues without it")
    else:
        return True
    return False
