"""`commitcast tail`: a subscriber in the terminal, which survives every loss of the connection."""

import asyncio
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from commitcast.actors.commands import options
from commitcast.actors.commands.output import note, print_item
from commitcast.actors.commands.stopping import EXIT_CODES, Stopping, stopping_on_signals
from commitcast.gateway.client import Subscription, subscribe
from commitcast.gateway.frames import ALL
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus


def tail(
    agent: Annotated[str, typer.Argument(help='The agent\'s id, or "*" for all agents.')],
    url: Annotated[str, typer.Option(help="The server: ws://HOST:PORT/v1/ws, or just HOST:PORT.")] = "127.0.0.1:8765",
    after: Annotated[
        str, typer.Option(help='Only messages after this sequence (for "*": position); "tail" for new ones.')
    ] = "0",
    token_file: options.OwnTokenFile = None,
    raw: Annotated[bool, typer.Option("--raw", help="With --json: include the producers' lines.")] = False,
    json: options.Json = False,
) -> None:
    """Print an agent's messages as they become durable, from any point on, until the agent ends.

    Comes back by itself when the connection is lost. Exit code 0 if the agent completed, 1 if it did not.
    """
    if after != "tail" and not (after.isascii() and after.isdecimal()):
        raise InvalidValueError(f"--after takes a sequence or tail, not {after!r}")
    start: int | Literal["tail"] = "tail" if after == "tail" else int(after)
    following = subscribe(websocket_url(url), agent, after=start, raw=raw, token=options.own_token(token_file))
    with stopping_on_signals() as stopping:
        asyncio.run(_print_all(following, stopping, as_json=json))
    if stopping.signal is not None:
        note(f"to continue: --after {following.cursor}")
        raise typer.Exit(EXIT_CODES[stopping.signal])
    if following.status is not None and agent != ALL:
        note(f"{agent} {following.status} after {following.cursor} messages")
    raise typer.Exit(0 if following.status == AgentStatus.COMPLETED else 1)


async def _print_all(following: Subscription, stopping: Stopping, *, as_json: bool) -> None:
    async def print_them() -> None:
        async for item in following:
            print_item(item, as_json=as_json)

    async def tell_if_nobody_is_there() -> None:
        while following.reconnects < 3:
            await asyncio.sleep(0.2)
        if following.status is None and not following.cursor:
            note("the server is not reached yet; it is tried again and again (stop: Ctrl-C)")

    printing = asyncio.create_task(print_them())
    telling = asyncio.create_task(tell_if_nobody_is_there())
    asked = asyncio.create_task(stopping.wait_async())
    await asyncio.wait({printing, asked}, return_when=asyncio.FIRST_COMPLETED)
    for task in (printing, asked, telling):
        task.cancel()
    results = await asyncio.gather(printing, asked, telling, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


def websocket_url(address: str) -> str:
    """Return the WebSocket URL that an address means."""
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
        raise InvalidValueError(f"{address!r} is no address of a server: use HOST:PORT or ws://HOST:PORT/v1/ws")
    return f"{scheme}://{host}/{path}" if slash and path else f"{scheme}://{host}/v1/ws"
