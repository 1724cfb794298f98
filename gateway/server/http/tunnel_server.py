"""The server's end of a tunnel: a request that the ASGI app of a host in another process has forwarded.

The request is answered by the same code as one of an ASGI app in this process. Must never let a host that does not read
hold more than its connection. Runs on the gateway's loop.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.server.http import tunnel_frames
from commitcast.gateway.server.http.asgi import AsgiRequest
from commitcast.gateway.server.http.asgi_peer import AsgiPeer
from commitcast.gateway.server.http.tunnel_frames import Asgi, BadFrameError, FromHost, Received, Scope, Text
from commitcast.gateway.server.http.tunnel_stream import FrameStream
from commitcast.gateway.server.server import GatewayServer

logger: Final = logging.getLogger(__name__)


async def serve_tunnel(server: GatewayServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection of a host's app until the request is answered or the host has ended. Closes it.

    Threads: call it on the gateway's loop, with streams of that loop.
    """
    stream = FrameStream(reader, writer, tunnel_frames.decode_host)
    server.core.tunnels += 1
    try:
        async with asyncio.timeout(server.core.limits.handshake_timeout_s):
            scope = await stream.receive()
        if isinstance(scope, Scope):
            await _TunnelRequest(server, scope, stream).run()
            await stream.end()
    except BadFrameError as error:
        _warn(error)
    except OSError:  # the host has ended, or does not read; TimeoutError is an OSError
        pass
    except Exception:  # a defect: this request fails, no other
        logger.exception("a request of a host's app failed")
    finally:
        server.core.tunnels -= 1
        stream.close()


def _warn(error: BadFrameError) -> None:
    logger.warning("the connection of a host's app was closed: %s", error)


class _TunnelRequest(AsgiRequest):
    """A request whose ASGI messages come and go over a connection."""

    def __init__(self, server: GatewayServer, scope: Scope, stream: FrameStream[FromHost]) -> None:
        super().__init__(server, tunnel_frames.asgi_scope(scope), self._next, self._forward)
        self._limits = server.core.limits
        self._stream = stream
        self._is_connected = not scope.is_socket
        """The `websocket.connect` was given out, if there is one."""
        self._gone: Asgi = {"type": f"{scope.kind}.disconnect"}

    async def _next(self) -> Asgi:
        """Return the next message from the client: ASGI's `receive`."""
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        try:
            message = await self._stream.receive()
        except BadFrameError as error:
            _warn(error)
            return self._gone
        return tunnel_frames.asgi_received(message) if isinstance(message, Received) else self._gone

    async def _forward(self, message: Mapping[str, Any]) -> None:
        """Send a message to the client: ASGI's `send`."""
        for frame in tunnel_frames.answer_of(message, self._limits.stall_timeout_s):
            async with asyncio.timeout(self._limits.answer_timeout_s):
                await self._stream.send(frame)

    async def _send_frame(self, frame: PreparedFrame, peer: AsgiPeer) -> None:
        """Send the bytes of a frame as they are: the host decodes them."""
        for part, more in tunnel_frames.parts_of(frame.json):
            await self._stream.send(Text(part, more))
            peer.took(len(part))

    def _descriptor(self, server: GatewayServer) -> int:
        return self._stream.descriptor
