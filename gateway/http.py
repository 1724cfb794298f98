"""The one-shot HTTP reads on the gateway's port. Turns a path into an answer; no sockets.

Runs on a reader thread, because it reads the store.
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from commitcast.gateway import frames
from commitcast.persistence.errors import AgentNotFoundError, StoreError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import PAGE_ROWS, Store

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


def respond(store: Store, target: str) -> Response:
    """Answer a GET."""
    parts = urlsplit(target)
    for pattern, answer in _ROUTES:
        if match := pattern.fullmatch(parts.path):
            try:
                return json_response(HTTPStatus.OK, answer(store, parse_qs(parts.query), *map(unquote, match.groups())))
            except AgentNotFoundError as error:
                return error_response(HTTPStatus.NOT_FOUND, error.code, str(error))
            except RequestError as error:
                return error_response(HTTPStatus.BAD_REQUEST, "bad_request", str(error))
            except StoreError as error:
                return error_response(HTTPStatus.SERVICE_UNAVAILABLE, error.code, str(error))
    return error_response(HTTPStatus.NOT_FOUND, "not_found", f"there is nothing at {parts.path}: see /v1/agents")


def _health(store: Store, query: dict[str, list[str]]) -> dict[str, Any]:
    position, _ = store.position()
    return {"status": "ok", "position": position}


def _agents(store: Store, query: dict[str, list[str]]) -> AgentList:
    status = query.get("status", [None])[0]
    if status is not None and status not in list(AgentStatus):
        raise RequestError(f"{status!r} is no status: use one of {', '.join(AgentStatus)}")
    limit = _number(query, "limit", PAGE_ROWS, MAX_LIMIT)
    wanted = None if status is None else AgentStatus(status)
    records = store.agents(wanted, _number(query, "after", 0), limit)
    following = records[-1].position if len(records) == limit else None
    return AgentList([frames.agent_view(record) for record in records], following)


def _agent(store: Store, query: dict[str, list[str]], agent: str) -> frames.AgentView:
    return frames.agent_view(_record(store, agent))


def _messages(store: Store, query: dict[str, list[str]], agent: str) -> MessageList:
    after = _number(query, "after", 0)
    limit = _number(query, "limit", PAGE_ROWS, MAX_LIMIT)
    raw = query.get("raw", ["false"])[0] == "true"
    record = _record(store, agent)
    messages = store.messages(agent, after, limit)
    last = messages[-1].sequence if messages else after
    items = [frames.item(message, raw=raw, with_agent=False) for message in messages]
    head = max(record.head, last)
    return MessageList(agent, record.epoch, head, record.status.value, items, last, last >= head)


def _record(store: Store, agent: str) -> AgentRecord:
    record = store.agent(agent)
    if record is None:
        raise AgentNotFoundError(agent)
    return record


def _number(query: dict[str, list[str]], name: str, default: int, most: int = 2**53 - 1) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not 0 <= int(text) <= most:
        raise RequestError(f"{name} must be a whole number from 0 to {most}, not {text[:40]!r}")
    return int(text)


_ROUTES: Final[tuple[tuple[re.Pattern[str], Callable[..., Any]], ...]] = (
    (re.compile(r"/healthz"), _health),
    (re.compile(r"/v1/agents"), _agents),
    (re.compile(r"/v1/agents/([^/]+)"), _agent),
    (re.compile(r"/v1/agents/([^/]+)/messages"), _messages),
)


def json_response(status: HTTPStatus, body: Any) -> Response:
    """Return a response with a JSON body and headers that keep browsers from guessing."""
    data = msgspec.json.encode(body)
    headers = Headers(
        {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, data)


def error_response(status: HTTPStatus, code: str, message: str) -> Response:
    """Return a response that says what is wrong."""
    return json_response(status, {"error": {"code": code, "message": message}})
