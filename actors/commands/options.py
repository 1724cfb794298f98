"""Options that several commands share: their help texts, and what is checked about their values."""

from pathlib import Path
from typing import Annotated, Final

import typer

from commitcast.persistence.errors import InvalidValueError

DEFAULT_DATABASE: Final = Path("commitcast.db")


def in_folder(db: Path | None) -> Path | None:
    """Return the path of a database.

    Raises:
        InvalidValueError: there is no folder for it.
    """
    if db is not None and not db.parent.is_dir():
        raise InvalidValueError(f"{db} cannot be opened: there is no folder {db.parent}: create it first")
    return db


Database = Annotated[
    Path, typer.Option("--db", help="Database file.", show_default=str(DEFAULT_DATABASE), callback=in_folder)
]
JournalMode = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="`delete`, or `wal` for a write-ahead log: faster commits, and two more files beside the database.",
    ),
]
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Print every message on its own line, including stream fragments, repeats and bookkeeping."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
