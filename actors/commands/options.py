"""Options that several commands share: their help texts and the conversion of their values."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.access.auth import StaticTokens, Verifier
from commitcast.gateway.server.access.origins import parse_address
from commitcast.persistence.errors import InvalidValueError

DEFAULT_DATABASE: Final = Path("commitcast.db")

Database = Annotated[Path, typer.Option("--db", help="Database file.", show_default=str(DEFAULT_DATABASE))]
Listen = Annotated[str, typer.Option(help="HOST:PORT for subscribers, or off. Port 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File of the tokens that clients must present, one per line, each followed by its rights, or alone for "
        "all rights. Required beyond loopback."
    ),
]
OwnTokenFile = Annotated[Path | None, typer.Option("--token-file", help="File whose first line is the token.")]
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Print every message on its own line, including stream fragments, repeats and bookkeeping."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


class JwtAlgorithm(StrEnum):
    """Signature algorithms of JSON web tokens."""

    HS256 = "HS256"
    RS256 = "RS256"
    EDDSA = "EdDSA"


def address(listen: str) -> str | None:
    """Return the address to listen on, or None for `off`.

    Raises:
        InvalidValueError: it is not an address.
    """
    if listen == "off":
        return None
    try:
        parse_address(listen)
    except ListenError as error:
        raise InvalidValueError(str(error)) from error
    return listen


def tokens(file: Path | None) -> StaticTokens | None:
    """Return the verifier of a token file; None without one.

    Raises:
        InvalidValueError: the file cannot be read or has no token.
    """
    return None if file is None else StaticTokens.from_file(file)


def verifier(
    token_file: Path | None, jwt_key: Path | None, algorithm: JwtAlgorithm, audience: str | None, issuer: str | None
) -> Verifier | None:
    """Return the verifier of a server's tokens; None for a server without tokens.

    Raises:
        InvalidValueError: a file cannot be used, or both kinds of tokens are given.
        MissingExtraError: JSON web tokens need a package that is not installed.
    """
    if jwt_key is None:
        return tokens(token_file)
    if token_file is not None:
        raise InvalidValueError("--token-file and --jwt-key exclude each other: give one")
    # By name, because only this option needs its packages.
    auth_jwt: Any = importlib.import_module("commitcast.gateway.server.access.jwt")
    tokens_of_issuer: Verifier = auth_jwt.JwtVerifier.from_file(
        jwt_key, algorithm=algorithm.value, audience=audience, issuer=issuer
    )
    return tokens_of_issuer


def own_token(file: Path | None) -> str | None:
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
        raise InvalidValueError(f"the token file {file} has no token: write one line of ASCII characters into it")
    return words[0]
