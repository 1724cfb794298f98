"""Proving and copying a runtime's database while it is in use.

On the calling thread, which they may keep for seconds; the writer's thread only lets them in between its commits.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from commitcast.actors.errors import WouldBlockError
from commitcast.actors.kernel.waiting import is_in_turn
from commitcast.persistence.store import Store
from commitcast.persistence.verify import Report

Progress = Callable[[int, int], object]


class Maintained(ABC):
    """Something with a store that can be proved and copied."""

    @property
    @abstractmethod
    def store(self) -> Store:
        """The store, to read from."""

    def verify(self, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
        """Prove the database: sequences, positions, checksums, and one end for every agent.

        Args:
            deep: check SQLite's own structure too; commits wait meanwhile.
            progress: called now and then, on this thread, with positions done and positions in all.

        Returns:
            What was found; `is_sound` if nothing is wrong.

        Raises:
            StoreOpenError: the file cannot be read as one of commitcast's.
            WouldBlockError: it was called in a future's callback.

        Threads: any; blocks for seconds in a large file, so on an event loop call it by `asyncio.to_thread`.
        """
        if is_in_turn():
            raise WouldBlockError
        return self.store.verify(deep=deep, progress=progress)

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, of: None) -> None:
        """Copy everything that is committed into a new file, while agents go on.

        Args:
            path: of the copy, which must not exist.
            progress: called now and then, on this thread, with what is done and what there is in all.

        Raises:
            StorePathError: the copy exists already, its folder does not, or SQLite cannot use its name.
            StoreError: it could not be made; nothing is left of it.
            WouldBlockError: it was called in a future's callback.

        Durability: on return the copy is on disk.
        Threads: any; blocks for seconds in a large file, so on an event loop call it by `asyncio.to_thread`.
        """
        if is_in_turn():
            raise WouldBlockError
        self.store.backup(path, progress)
