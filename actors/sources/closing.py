"""Closing the iterators that a source returns, and the async generators that it leaves unfinished.

Python leaves an unfinished async generator to a hook of the thread, and the event loop's hook closes it in a task that
is not waited for. The generators of sources are closed in tasks that the runtime's stop waits for.
"""

import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Final

Close = Callable[[AsyncGenerator[Any, Any]], object]

_close: Final[ContextVar[Close | None]] = ContextVar("close", default=None)


@contextmanager
def closed(output: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Give an iterator; at the end close it, and the object that it comes from (a stream that is an iterable)."""
    iterator = iter(output)
    with ExitStack() as stack:
        for closable in _both(output, iterator):
            if callable(close := getattr(closable, "close", None)):
                stack.callback(close)
        yield iterator


@asynccontextmanager
async def aclosed(output: AsyncIterable[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Do the same for an async iterator, in the source's own task, so before the agent learns of its end."""
    iterator = aiter(output)
    async with AsyncExitStack() as stack:
        for closable in _both(output, iterator):
            stack.push_async_callback(_aclose, closable)
        yield iterator


def _both(output: Any, iterator: Any) -> tuple[Any, ...]:
    return (output,) if output is iterator else (output, iterator)  # the last one is closed first


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
    """The hook for unfinished generators: closes those of sources, found by their context; the loop closes others."""

    def __init__(self, others: Close) -> None:
        self._others = others

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        (_close.get() or self._others)(generator)
