"""Copies a database that is being written to, in steps between its commits.

Runs on the writer's own connection, so that commits between two steps are copied as well and the copy never has to
begin again. Must never leave an incomplete copy under the requested name.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence import fork
from commitcast.persistence.errors import StorePathError
from commitcast.persistence.paths import absolute
from commitcast.persistence.sqlite import opening
from commitcast.persistence.store import Progress

STEP_PAGES: Final = 256
"""Pages of 4 KiB that are copied at once, in one to three milliseconds, while a commit waits."""
REST_S: Final = 0.001
"""Pause between two steps, so that a waiting commit comes first."""


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of a copy that can be made, or raise `StorePathError`."""
    if str(path) == opening.MEMORY:
        raise StorePathError(str(path), "a copy in memory would be lost: give the path of a file")
    target = absolute(path)
    opening.check_name(target)
    if not target.parent.is_dir():
        raise StorePathError(str(target), f"there is no folder {target.parent}: create it first")
    if target.is_symlink() and not target.exists():
        raise StorePathError(str(target), "it is a dangling symbolic link: remove it, or choose another name")
    if target.exists():
        raise _exists(target)
    return target


def back_up(
    target: Path,
    between_commits: Callable[[], AbstractContextManager[apsw.Connection]],
    progress: Progress,
) -> None:
    """Copy a database into a new file of mode 0600. Other copies may run at once, even to the same name.

    See `Store.backup`. A crash leaves a file behind that is named after the copy and ends in `.partial`.

    Args:
        target: as `target_of` returns it.
        between_commits: gives the connection that writes to it; while it is entered, nothing is committed.
        progress: called with pages done and pages in all.
    """
    file, name = tempfile.mkstemp(".partial", f"{opening.kept_name(target)}.", target.parent)
    os.close(file)
    partial = Path(name)
    try:
        with fork.using(), closing(apsw.Connection(str(partial), flags=apsw.SQLITE_OPEN_READWRITE)) as copy:
            copy.pragma("synchronous", "off")  # it is synced once, at the end
            with between_commits() as writer:
                backup = copy.backup("main", writer, "main")
            try:
                while not backup.done:
                    with between_commits():
                        backup.step(STEP_PAGES)
                    progress(backup.page_count - backup.remaining, backup.page_count)
                    time.sleep(REST_S)
            finally:
                with between_commits():
                    backup.close()
            copy.pragma("journal_mode", "delete")  # a copy of a file in WAL mode is one file that can be read anywhere
        _sync(partial)
        try:
            os.link(partial, target)  # unlike a rename, it replaces nothing
        except FileExistsError as error:  # it was created meanwhile, e.g. by another copy
            raise _exists(target) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    _sync(target.parent)


def _exists(target: Path) -> StorePathError:
    return StorePathError(str(target), "it exists already: choose another name for the copy")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
