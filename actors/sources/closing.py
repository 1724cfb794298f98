"""Closing what a source has given or used: iterators at its end, and the async generators that it leaves unfinished.

Python leaves a generator that is dropped within a loop over it to a hook of the thread, and the event loop's closes it
in a task that nobody waits for. Those of sources are closed in tasks that the stop waits for.
"""

import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Final

Close = Callable[[AsyncGenerator[Any, Any]], object]

_close: Final[ContextVar[Close | None]] = ContextVar("close", default=None)


@contextmanager
def closed(said: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Give out an iterator; at the end close it, and what it comes from (a stream that makes an iterator of itself)."""
    iterator = iter(said)
    with ExitStack() as stack:
        for closable in _both(said, iterator):
            if callable(close := getattr(closable, "close", None)):
                stack.callback(close)
        yield iterator


@asynccontextmanager
async def aclosed(said: AsyncIterable[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Do the same for an async iterator, in the source's own task, so before its end is told."""
    iterator = aiter(said)
    async with AsyncExitStack() as stack:
        for closable in _both(said, iterator):
            stack.push_async_callback(_aclose, closable)
        yield iterator


def _both(said: Any, iterator: Any) -> tuple[Any, ...]:
    return (said,) if said is iterator else (said, iterator)  # the last one is closed first


async def _aclose(closable: Any) -> None:
    close = getattr(closable, "aclose", None) or getattr(closable, "close", None)
    if callable(close) and isinstance(closing := close(), Awaitable):
        await closing


def close_unfinished_by(close: Close) -> None:
    """Have `close` called with each async generator that this task, or one that it begins, leaves unfinished.

    In a task of an event loop. The loop takes its hooks back itself when it stops.
    """
    _close.set(close)
    finalizer = sys.get_asyncgen_hooks().finalizer
    if finalizer is not None and not isinstance(finalizer, _Finalizer):
        sys.set_asyncgen_hooks(finalizer=_Finalizer(finalizer))


class _Finalizer:
    """Called with what is left unfinished, by whom can be told by the context; others' go the loop's own way."""

    def __init__(self, others: Close) -> None:
        self._others = others

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        (_close.get() or self._others)(generator)
