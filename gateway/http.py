"""The one-shot HTTP reads on the gateway's port. Turns a path into an answer; no sockets.

Runs on a reader thread, because it reads the store.
"""

import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from commitcast.gateway import frames, views, web
from commitcast.persistence.errors import AgentNotFoundError, SequenceAheadError, StoreError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import PAGE_ROWS, Store

logger: Final = logging.getLogger(__name__)

MAX_LIMIT: Final = 1_000


class RequestError(ValueError):
    """The query asks for something that cannot be; the text says what."""


class AgentList(msgspec.Struct):
    """The answer to `/v1/agents`."""

    agents: list[frames.AgentView]
    next: int | None
    """What to give as `after` for the next page; null at the end."""


class MessageList(msgspec.Struct):
    """The answer to `/v1/agents/{id}/messages`."""

    agent: str
    epoch: str
    head: int
    status: str
    items: list[frames.Item]
    next: int
    """What to give as `after` for the next page."""
    up_to_date: bool


def respond(store: Store, target: str, host: str) -> Response:
    """Answer a GET; `host` is the request's own."""
    path, _, query = target.partition("?")
    if asset := web.asset(path):
        return _asset_response(asset, host)
    for pattern, answer in _ROUTES:
        if match := pattern.fullmatch(path):
            return _answer(store, answer, parse_qs(query), [unquote(part) for part in match.groups()])
    return error_response(HTTPStatus.NOT_FOUND, "not_found", f"there is nothing at {path:.200}: see /v1/agents")


def _answer(store: Store, answer: Callable[..., Any], query: dict[str, list[str]], parts: list[str]) -> Response:
    try:
        return json_response(HTTPStatus.OK, answer(store, query, *parts))
    except AgentNotFoundError as error:
        return error_response(HTTPStatus.NOT_FOUND, error.code, str(error))
    except SequenceAheadError as error:
        return error_response(HTTPStatus.BAD_REQUEST, error.code, str(error))
    except RequestError as error:
        return error_response(HTTPStatus.BAD_REQUEST, "bad_request", str(error))
    except StoreError as error:
        return error_response(HTTPStatus.SERVICE_UNAVAILABLE, error.code, str(error))
    except Exception:  # the last word on a request, as in the connection loop
        logger.exception("a request failed")
        message = "the server could not do this, and its log says why"
        return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)


def _health(store: Store, query: dict[str, list[str]]) -> dict[str, Any]:
    position, _ = store.position()
    return {"status": "ok", "position": position}


def _agents(store: Store, query: dict[str, list[str]]) -> AgentList:
    status = query.get("status", [None])[0]
    if status is not None and status not in list(AgentStatus):
        raise RequestError(f"{status!r} is no status: use one of {', '.join(AgentStatus)}")
    limit = _number(query, "limit", PAGE_ROWS, least=1, most=MAX_LIMIT)
    wanted = None if status is None else AgentStatus(status)
    records = store.agents(wanted, _number(query, "after", 0), limit)
    following = records[-1].position if len(records) == limit else None
    return AgentList([views.agent_view(record) for record in records], following)


def _agent(store: Store, query: dict[str, list[str]], agent: str) -> frames.AgentView:
    return views.agent_view(_record(store, agent))


def _messages(store: Store, query: dict[str, list[str]], agent: str) -> MessageList:
    after = _number(query, "after", 0)
    limit = _number(query, "limit", PAGE_ROWS, least=1, most=MAX_LIMIT)
    raw = query.get("raw", ["false"])[0] == "true"
    messages = store.messages(agent, after, limit)
    record = _record(store, agent)  # after the messages, so that its head is not behind them
    if after > record.head:
        raise SequenceAheadError(after, record.head)
    last = messages[-1].sequence if messages else after
    items = [views.item(message, raw=raw, with_agent=False) for message in messages]
    return MessageList(agent, record.epoch, record.head, record.status.value, items, last, last >= record.head)


def _record(store: Store, agent: str) -> AgentRecord:
    record = store.agent(agent)
    if record is None:
        raise AgentNotFoundError(agent)
    return record


def _number(
    query: dict[str, list[str]], name: str, default: int, *, least: int = 0, most: int = frames.MAX_NUMBER
) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not least <= int(text) <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")
    return int(text)


_ROUTES: Final[tuple[tuple[re.Pattern[str], Callable[..., Any]], ...]] = (
    (re.compile(r"/healthz"), _health),
    (re.compile(r"/v1/agents"), _agents),
    (re.compile(r"/v1/agents/([^/]+)"), _agent),
    (re.compile(r"/v1/agents/([^/]+)/messages"), _messages),
)


def _asset_response(asset: web.Asset, host: str) -> Response:
    """Return a file for browsers, which may run its own scripts and talk to its own server, and nothing else."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; connect-src 'self' ws://{host} wss://{host}"
    )
    return _response(HTTPStatus.OK, asset.content_type, asset.data, **{"Content-Security-Policy": policy})


def json_response(status: HTTPStatus, body: Any) -> Response:
    """Return a response with a JSON body and headers that keep browsers from guessing."""
    return _response(status, "application/json; charset=utf-8", msgspec.json.encode(body))


def _response(status: HTTPStatus, content_type: str, data: bytes, **more: str) -> Response:
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Connection": "close",
            **more,
        }
    )
    return Response(status.value, status.phrase, headers, data)


def error_response(status: HTTPStatus, code: str, message: str, **headers: str) -> Response:
    """Return a response that says what is wrong."""
    response = json_response(status, {"error": {"code": code, "message": message}})
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response
