"""Writes a child's standard input: a prompt, and after it all data of a descriptor.

Owns the write end of the pipe, which it closes after the last byte, and not the descriptor. Reads the next chunk only
when the child has taken the one before, so it holds one chunk. Runs on the selector's thread; never blocks.
"""

import os
import selectors
from contextlib import suppress
from typing import IO, Final

_CHUNK_BYTES: Final = 64 * 1024
"""What a pipe holds on Linux."""


class ChildInput:
    """The standard input of one child, until all is written or the child closes it."""

    def __init__(self, selector: selectors.BaseSelector, stream: IO[bytes], prompt: bytes, feed: int | None) -> None:
        """Begin to write.

        Args:
            selector: has a callable as the data of each key, to be called when its descriptor is ready.
            stream: the child's end, which does not block.
            prompt: what comes first.
            feed: a descriptor whose data comes then, after a newline if the prompt has none; None for nothing.
        """
        self._selector = selector
        self._stream = stream
        self._left = memoryview(prompt)
        self._feed = feed
        self._between = b"" if not prompt or prompt.endswith(b"\n") else b"\n"
        self._go_on()

    def _go_on(self) -> None:
        """Wait for the child if there is something to write, else for more to write."""
        if self._left:
            self._selector.register(self._stream, selectors.EVENT_WRITE, self._on_writable)
        elif self._feed is None:
            self._stream.close()
        else:
            try:
                self._selector.register(self._feed, selectors.EVENT_READ, self._on_readable)
            except PermissionError:  # epoll takes no files; they can always be read
                self._read(self._feed)
                self._go_on()

    def _on_readable(self) -> None:
        assert self._feed is not None
        self._selector.unregister(self._feed)
        self._read(self._feed)
        self._go_on()

    def _read(self, feed: int) -> None:
        chunk = b""
        with suppress(OSError):  # a connection that was reset, for example: that is its end
            chunk = os.read(feed, _CHUNK_BYTES)
        if not chunk:
            self._feed = None
            return
        self._left = memoryview(self._between + chunk)
        self._between = b""

    def _on_writable(self) -> None:
        try:
            self._left = self._left[os.write(self._stream.fileno(), self._left[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the child has closed its input, as it may
            self._left = memoryview(b"")
            self._feed = None
        if not self._left:
            self._selector.unregister(self._stream)
            self._go_on()
