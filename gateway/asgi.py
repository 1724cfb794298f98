"""The ASGI app for subscribers: `asgi.app(runtime.gateway)`. Re-exported from `server/http/asgi.py`."""

from commitcast.gateway.server.http.asgi import app
from commitcast.gateway.server.http.tunnel import TunnelOpener

__all__ = ["TunnelOpener", "app"]
