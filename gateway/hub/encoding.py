"""Encodes records as frames, once for all subscribers that are given the same one. Pure; used from the gateway's loop.

Messages become items, agents become views, changes of status become frames of their own. Must never show what belongs
to the host alone: the process behind an agent, and what its configuration hides (`redaction`); nor a number that a
browser would read as another one.

Sending costs one kernel call for each subscriber; everything before that call is done once. A compressed frame begins
with an empty window ("no context takeover", RFC 7692 section 7.1.1): it is the same for all subscribers, and nothing of
one agent helps to guess the text of another.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.hub.subscription import FRAME_BYTES, Subscription
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.frames import AgentView, ErrorView, Item, Status
from commitcast.gateway.protocol.numbers import within_reach
from commitcast.persistence.records import AgentDeletion, AgentRecord, Entry, MessageRecord, StatusChange
from commitcast.persistence.writes import text_size

COMPRESSED_FROM_BYTES: Final = 512
"""A shorter frame fits into one packet without compression."""
WINDOW_BITS: Final = 12
"""Of the deflate window that is negotiated: 4 KiB finds most repetition in JSON, and costs a client 4 KiB."""
COMPRESSION_LEVEL: Final = 1
"""The fastest: the repeated keys are most of what can be saved, and every level finds them."""

ITEM_BYTES: Final = 145
"""Of an item beside its texts: keys, type, times, numbers. Of short messages that is most of a frame."""
PLACE_BYTES: Final = 68
"""And of its agent and position, in a frame of all agents."""
ESCAPE_BYTES: Final = FRAME_BYTES // 8
"""By which escaped newlines and quotes may make a frame longer than expected; for those it is not encoded again."""

_TEXT: Final = 0x81
"""FIN and opcode 1 (RFC 6455 section 5.2)."""
_TEXT_COMPRESSED: Final = 0xC1
"""And RSV1, which marks a compressed message (RFC 7692 section 6)."""
_FLUSH_TAIL: Final = 4
"""Bytes 00 00 FF FF that end each flush and are left out on the wire (RFC 7692 section 7.2.1)."""


class PreparedFrame:
    """One frame of the protocol, encoded once: as JSON, and on demand as a plain or compressed WebSocket frame."""

    __slots__ = ("_compressed", "_plain", "frame", "json", "messages")

    def __init__(self, frame: frames.ServerFrame, messages: int = 0) -> None:
        """Encode a frame, which carries this many messages."""
        self.frame = frame
        self.json: bytes = frames.encode(frame)
        self.messages = messages
        self._plain: bytes | None = None
        self._compressed: bytes | None = None

    @property
    def plain(self) -> bytes:
        """The uncompressed WebSocket frame."""
        if self._plain is None:
            self._plain = _header(_TEXT, len(self.json)) + self.json
        return self._plain

    @property
    def compressed(self) -> bytes:
        """The WebSocket frame for clients that negotiated permessage-deflate; plain where that is not longer."""
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


def next_frame(
    subscription: Subscription, entries: Sequence[Entry], start: int, redactor: Redactor
) -> tuple[PreparedFrame | None, int]:
    """Return the frame that follows a subscription's cursor, and how many entries it covers.

    The frame is None for entries that this subscription is not shown, such as the creation of its one agent.
    """
    first = entries[start]
    if isinstance(first, MessageRecord):
        return _messages(subscription, entries, start)
    prev = subscription.cursor if subscription.is_to_all else None
    if isinstance(first, StatusChange):
        last = None if prev is None else first.position
        return PreparedFrame(status_frame(first, prev=prev, last=last)), 1
    if prev is None:
        return None, 1
    return PreparedFrame(_agent_event(first, prev, redactor)), 1


def _messages(subscription: Subscription, entries: Sequence[Entry], start: int) -> tuple[PreparedFrame, int]:
    items: list[Item] = []
    size = 0  # of the frame if nothing but quotes in JSON has to be escaped: as a rule the encoded size
    raw, to_all = subscription.raw, subscription.is_to_all
    item_size = ITEM_BYTES + PLACE_BYTES if to_all else ITEM_BYTES
    for entry in entries[start : start + subscription.credit]:  # not islice, which walks there from the beginning
        if not isinstance(entry, MessageRecord):
            break
        items.append(message_item(entry, raw=raw, with_agent=to_all))
        content = entry.content
        size += item_size + (len(content) if content.isascii() else text_size(content))  # inline: a tenth of the work
        if entry.content_type == "json":
            size += content.count('"')
        if entry.metadata_json is not None:
            size += text_size(entry.metadata_json)
        if raw and entry.raw is not None:
            size += len(entry.raw) + entry.raw.count(b'"')  # a line of JSON as a rule
        if size >= FRAME_BYTES:
            break
    prepared = _prepared(subscription, items)
    excess = len(prepared.json) - FRAME_BYTES - ESCAPE_BYTES
    if excess > 0 and len(items) > 1 and len(frames.encode(items[-1])) < excess:
        prepared = _prepared(subscription, items[: _fitting(items)])
    return prepared, prepared.messages


def _prepared(subscription: Subscription, items: list[Item]) -> PreparedFrame:
    last = items[-1].position if subscription.is_to_all else items[-1].sequence
    assert last is not None
    frame = frames.Messages(agent=subscription.agent, prev=subscription.cursor, last=last, items=items)
    return PreparedFrame(frame, len(items))


def _fitting(items: list[Item]) -> int:
    """Return how many items a frame has that ends with the item whose encoding passes `FRAME_BYTES`.

    JSON writes a control character as six bytes, and base64 three as four, so a frame may be several times as long as
    its texts. That is rare: encoding every item by itself, to know it before, would make each frame a third dearer.
    """
    size = 0
    for count, item in enumerate(items, 1):
        size += len(frames.encode(item))
        if size >= FRAME_BYTES:
            return count
    return len(items)


def message_item(record: MessageRecord, *, raw: bool, with_agent: bool) -> Item:
    """Return a message as an item of a `messages` frame."""
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


def status_frame(change: StatusChange, *, prev: int | None, last: int | None) -> Status:
    """Return a change of status as a frame; `prev` and `last` are for a subscription to all agents."""
    return Status(
        agent=change.agent,
        status=change.status.value,
        previous=change.previous.value,
        sequence=change.sequence,
        at=change.at,
        error=_error_view(change),
        result=None if change.result_json is None else msgspec.Raw(within_reach(change.result_json)),
        reason=change.reason,
        prev=prev,
        last=last,
    )


def _agent_event(entry: AgentRecord | AgentDeletion, prev: int, redactor: Redactor) -> frames.Agent:
    if isinstance(entry, AgentDeletion):
        return frames.Agent(agent=entry.agent, event="deleted", prev=prev, last=entry.position)
    view = agent_view(entry, redactor)
    return frames.Agent(agent=entry.id, event="created", record=view, prev=prev, last=entry.position)


def agent_view(record: AgentRecord, redactor: Redactor) -> AgentView:
    """Return an agent's record as subscribers may see it."""
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
        error=_error_view(record),
        result=None if record.result_json is None else msgspec.Raw(within_reach(record.result_json)),
        configuration=redactor.redact(msgspec.json.decode(within_reach(record.configuration_json))),
    )


def _error_view(source: AgentRecord | StatusChange) -> ErrorView | None:
    if source.error_name is None and source.error_message is None:
        return None
    return ErrorView(name=source.error_name, message=source.error_message)
