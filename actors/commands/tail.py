"""`commitcast tail`: a subscriber in the terminal that reconnects after every loss of the connection."""

import asyncio
import os
import select
import stat
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from commitcast.actors.commands import options
from commitcast.actors.commands.output import note, note_ending
from commitcast.actors.commands.printing import Printer
from commitcast.actors.commands.stopping import EXIT_CODES, Stopping, stopping_on_signals
from commitcast.gateway.client.asyncio import Subscription, subscribe
from commitcast.gateway.protocol.frames import ALL
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus


def tail(
    agent: Annotated[str, typer.Argument(help='The agent\'s id, or "*" for all agents.')],
    url: Annotated[str, typer.Option(help="The server: ws://HOST:PORT/v1/ws, or just HOST:PORT.")] = "127.0.0.1:8765",
    after: Annotated[
        str, typer.Option(help='Only messages after this sequence (for "*": position); "tail" for new messages only.')
    ] = "0",
    token_file: Annotated[Path | None, typer.Option(help="File with the token to present, in its first line.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --json: include the programs' original lines as `raw`.")
    ] = False,
    all: options.All = False,
    json: options.Json = False,
) -> None:
    """Print an agent's messages as they become durable, from any sequence on, until the agent ends.

    A text that arrives in pieces is one line, with the sequence of its first piece. Reconnects by itself.

    Exit code 0 if the agent completed, 1 if it did not, 2 for a mistake in the command line.
    """
    if after != "tail" and not (after.isascii() and after.isdecimal()):
        raise InvalidValueError(f"--after {after!r} is not valid: use a sequence or tail")
    start: int | Literal["tail"] = "tail" if after == "tail" else int(after)
    following = subscribe(websocket_url(url), agent, after=start, raw=raw, token=_token(token_file))
    printer = Printer(as_json=json, all=all, names_agents=agent == ALL)
    with stopping_on_signals() as stopping:
        asyncio.run(_print_all(following, stopping, printer))
    printer.end()
    if stopping.signal is not None:
        note(f"to continue: --after {following.cursor}")
        raise typer.Exit(EXIT_CODES[stopping.signal])
    if following.status is not None and agent != ALL:
        source = following.ending or following.record  # the last `status`, or the record at the last `subscribed`
        why = None if source is None or source.error is None else source.error.message
        note_ending(agent, following.status, following.cursor, printer.account(), why)
    raise typer.Exit(0 if following.status == AgentStatus.COMPLETED else 1)


async def _print_all(following: Subscription, stopping: Stopping, printer: Printer) -> None:
    async def print_them() -> None:
        async with following:  # closed in this task: another one cannot close an iterator that runs
            async for item in following:
                printer.item(item)

    async def report_no_connection() -> None:
        while following.reconnects < 3:
            await asyncio.sleep(0.2)
        if following.status is None and not following.cursor:
            note("the server cannot be reached yet; tail keeps trying (stop: Ctrl-C)")

    printing = asyncio.create_task(print_them())
    reporting = asyncio.create_task(report_no_connection())
    asked = asyncio.create_task(stopping.wait_async())
    left = asyncio.create_task(_reader_left())
    await asyncio.wait({printing, asked, left}, return_when=asyncio.FIRST_COMPLETED)
    for task in (printing, asked, left, reporting):
        task.cancel()
    results = await asyncio.gather(printing, left, asked, reporting, return_exceptions=True)
    for error in results[:2]:
        if isinstance(error, Exception):
            raise error


async def _reader_left() -> None:
    """Wait until the reader of standard output closes it. Otherwise that would be noticed at the next write only.

    Raises:
        BrokenPipeError: the other end of the pipe is closed. For a file and a terminal this never happens.
    """
    output, gone = sys.stdout.fileno(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        poll = select.poll()
        poll.register(output, 0)  # errors are always reported
        if poll.poll(0):
            gone.set()
        loop.remove_reader(output)

    mode = os.fstat(output).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop.add_reader(output, look)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(output)
    raise BrokenPipeError


def _token(file: Path | None) -> str | None:
    """Return the token that a client presents: the first word of the first line that is not a comment.

    Raises:
        InvalidValueError: the file cannot be read or has no token.
    """
    if file is None:
        return None
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"the token file {file} cannot be read: {error}") from error
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not words or not words[0].isascii():
        raise InvalidValueError(f"the token file {file} has no token: add a line with one, in printable ASCII")
    return words[0]


def websocket_url(address: str) -> str:
    """Return the WebSocket URL for an address.

    Raises:
        InvalidValueError: it is not an address of a server.
    """
    if "://" not in address:
        address = f"ws://{address}"
    address = address.replace("http://", "ws://", 1).replace("https://", "wss://", 1)
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    try:
        is_address = bool(urlsplit(f"ws://{host}").hostname) and (urlsplit(f"ws://{host}").port or 1) > 0
    except ValueError:
        is_address = False
    if scheme not in ("ws", "wss") or not is_address or any(character.isspace() for character in address):
        raise InvalidValueError(f"{address!r} is not a server address: use HOST:PORT or ws://HOST:PORT/v1/ws")
    return f"{scheme}://{host}/{path}" if slash and path else f"{scheme}://{host}/v1/ws"
