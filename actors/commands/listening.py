"""What the commands that listen share: options, the tokens that they accept, and the limit of open files."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from commitcast.actors.commands.output import note
from commitcast.actors.sources.processes.file_limit import raise_soft_limit
from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.access.auth import StaticTokens, Verifier
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.access.origins import parse_address
from commitcast.gateway.server.options import ServerOptions
from commitcast.gateway.server.sockets import descriptors
from commitcast.persistence.errors import InvalidValueError

Listen = Annotated[str, typer.Option(help="HOST:PORT for subscribers, or off. Port 0 selects a free port.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the tokens that clients must present, one per line: a token alone has all rights, else its "
        "rights follow it. Required to serve other machines."
    ),
]


class JwtAlgorithm(StrEnum):
    """Signature algorithms of JSON web tokens."""

    HS256 = "HS256"
    RS256 = "RS256"
    EDDSA = "EdDSA"


def address(listen: str, verifier: Verifier | None = None) -> str:
    """Return the address to listen on.

    Raises:
        InvalidValueError: it is not an address, or can be reached from other machines and there is no verifier.
    """
    try:
        parse_address(listen)  # `asgi` is not one
        ServerOptions(listen=listen, verifier=verifier)
    except ListenError as error:
        raise InvalidValueError(str(error)) from error
    return listen


def verifier(
    token_file: Path | None, jwt_key: Path | None, algorithm: JwtAlgorithm, audience: str | None, issuer: str | None
) -> Verifier | None:
    """Return the verifier of a server's tokens; None for a server without tokens.

    Raises:
        InvalidValueError: a file cannot be used, or both kinds of tokens are given.
        MissingExtraError: JSON web tokens need a package that is not installed.
    """
    if jwt_key is None:
        return None if token_file is None else StaticTokens.from_file(token_file)
    if token_file is not None:
        raise InvalidValueError("--token-file and --jwt-key cannot be combined: give only one of them")
    # By name, because only this option needs its packages.
    auth_jwt: Any = importlib.import_module("commitcast.gateway.server.access.jwt")
    tokens_of_issuer: Verifier = auth_jwt.JwtVerifier.from_file(
        jwt_key, algorithm=algorithm.value, audience=audience, issuer=issuer
    )
    return tokens_of_issuer


def raise_file_limit(*, listens: bool) -> None:
    """Raise the limit of open files as far as the system allows, and write a note if that bounds the connections.

    Only the commands raise it, never a host's process. Programs that agents run get the original limit.

    Args:
        listens: whether there will be connections.
    """
    raise_soft_limit()
    limit, wanted = descriptors.soft_limit(), Limits().connections
    places = descriptors.room_for_websockets(limit)
    if listens and places < wanted:
        note(
            f"open files are limited to {limit:,}, so fewer than {places:,} subscribers can connect at once, "
            f"instead of {wanted:,}: raise the limit with `ulimit -Hn` or LimitNOFILE"
        )
