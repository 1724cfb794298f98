"""HTTP reads of the store: pages of agents and of messages, limited to those that the caller may read.

Runs on reader threads.
"""

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec

from commitcast.gateway.hub.encoding import agent_view, message_item
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.auth import Capability, Grant, Permission
from commitcast.gateway.server.http.request import HttpRequest
from commitcast.persistence.errors import AgentNotFoundError, InvalidValueError, SequenceAheadError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.store import MAX_PAGE_BYTES, PAGE_ROWS, IdRange, Reader, entry_size

MAX_LIMIT: Final = 1_000
_AFTER_AGENT: Final = "@"
"""Prefix of an agent's id in a cursor that means "after that agent"; ids cannot contain it."""

_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}

Query = dict[str, list[str]]


class AgentList(msgspec.Struct):
    """The answer to `/v1/agents`."""

    epoch: str
    """Of `next`: give both for the next page."""
    agents: list[frames.AgentView]
    """Those that the caller may read; a page may have fewer than the limit, or none."""
    next: int | str | None
    """The `after` of the next page; null at the end. A position for a caller that may read all agents; else the last
    agent of the page, because positions would show how much other agents say."""


class MessageList(msgspec.Struct):
    """The answer to `/v1/agents/{id}/messages`."""

    agent: str
    epoch: str
    """Of `next`: give both for the next page."""
    head: int
    status: str
    items: list[frames.Item]
    next: int
    """The `after` of the next page."""
    up_to_date: bool


def read(
    store: Reader, grant: Grant, request: HttpRequest, redactor: Redactor
) -> AgentList | frames.AgentView | MessageList | None:
    """Return the answer to a path; None if there is no such route.

    Raises:
        InvalidValueError: a parameter of the query is out of range.
        CommitcastError: from the store.
    """
    for pattern, answer in _ROUTES:
        if match := pattern.fullmatch(request.path):
            parts = [unquote(part) for part in match.groups()]
            return answer(store, grant, parse_qs(request.query), redactor, *parts)  # type: ignore[no-any-return]
    return None


def _agents(store: Reader, grant: Grant, query: Query, redactor: Redactor) -> AgentList:
    status = query.get("status", [None])[0]
    if status is not None and status not in list(AgentStatus):
        raise InvalidValueError(f"{status[:40]!r} is not a status: use one of {', '.join(AgentStatus)}")
    limit = _number(query, "limit", PAGE_ROWS, least=1, most=MAX_LIMIT)
    wanted = None if status is None else AgentStatus(status)
    order = query.get("order", ["oldest"])[0]
    if order not in ("oldest", "newest"):
        raise InvalidValueError(f"{order[:40]!r} is not a sort order: use oldest or newest")
    sees_all = grant.allows_everywhere(Permission.READ)
    after = _number(query, "after", 0) if sees_all else _position_after(store, grant, query)
    _, epoch = store.position(after, _epoch(query))
    records = store.agents(
        wanted,
        after,
        limit + 1,  # one more shows whether there is a next page
        newest=order == "newest",
        within=None if sees_all else list(map(_range, grant.readable())),
    )
    shown = records[:limit]
    is_cut = len(records) > limit or sum(map(entry_size, records)) >= MAX_PAGE_BYTES
    next_after = None if not is_cut else shown[-1].position if sees_all else f"{_AFTER_AGENT}{shown[-1].id}"
    return AgentList(epoch, [agent_view(record, redactor) for record in shown], next_after)


def _position_after(store: Reader, grant: Grant, query: Query) -> int:
    """Return the position where a page begins for a caller that may not read all agents, and so not try positions."""
    after = query.get("after", ["0"])[0]
    if after == "0":
        return 0
    if not after.startswith(_AFTER_AGENT):
        raise InvalidValueError(f"after must be 0 or the `next` of the page before, not {after[:40]!r}")
    return _record(store, grant, after.removeprefix(_AFTER_AGENT)).position


def _range(capability: Capability) -> IdRange:
    """Return the range of ids of a capability; ids are ASCII."""
    return capability.prefix, capability.prefix + ("\x7f" if capability.is_prefix else "\x00")


def _agent(store: Reader, grant: Grant, query: Query, redactor: Redactor, agent: str) -> frames.AgentView:
    return agent_view(_record(store, grant, agent), redactor)


def _messages(store: Reader, grant: Grant, query: Query, redactor: Redactor, agent: str) -> MessageList:
    after = _number(query, "after", 0)
    limit = _number(query, "limit", PAGE_ROWS, least=1, most=MAX_LIMIT)
    raw = flag(query, "raw")
    record = _record(store, grant, agent)  # first, so that it takes as long as for an agent that does not exist
    epoch = store.resolve_cursor(agent, after, _epoch(query)).epoch
    messages = store.messages(agent, after, limit)
    last = messages[-1].sequence if messages else after
    if not messages and after > record.head:
        raise SequenceAheadError(after, record.head)
    head = max(record.head, last)
    items = [message_item(message, raw=raw, with_agent=False) for message in messages]
    return MessageList(agent, epoch, head, record.status.value, items, last, last >= head)


def _record(store: Reader, grant: Grant, agent: str) -> AgentRecord:
    record = store.agent(agent)
    if record is None or not grant.allows(Permission.READ, agent):
        raise AgentNotFoundError(agent)
    return record


def _epoch(query: Query) -> str | None:
    """Return the epoch of `after`; None if the query has none, and it is not checked."""
    return query.get("epoch", [None])[0]


def flag(query: Query, name: str) -> bool:
    """Return a boolean parameter of a query; False if it is missing.

    Raises:
        InvalidValueError: it is neither true nor false.
    """
    text = query.get(name, ["false"])[0]
    if text not in _FLAGS:
        raise InvalidValueError(f"{name} must be true or false, not {text[:40]!r}")
    return _FLAGS[text]


def _number(query: Query, name: str, default: int, *, least: int = 0, most: int = frames.MAX_NUMBER) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not least <= int(text) <= most:
        raise InvalidValueError(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")
    return int(text)


_ROUTES: Final[tuple[tuple[re.Pattern[str], Callable[..., Any]], ...]] = (
    (re.compile(r"/v1/agents"), _agents),
    (re.compile(r"/v1/agents/([^/]+)"), _agent),
    (re.compile(r"/v1/agents/([^/]+)/messages"), _messages),
)
