"""Records as subscribers see them: messages as items, agents as views, changes of status as frames. Pure.

Must never show what is the host's alone: the process behind an agent, and what in its configuration may be secret. Nor
a number that a browser would read as another one.
"""

import base64
from typing import Any

import msgspec

from commitcast.gateway.hub.redaction import without_secrets
from commitcast.gateway.protocol.frames import AgentView, ErrorView, Item, Status
from commitcast.gateway.protocol.numbers import within_reach
from commitcast.persistence.records import AgentRecord, MessageRecord, StatusChange


def item(record: MessageRecord, *, raw: bool, with_agent: bool) -> Item:
    """Return a message as an item."""
    return Item(
        record.sequence,
        record.type,
        record.role,
        record.content,
        record.content_type,
        None if record.metadata_json is None else msgspec.Raw(within_reach(record.metadata_json)),
        record.created_at,
        _raw(record.raw) if raw else None,
        record.agent if with_agent else None,
        record.position if with_agent else None,
    )


def _raw(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def status(change: StatusChange, *, prev: int | None = None, last: int | None = None) -> Status:
    """Return a change of status as a frame."""
    failed = change.error_name is not None or change.error_message is not None
    return Status(
        agent=change.agent,
        status=change.status.value,
        previous=change.previous.value,
        sequence=change.sequence,
        at=change.at,
        error=ErrorView(name=change.error_name, message=change.error_message) if failed else None,
        result=None if change.result_json is None else msgspec.Raw(within_reach(change.result_json)),
        reason=change.reason,
        prev=prev,
        last=last,
    )


def agent_view(record: AgentRecord) -> AgentView:
    """Return an agent's record as subscribers may see it."""
    failed = record.error_name is not None or record.error_message is not None
    return AgentView(
        id=record.id,
        epoch=record.epoch,
        type=record.type,
        status=record.status.value,
        head=record.head,
        prompt=record.prompt,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        error=ErrorView(name=record.error_name, message=record.error_message) if failed else None,
        result=None if record.result_json is None else msgspec.Raw(within_reach(record.result_json)),
        configuration=without_secrets(msgspec.json.decode(within_reach(record.configuration_json))),
    )
