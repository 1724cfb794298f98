"""Asking a server that has no hosts any more to end now, for one who wants the file in its own process."""

import socket
from typing import Final

from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote.frames import DISMISS, PROTOCOL, Deframer, Hello, Refused, pack, unpack

DISMISS_S: Final = 2.0
"""For a server without hosts to close the file. It waits for nothing else."""


def dismiss(address: str) -> bool:
    """Ask the server at a socket to end if it has no hosts; return whether it is about to. Blocks for a moment."""
    deframer = Deframer()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(DISMISS_S)
            connection.connect(address)
            connection.sendall(pack(Hello(PROTOCOL, DISMISS)))
            while data := connection.recv(1024):
                for payload in deframer.feed(memoryview(data)):
                    answer = unpack(payload)
                    return isinstance(answer, Refused) and answer.failure is None
        except (OSError, LinkError):  # it is gone, or stopped
            pass
    return False
