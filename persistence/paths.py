"""The path of a file, as a runtime keeps it: it goes on meaning the same when the program changes its folder."""

import os
from pathlib import Path

from commitcast.persistence.errors import StorePathError


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path that does not depend on the current folder.

    Raises:
        StorePathError: the current folder is gone, so that a relative path means nothing.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        why = "the current folder of this process was deleted: give an absolute path, or change into a folder"
        raise StorePathError(os.fspath(path), why) from None


def real(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the file itself, not of a link to it. Raises `StorePathError` as `absolute` does."""
    return Path(os.path.realpath(absolute(path)))
