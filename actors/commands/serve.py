"""`commitcast serve`: serves a database to subscribers until a signal comes."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from commitcast.actors.commands import listening, options
from commitcast.actors.commands.output import counted, note, print_json
from commitcast.actors.commands.stopping import LIMIT_S, stopping_on_signals
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.templates import load_templates
from commitcast.gateway.server.access.origins import parse_address
from commitcast.gateway.server.errors import MissingExtraError
from commitcast.gateway.server.options import ASGI
from commitcast.gateway.tls import server_context
from commitcast.persistence.sqlite.journal import DELETE

LOOPBACKS: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""By the address that means all of a machine's: the one that this machine itself can open."""


def serve(
    db: options.Database = options.DEFAULT_DATABASE,
    journal_mode: options.JournalMode = DELETE,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT for subscribers. Port 0 selects a free port.")
    ] = "127.0.0.1:8765",
    token_file: listening.TokenFile = None,
    jwt_key: Annotated[
        Path | None,
        typer.Option(help="Accept JSON web tokens signed with this key: a file with the secret or the public key."),
    ] = None,
    jwt_algorithm: Annotated[
        listening.JwtAlgorithm, typer.Option(help="Signature algorithm of the JSON web tokens.")
    ] = (listening.JwtAlgorithm.EDDSA),
    jwt_audience: Annotated[str | None, typer.Option(help="Required `aud` of the JSON web tokens.")] = None,
    jwt_issuer: Annotated[str | None, typer.Option(help="Required `iss` of the JSON web tokens.")] = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="A TOML file with a table for each command that clients may launch."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file with the certificate, to serve with TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with the private key, if separate.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Additional name that a Host header may have. Can be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Additional origin whose pages may use the server. Can be repeated.")
    ] = None,
    redact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Additional name in configurations whose value is not shown to subscribers. Can be repeated.",
        ),
    ] = None,
    redact_except: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Name whose value is shown although it looks like a secret. Can be repeated."
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(min=0, max=3_600, help="Seconds from reporting not ready to closing connections."),
    ] = 0.0,
    asgi: Annotated[
        bool, typer.Option("--asgi", help="Serve through uvicorn, which adds event streams (SSE).")
    ] = False,
    json: options.Json = False,
) -> None:
    """Serve a database to WebSocket subscribers and HTTP readers, until SIGINT or SIGTERM.

    Agents that a crash interrupted become failed at the start; subscribers resume at their cursors. Without tokens the
    server is read-only and serves this machine only.
    """
    uvicorn_server = _uvicorn_server() if asgi else None
    verifier = listening.verifier(token_file, jwt_key, jwt_algorithm, jwt_audience, jwt_issuer)
    listening.address(listen, verifier)
    listening.raise_file_limit(listens=True)
    tls = None if certificate is None else server_context(certificate, key)
    runtime = AgentRuntime(
        db,
        journal_mode=journal_mode,
        listen=ASGI if asgi else listen,
        token=verifier,
        templates=None if templates is None else load_templates(templates),
        tls=None if asgi else tls,
        allowed_hosts=[*(allow_host or ()), *([parse_address(listen)[0]] if asgi else [])],
        allowed_origins=allow_origin or (),
        redact=redact or (),
        redact_except=redact_except or (),
    )
    serving = _listening(runtime, listen, certificate, key, uvicorn_server)
    with stopping_on_signals(limit_s=drain_s + LIMIT_S) as stopping, runtime, serving as address:
        _announce(runtime, db, address, tls=tls is not None, json=json)
        stopping.wait(lambda: runtime.failure is not None)
        if drain_s and runtime.failure is None:
            runtime.drain()
            threading.Event().wait(drain_s)
    if runtime.failure is not None:
        raise runtime.failure
    raise typer.Exit(0)


def _uvicorn_server() -> Any:
    """Return the module, before anything is started: only this option needs its packages."""
    try:
        return importlib.import_module("commitcast.actors.commands.uvicorn_server")
    except ModuleNotFoundError as error:
        raise MissingExtraError("--asgi", "http") from error


@contextmanager
def _listening(
    runtime: AgentRuntime, listen: str, certificate: Path | None, key: Path | None, uvicorn_server: Any
) -> Iterator[str]:
    """Listen while inside; yields the address, HOST:PORT."""
    if uvicorn_server is None:
        assert runtime.address is not None
        yield runtime.address
        return
    with uvicorn_server.serving(runtime, parse_address(listen), certificate, key) as address:
        yield address


def _announce(runtime: AgentRuntime, db: Path, address: str, *, tls: bool, json: bool) -> None:
    secure = "s" if tls else ""
    url = f"ws{secure}://{address}/v1/ws"
    if json:
        print_json({"url": url, "db": str(db), "interrupted": runtime.recovered_agents})
        return
    if runtime.recovered_agents:
        note(f"marked as failed after a crash: {counted(runtime.recovered_agents, 'agent')} in {db}")
    note(f"serving {db} on {url}   page: http{secure}://{_on_this_machine(address)}/   stop: Ctrl-C")


def _on_this_machine(address: str) -> str:
    """Return an address that a browser can open: one that means all addresses of the machine is none."""
    host, port = parse_address(address)
    return f"{LOOPBACKS[host]}:{port}" if host in LOOPBACKS else address
