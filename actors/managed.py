"""Starting and stopping as a context manager, for threads and for event loops."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Managed(ABC):
    """Something that `with` starts and stops; `async with` does the same without blocking the loop."""

    @abstractmethod
    def start(self) -> Self:
        """Begin. Blocks."""

    @abstractmethod
    def stop(self) -> None:
        """End. Idempotent. Blocks."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
