"""What comes from a socket, in pieces so small that parsing one keeps nobody waiting. Runs on the socket's loop."""

import asyncio
from typing import Final

READ_BYTES: Final = 4 * 1024
"""That are parsed in one turn of the loop: 700 of the smallest frames. What asyncio reads by itself is 64 times that,
a third of a second for everybody else, and not stopped by a `pause_reading` in between."""


class SmallReads(asyncio.Protocol, asyncio.BufferedProtocol):
    """Has asyncio, with TLS and without, hand over no more than `READ_BYTES` in one turn of the loop.

    Stands behind the class that has `data_received`.
    """

    _taken: memoryview

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what is read. Not kept between reads: most connections say nothing for long."""
        self._taken = memoryview(bytearray(READ_BYTES))  # a view, since asyncio slices it for TLS
        return self._taken

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what was read."""
        taken = bytes(self._taken[:nbytes])
        del self._taken
        self.data_received(taken)
