"""Events of inotify(7) that another program had a file open for writing.

The times of a file show a change by another program only while its owner is not writing to it itself. That a writable
descriptor was closed is reported at any time, and a store closes none of its own while it commits. Must never be
needed: without inotify, or at its limits, there are no events. Linux. One thread.
"""

import ctypes
import logging
import os
from pathlib import Path
from typing import Final

logger: Final = logging.getLogger(__name__)

IN_CLOSE_WRITE: Final = 0x0000_0008
IN_NONBLOCK: Final = 0o4000
IN_CLOEXEC: Final = 0o2000000
"""From linux/inotify.h and fcntl.h."""
_READ_BYTES: Final = 4_096

_libc: Final = ctypes.CDLL(None, use_errno=True)


class CloseWriteEvents:
    """Reports each close of a writable descriptor of one file (IN_CLOSE_WRITE)."""

    def __init__(self, path: Path) -> None:
        """Start listening.

        Args:
            path: of an existing file.
        """
        self._queue = -1
        try:
            self._queue = _checked(_libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC))
            _checked(_libc.inotify_add_watch(self._queue, os.fsencode(path), ctypes.c_uint32(IN_CLOSE_WRITE)))
        except (OSError, AttributeError) as error:
            logger.debug("no inotify events for %s: %s", path, error)
            self.close()

    def any(self) -> bool:
        """Whether there was an event since the last call. Never blocks."""
        try:
            return self._queue >= 0 and bool(os.read(self._queue, _READ_BYTES))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._queue >= 0:
            os.close(self._queue)
            self._queue = -1


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
