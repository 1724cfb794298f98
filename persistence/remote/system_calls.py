"""`send` and `recv` that keep the interpreter's lock: for sockets that never block.

Python's own release it for each call, and take it again afterwards. In a process whose event loop computes, that is a
wait of up to 5 ms for a call that takes 5 us, several times for each commit: with them, an acknowledgement takes six
times as long beside 20 us of work for each token. So these go through `ctypes.PyDLL`. Linux.
"""

import ctypes
import errno
import os
from socket import MSG_DONTWAIT, MSG_NOSIGNAL
from typing import Final

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_send: Final = _libc.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_recv: Final = _libc.recv
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t
_AGAIN: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


def send(descriptor: int, data: bytes) -> int:
    """Send bytes; return how many the socket has taken, 0 if it is full.

    Raises:
        OSError: the connection has ended.
    """
    sent: int = _send(descriptor, data, len(data), MSG_DONTWAIT | MSG_NOSIGNAL)
    return sent if sent >= 0 else _none_or_raise()


class Receiver:
    """Receives into one buffer."""

    def __init__(self, size: int) -> None:
        """Make a buffer of `size` bytes."""
        self._buffer = bytearray(size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._size = size

    def receive(self, descriptor: int) -> memoryview | None:
        """Return what has come, valid until the next call: empty at the end of the connection, None if nothing came.

        Raises:
            OSError: the connection was reset.
        """
        received = _recv(descriptor, self._address, self._size, MSG_DONTWAIT)
        if received >= 0:
            return memoryview(self._buffer)[:received]
        _none_or_raise()
        return None


def _none_or_raise() -> int:
    code = ctypes.get_errno()
    if code in _AGAIN:
        return 0
    raise OSError(code, os.strerror(code))
