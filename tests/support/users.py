"""Tests as a user who has not every right."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stores import opened

NOBODY: Final = 65534


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of somebody who is not the superuser, and be that somebody."""
    with opened(":memory:"):
        pass  # what opening a store imports may lie where only the superuser can read
    folder = Path(tempfile.mkdtemp())
    is_superuser = os.getuid() == 0
    if is_superuser:
        os.chown(folder, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield folder
    finally:
        if is_superuser:
            os.setresuid(0, 0, 0)
        folder.chmod(0o700)
        shutil.rmtree(folder)
