"""What is used of Starlette, in one place: where it is not installed, importing this says what to install."""

from importlib.util import find_spec

from commitcast.gateway.server.errors import MissingExtraError

if find_spec("starlette") is None:
    raise MissingExtraError("serving through ASGI", "http")

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["ASGIApp", "Headers", "Receive", "Response", "Scope", "Send"]
