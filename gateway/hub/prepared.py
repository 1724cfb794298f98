"""A frame made ready once for all who are given it: as JSON, as a WebSocket frame, and as a compressed one.

Pure; used from the gateway's loop. One kernel call for each subscriber is what sending costs; everything before that
call is done once. A compressed frame begins with an empty window ("no context takeover", RFC 7692 section 7.1.1), so
that it is the same for everybody and nothing of one agent helps to guess another's text.
"""

import zlib
from typing import Final

from commitcast.gateway.protocol import frames

COMPRESSED_FROM_BYTES: Final = 512
"""A shorter frame fits one packet anyhow."""
WINDOW_BITS: Final = 12
"""Of the deflate window that is negotiated: 4 KiB finds most repetition in JSON, at a client's cost of 4 KiB."""
COMPRESSION_LEVEL: Final = 1
"""The fastest: repetition of keys is what there is to win, and every level finds it."""

_TEXT: Final = 0x81
"""FIN and opcode 1 (RFC 6455 section 5.2)."""
_TEXT_COMPRESSED: Final = 0xC1
"""And RSV1, which marks a compressed message (RFC 7692 section 6)."""
_FLUSH_TAIL: Final = 4
"""Bytes 00 00 FF FF that end each flush and are left out on the wire (RFC 7692 section 7.2.1)."""


class PreparedFrame:
    """One frame of the protocol, ready to be sent in any way."""

    __slots__ = ("_compressed", "_plain", "frame", "json", "messages")

    def __init__(self, frame: frames.ServerFrame, messages: int = 0) -> None:
        """Encode a frame.

        Args:
            frame: of the protocol.
            messages: how many messages it carries.
        """
        self.frame = frame
        self.json: bytes = frames.encode(frame)
        self.messages = messages
        self._plain: bytes | None = None
        self._compressed: bytes | None = None

    @property
    def plain(self) -> bytes:
        """The WebSocket frame as it is."""
        if self._plain is None:
            self._plain = _header(_TEXT, len(self.json)) + self.json
        return self._plain

    @property
    def compressed(self) -> bytes:
        """The WebSocket frame for who has negotiated permessage-deflate; as it is, where that is no longer."""
        if self._compressed is None:
            self._compressed = self._compress() if len(self.json) >= COMPRESSED_FROM_BYTES else self.plain
        return self._compressed

    def _compress(self) -> bytes:
        deflate = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -WINDOW_BITS)
        data = (deflate.compress(self.json) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-_FLUSH_TAIL]
        return _header(_TEXT_COMPRESSED, len(data)) + data if len(data) < len(self.json) else self.plain


def _header(first: int, size: int) -> bytes:
    """Return the header of an unmasked frame (RFC 6455 section 5.2)."""
    if size < 126:
        return bytes((first, size))
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)
