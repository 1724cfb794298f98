"""`commitcast serve`: what is in a database, for subscribers, until a signal comes."""

import typer

from commitcast.actors.commands import options
from commitcast.actors.commands.output import note, print_json
from commitcast.actors.commands.stopping import stopping_on_signals
from commitcast.actors.runtime import AgentRuntime


def serve(
    db: options.Database = options.DEFAULT_DATABASE,
    listen: options.Listen = "127.0.0.1:8765",
    token_file: options.TokenFile = None,
    json: options.Json = False,
) -> None:
    """Serve a database to WebSocket subscribers and HTTP readers, until SIGINT or SIGTERM.

    Agents that a crash left at work are made failed at the start; subscribers continue from where they were.
    """
    runtime = AgentRuntime(db, listen=options.address(listen), token=options.token(token_file))
    with stopping_on_signals() as stopping, runtime:
        if json:
            print_json({"url": runtime.url, "db": str(db), "interrupted": runtime.interrupted})
        else:
            if runtime.interrupted:
                note(f"{runtime.interrupted} agents that a crash had left behind are failed now")
            note(f"serving {db} on {runtime.url}   agents: http://{runtime.address}/v1/agents   stop: Ctrl-C")
        stopping.wait()
    if runtime.failure is not None:
        raise runtime.failure
    raise typer.Exit(0)
