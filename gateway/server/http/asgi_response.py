"""Responses through ASGI: to an HTTP request, and in place of a WebSocket; and the life of an app.

Runs on the loop that serves the app. Needs the extra `http`.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from commitcast.gateway.server.http.request import HttpResponse, error_response
from commitcast.gateway.server.http.starlette_names import ASGIApp, Receive, Response, Scope, Send

GONE: Final = (OSError, RuntimeError)
"""What ASGI servers raise when the client has disconnected; they differ in it."""


def app_of(answer: Callable[[Scope, Receive, Send], Awaitable[None]]) -> ASGIApp:
    """Return an app that answers each HTTP request and each WebSocket with a call."""

    async def answer_scope(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _on_lifespan(receive, send)
        elif scope["type"] in ("http", "websocket"):
            await answer(scope, receive, send)
        else:
            raise NotImplementedError(f"this app does not support the ASGI scope {scope['type']!r}")

    return answer_scope


async def _on_lifespan(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown: the gateway is started and stopped by its runtime."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def respond(response: HttpResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response; to a HEAD request without its body."""
    body = b"" if scope.get("method") == "HEAD" else response.body
    await Response(body, response.status, response.headers)(scope, receive, send)


async def refuse(refused: HttpResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request with a response; a WebSocket with the server's own 403 where it cannot send one."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await respond(refused, scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


def unavailable() -> HttpResponse:
    """Return the response while there is no gateway."""
    message = "the gateway is not running: its runtime is not started yet, or has stopped"
    return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, Retry_After="2")
