"""The client for plain threads: `for message in subscribe_blocking(url, agent, after=n)`, and `BlockingClient`.

A thin face over `connection` and `asyncio`: each subscription that is iterated, and each request, has an event loop on
a daemon thread of its own, which runs the asynchronous code. The caller's thread waits for it; a signal, or `close` on
another thread, wakes it at once. One loop for the whole process was refused: it would need a count of its users, a lock
and a reset after a fork to save a thread for each subscription, which has a thread of the caller anyway.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from commitcast.gateway.client.asyncio import TIMEOUT_S, Client, SubscribeOptions
from commitcast.gateway.client.connection import CLOSE_TIMEOUT_S, SubscriptionConnection
from commitcast.gateway.client.protocol import After, OnCursor, SubscriptionProtocol, SubscriptionState
from commitcast.gateway.client.reconnect import ConnectionLost, Token
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode, SubscriptionError
from commitcast.persistence import fork
from commitcast.persistence.deprecation import renamed_argument

T = TypeVar("T")


class _LoopThread:
    """An event loop on a daemon thread, for one thread that waits at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing: asyncio.Future[Callable[[], Awaitable[None]]] = self._loop.create_future()
        """Done with what is to be called last."""
        self._is_cancelled = False
        self._pending: Future[Any] | None = None
        self._thread = threading.Thread(target=self._serve, name="commitcast-client", daemon=True)
        self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop; block until it is done. Ctrl-C ends the waiting, and cancels the coroutine.

        Raises:
            CancelledError: by `cancel`.
        """
        self._pending = future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if self._is_cancelled:
            future.cancel()
        try:
            return future.result()
        except BaseException:  # Ctrl-C too
            future.cancel()
            raise
        finally:
            self._pending = None  # its result refers to the subscription

    def cancel(self) -> None:
        """Wake the thread that waits, now and from now on. Any thread, and signal handlers; does not block."""
        self._is_cancelled = True
        pending = self._pending
        if pending is not None:
            # On the loop's thread: a signal handler may have interrupted the waiting thread where it would miss this.
            self.call(pending.cancel)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, soon. Any thread, and signal handlers; does not block."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Call `last` on the loop, and end the thread; wait for it, for some tenths of a second at most."""
        if not self._thread.is_alive():  # in a forked child
            return
        self.call(lambda: self._closing.set_result(last))
        if threading.current_thread() is not self._thread and not sys.is_finalizing():  # there it would never end
            self._thread.join(2 * CLOSE_TIMEOUT_S)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # to leave it cancels the tasks that are left
            runner.run(self._run())

    async def _run(self) -> None:
        last = await self._closing
        await last()


