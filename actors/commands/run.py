"""`commitcast run`: one agent in the foreground, from a CLI to the database, the terminal and any subscriber."""

import os
import shutil
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from commitcast.actors.commands import open_files, options
from commitcast.actors.commands.output import leave_output, note, print_ending, print_message
from commitcast.actors.commands.stopping import EXIT_CODES, stopping_on_signals
from commitcast.actors.errors import CommandNotFoundError, FutureTimeoutError, RuntimeStoppedError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.sources.command import CommandSource
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, AgentStatus

TERMINATE_S: Final = 8.0
"""How long a signal's end of the agent may take to be stored: the time that its program has to end, and some."""
CATCH_UP_S: Final = 5.0
"""How long subscribers may take at the end to get what is committed."""


def run(
    command: Annotated[
        list[str] | None, typer.Argument(help="The program and its arguments, after `--`.", show_default=False)
    ] = None,
    db: options.Database = options.DEFAULT_DATABASE,
    id: Annotated[str | None, typer.Option(help="The agent's id. A UUID if not given.")] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="How to read its output: claude-code, gemini-cli, codex, jsonl or text. Guessed by its name."
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Replaces {prompt} in the arguments; else it goes to standard input.")
    ] = "",
    listen: options.Listen = "off",
    token_file: options.TokenFile = None,
    json: options.Json = False,
) -> None:
    """Run a CLI as an agent: every line it prints is committed before anybody sees it.

    Prints each message once it is durable. Exit code 0 if the agent completed, 1 if it failed, 130 or 143 if a signal
    ended it.

    Example: commitcast run --listen 127.0.0.1:8765 -- claude -p "{prompt}" --output-format stream-json --verbose
    """
    if not command:
        raise InvalidValueError("give the command to run after `--`, for example: commitcast run -- echo hello")
    if shutil.which(command[0]) is None:
        if os.path.exists(command[0]):
            raise InvalidValueError(f"{command[0]!r} cannot be run: it is a folder, or has no permission to execute")
        raise CommandNotFoundError(command[0])
    open_files.raise_limit(listens=options.address(listen) is not None)
    source = CommandSource(command, type=type)
    runtime = AgentRuntime(db, listen=options.address(listen), token=options.tokens(token_file), catch_up_s=CATCH_UP_S)
    agents: list[AgentHandle] = []
    launched = threading.Lock()

    def terminate(reason: str) -> None:
        with launched:
            ending = [agent.terminate(reason) for agent in agents]
        for future in ending:
            try:
                future.exception(timeout=TERMINATE_S)
            except FutureTimeoutError:  # the disk is full, say: it is not waited for any longer
                runtime.stop()

    with stopping_on_signals(terminate) as stopping:
        runtime.start(accept=False)
        try:
            with launched:
                agents.append(runtime.launch(source, id=id, prompt=prompt))
                if stopping.signal is not None:
                    agents[0].terminate(stopping.signal.name)
            runtime.accept()
            _announce(runtime, db)
            ended = _follow(runtime, agents[0], as_json=json)
        except RuntimeStoppedError:
            if stopping.signal is None:
                raise
            note("stopped before the end could be stored: the next start tells")
            raise typer.Exit(EXIT_CODES[stopping.signal]) from None
        finally:
            runtime.stop()
        print_ending(ended, as_json=json)
        if ended.status is AgentStatus.TERMINATED:
            code = 143 if stopping.signal is None else EXIT_CODES[stopping.signal]
        else:
            code = 0 if ended.status is AgentStatus.COMPLETED else 1
    raise typer.Exit(code)


def _announce(runtime: AgentRuntime, db: Path) -> None:
    if runtime.interrupted:
        note(f"{runtime.interrupted} agents that a crash had left behind in {db} are failed now")
    if runtime.url is not None:
        note(f"subscribers connect to {runtime.url}   page: http://{runtime.address}/")


def _follow(runtime: AgentRuntime, agent: AgentHandle, *, as_json: bool) -> AgentRecord:
    try:
        is_read = True
        for message in agent.follow():
            try:
                if is_read:
                    print_message(message, as_json=as_json)
            except BrokenPipeError:  # whoever read our output has left; the agent and its subscribers go on
                is_read = False
                leave_output()
        return agent.record()
    except RuntimeStoppedError:
        if runtime.failure is not None:
            raise runtime.failure from None
        raise
