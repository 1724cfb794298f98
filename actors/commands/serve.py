"""`commitcast serve`: what is in a database, for subscribers, until a signal comes."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from commitcast.actors.commands import open_files, options
from commitcast.actors.commands.output import counted, note, print_json
from commitcast.actors.commands.stopping import LIMIT_S, stopping_on_signals
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.templates import load_templates
from commitcast.gateway.server.access.auth import MissingExtraError
from commitcast.gateway.server.access.origins import Access, parse_address
from commitcast.gateway.server.server import ASGI
from commitcast.gateway.server.sockets.tls import server_context


def serve(
    db: options.Database = options.DEFAULT_DATABASE,
    listen: Annotated[str, typer.Option(help="HOST:PORT for subscribers. Port 0 takes a free one.")] = "127.0.0.1:8765",
    token_file: options.TokenFile = None,
    jwt_key: Annotated[
        Path | None,
        typer.Option(
            help="In place of tokens in a file: the secret or public key that JSON web tokens are signed with."
        ),
    ] = None,
    jwt_algorithm: Annotated[options.JwtAlgorithm, typer.Option(help="How they are signed.")] = (
        options.JwtAlgorithm.EDDSA
    ),
    jwt_audience: Annotated[str | None, typer.Option(help="The `aud` that they must have.")] = None,
    jwt_issuer: Annotated[str | None, typer.Option(help="The `iss` that they must have.")] = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="A TOML file of what clients may launch: a table for each, with `command` and more."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Serve with TLS: a PEM file of the certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="And its private key, if that is in a file of its own.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that clients may know the server by (repeat it).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A further origin whose pages may use the server (repeat it).")
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(min=0, max=3_600, help="Seconds between being no longer ready and sending subscribers away."),
    ] = 0.0,
    asgi: Annotated[
        bool, typer.Option("--asgi", help="Serve through uvicorn, and with it event streams (SSE).")
    ] = False,
    json: options.Json = False,
) -> None:
    """Serve a database to WebSocket subscribers and HTTP readers, until SIGINT or SIGTERM.

    Agents that a crash left at work are made failed at the start; subscribers continue from where they were. Without
    tokens it is read-only, and on this machine only.
    """
    options.address(listen)
    open_files.raise_limit(listens=True)
    verifier = options.verifier(token_file, jwt_key, jwt_algorithm, jwt_audience, jwt_issuer)
    tls = None if certificate is None else server_context(certificate, key)
    if asgi:
        Access(parse_address(listen)[0], needs_token=verifier is not None)  # refuses what needs a token and has none
    runtime = AgentRuntime(
        db,
        listen=ASGI if asgi else listen,
        token=verifier,
        templates=None if templates is None else load_templates(templates),
        tls=None if asgi else tls,
        allowed_hosts=[*(allow_host or ()), *([parse_address(listen)[0]] if asgi else [])],
        allowed_origins=allow_origin or (),
    )
    listening = _listening(runtime, listen, certificate, key, asgi=asgi)
    with stopping_on_signals(limit_s=drain_s + LIMIT_S) as stopping, runtime, listening as address:
        _announce(runtime, db, address, tls=tls is not None, json=json)
        stopping.wait()
        if drain_s and runtime.gateway is not None:
            runtime.gateway.drain()
            threading.Event().wait(drain_s)
    if runtime.failure is not None:
        raise runtime.failure
    raise typer.Exit(0)


@contextmanager
def _listening(
    runtime: AgentRuntime, listen: str, certificate: Path | None, key: Path | None, *, asgi: bool
) -> Iterator[str]:
    """Listen as long as inside, and give the URL without its scheme and path."""
    if not asgi:
        assert runtime.address is not None
        yield runtime.address
        return
    try:  # by name, because it needs packages that only this option needs
        uvicorn_server: Any = importlib.import_module("commitcast.actors.commands.uvicorn_server")
    except ModuleNotFoundError as error:
        raise MissingExtraError("--asgi", "http") from error
    with uvicorn_server.serving(runtime, parse_address(listen), certificate, key) as address:
        yield address


def _announce(runtime: AgentRuntime, db: Path, address: str, *, tls: bool, json: bool) -> None:
    secure = "s" if tls else ""
    url = f"ws{secure}://{address}/v1/ws"
    if json:
        print_json({"url": url, "db": str(db), "interrupted": runtime.interrupted})
        return
    if runtime.interrupted:
        note(f"marked as failed after a crash: {counted(runtime.interrupted, 'agent')} in {db}")
    note(f"serving {db} on {url}   page: http{secure}://{address}/   stop: Ctrl-C")
