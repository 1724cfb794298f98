"""The options that several commands share, with one wording each."""

from pathlib import Path
from typing import Annotated, Final

import typer

from commitcast.persistence.errors import InvalidValueError

DEFAULT_DATABASE: Final = Path("commitcast.db")

Database = Annotated[Path, typer.Option("--db", help="The database file.", show_default=str(DEFAULT_DATABASE))]
Listen = Annotated[str, typer.Option(help="HOST:PORT for subscribers, or off. Port 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="A file whose first line is the token that clients must present. Needed beyond loopback."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def address(listen: str) -> str | None:
    """Return the address to listen on, or None for `off`."""
    return None if listen == "off" else listen


def token(file: Path | None) -> str | None:
    """Return the token in a file.

    Raises:
        InvalidValueError: the file cannot be read or holds none.
    """
    if file is None:
        return None
    try:
        found = file.read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"the token file {file} cannot be read: {error}") from error
    if not found or not found.isascii():
        raise InvalidValueError(f"the token file {file} holds no token: write one line of ASCII characters into it")
    return found
