"""Loops of connections that run on threads of their own, for as long as a block, and calls on them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from commitcast.persistence.remote.loop import Loop
from waiting import TIMEOUT_S


@contextmanager
def running(loop: Loop) -> Iterator[threading.Thread]:
    """Run a loop on another thread; stop and close it at the end."""
    thread = threading.Thread(target=loop.run, name="loop")
    thread.start()
    try:
        yield thread
    finally:
        loop.stop()
        thread.join(TIMEOUT_S)
        loop.close()


def on_loop(loop: Loop, function: Callable[[], Any]) -> Any:
    """Call a function on a loop's thread, and return what it returns."""
    returned: list[Any] = []
    done = threading.Event()

    def call() -> None:
        try:
            returned.append(function())
        finally:
            done.set()

    loop.call(call)
    assert done.wait(TIMEOUT_S), "the loop did not call"
    return returned[0]


def each(*functions: Callable[[], object]) -> Callable[..., None]:
    """Return a function that calls several, whatever it is given."""

    def call(*_: object) -> None:
        for function in functions:
            function()

    return call