class BlockingSubscription(SubscriptionState):
    """An iterator over one agent's messages (or all agents'), from a cursor until the agent's end or `close`.

    Made by `subscribe_blocking`. Its attributes are those of `SubscriptionState`: cursor, epoch, status, ending,
    record, reconnects, skipped.
    """

    def __init__(self, url: str, agent: str, *, after: After = 0, epoch: str | None = None, **options: Any) -> None:
        super().__init__(after, epoch)
        self._protocol = SubscriptionProtocol(self, agent, after=after, clock=time.monotonic, **options)
        self._connection = SubscriptionConnection(url, self._protocol)
        self._thread: _LoopThread | None = None
        self._turn = threading.RLock()
        self._generation = fork.generation()
        self._messages = self._run()

    def __iter__(self) -> Iterator[frames.Item]:
        return self

    def __next__(self) -> frames.Item:
        if self._generation != fork.generation():
            message = "a forked process cannot use its parent's subscription: subscribe again here, after the cursor"
            raise SubscriptionError(ErrorCode.UNAVAILABLE, message)
        with self._turn:
            if self._connection.is_closing:
                self._messages.close()
            return next(self._messages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and close the connection; a thread that iterates gets to the end of the loop. Idempotent.

        Threads: any, and signal handlers. Blocks for some tenths of a second at most. Only `on_cursor` of the
            application is waited for by the iterating thread.
        """
        self._connection.is_closing = True
        if self._generation != fork.generation():
            return
        if not self._turn.acquire(blocking=False):
            self._wake()
            if not self._turn.acquire(timeout=CLOSE_TIMEOUT_S):
                return  # the iterating thread is busy, and `__next__` does the rest
        try:
            self._messages.close()
        except ValueError:  # this very thread iterates, further up the stack: in a hook, or under a signal handler
            self._wake()
        finally:
            self._turn.release()

    def cut(self) -> None:
        """Drop the connection without a close frame, as a network would; it reconnects by itself. Any thread."""
        if self._thread is not None:
            self._thread.call(self._connection.abort)

    def _wake(self) -> None:
        if self._thread is not None:
            self._thread.cancel()

    def _run(self) -> Generator[frames.Item]:
        connection = self._connection
        thread = self._thread = _LoopThread()
        try:
            while not self._protocol.is_over and not connection.is_closing:
                try:
                    for result in thread.wait(connection.receive()):
                        if isinstance(result, frames.Item):
                            yield result
                        else:
                            thread.wait(connection.send(result))
                except ConnectionLost as lost:
                    thread.wait(connection.recover(lost))
        except CancelledError:
            if not self._connection.is_closing:
                raise
        finally:
            thread.close(connection.close)


def subscribe_blocking(
    url: str,
    agent: str,
    *,
    after: After = 0,
    epoch: str | None = None,
    raw: bool = False,
    token: Token = None,
    window: int | None = None,
    slow: frames.SlowPolicy = "catch_up",
    on_cursor: OnCursor | None = None,
) -> BlockingSubscription:
    """Subscribe to an agent; iterate over the result with `for`. The arguments are those of `subscribe`.

    Args:
        token: a function is called on a thread of the subscription's own, so it may block; it is not async.
        window: what was taken is acknowledged when the next message is asked for.
        on_cursor: is called on the thread that iterates.

    Returns:
        An iterator that ends when the agent has ended (that of all agents never does) or was closed. It reconnects by
        itself.

    Raises:
        InvalidValueError: `after`, `window` or `slow` has no such value.
        SubscriptionError: while iterating: the server refused for good.

    Threads: iterating blocks until there is a message; Ctrl-C and `close` wake it. One thread iterates at a time,
        others wait for their turn. A forked child must subscribe again, after the cursor.
    """
    options: dict[str, Any] = {"raw": raw, "token": token, "window": window, "slow": slow, "on_cursor": on_cursor}
    return BlockingSubscription(url, agent, after=after, epoch=epoch, **options)


class BlockingClient:
    """The requests that a program may send to a server, on the caller's thread. Any thread; requests are independent.

    Holds no connection, so there is nothing to close. Ctrl-C ends the waiting; the request may then have been done or
    not.
    """

    @renamed_argument("timeout_s", "timeout")
    def __init__(
        self, url: str, *, token: Token = None, timeout: float = TIMEOUT_S, timeout_s: float | None = None
    ) -> None:
        """Make a client; nothing is connected yet.

        Args:
            url: `ws://HOST:PORT/v1/ws`.
            token: if the server demands one; see `subscribe_blocking`.
            timeout: seconds for each request with all its repetitions.
        """
        self._url = url
        self._token = token
        self._client = Client(url, token=token, timeout=timeout)

    def launch(self, template: str, prompt: str = "", key: str | None = None) -> str:
        """Launch an agent from a template of the server's owner; return its id. As `Client.launch`."""
        return _wait(self._client.launch(template, prompt, key))

    def send(self, agent: str, content: str, key: str | None = None) -> int:
        """Send a user message to an agent; return its sequence. As `Client.send`."""
        return _wait(self._client.send(agent, content, key))

    def terminate(self, agent: str, reason: str | None = None) -> str:
        """End an agent; return its status. As `Client.terminate`."""
        return _wait(self._client.terminate(agent, reason))

    def subscribe(self, agent: str, **options: Unpack[SubscribeOptions]) -> BlockingSubscription:
        """Subscribe with the same URL and token; see `subscribe_blocking`."""
        return subscribe_blocking(self._url, agent, token=self._token, **options)


def _wait(request: Coroutine[Any, Any, T]) -> T:
    thread = _LoopThread()
    try:
        return thread.wait(request)
    finally:
        thread.close(partial(asyncio.sleep, 0))
