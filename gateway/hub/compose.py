"""The next frame of a subscription, made from entries of its log. Pure."""

from collections.abc import Sequence

from commitcast.gateway.hub import views
from commitcast.gateway.hub.prepared import PreparedFrame
from commitcast.gateway.hub.subscription import FRAME_BYTES, Subscription
from commitcast.gateway.protocol import frames
from commitcast.persistence.records import AgentDeletion, AgentRecord, Entry, MessageRecord, StatusChange


def next_frame(subscription: Subscription, entries: Sequence[Entry], start: int) -> tuple[PreparedFrame | None, int]:
    """Return the next frame for a cursor, and how many entries it covers. None: they need no frame."""
    first = entries[start]
    if isinstance(first, MessageRecord):
        return _messages(subscription, entries, start)
    prev = subscription.cursor if subscription.is_to_all else None
    if isinstance(first, StatusChange):
        last = None if prev is None else first.position
        return PreparedFrame(views.status(first, prev=prev, last=last)), 1
    if prev is None:
        return None, 1
    return PreparedFrame(_agent_event(first, prev)), 1


def _messages(subscription: Subscription, entries: Sequence[Entry], start: int) -> tuple[PreparedFrame, int]:
    items: list[frames.Item] = []
    size = 0
    raw, to_all, item = subscription.raw, subscription.is_to_all, views.item
    for entry in entries[start : start + subscription.room]:  # not islice, which walks there from the beginning
        if type(entry) is not MessageRecord:
            break
        items.append(item(entry, raw=raw, with_agent=to_all))
        size += len(entry.content)
        if entry.metadata_json is not None:
            size += len(entry.metadata_json)
        if raw and entry.raw is not None:
            size += len(entry.raw)
        if size >= FRAME_BYTES:
            break
    last = items[-1].position if to_all else items[-1].sequence
    assert last is not None
    frame = frames.Messages(agent=subscription.agent, prev=subscription.cursor, last=last, items=items)
    return PreparedFrame(frame, len(items)), len(items)


def _agent_event(entry: AgentRecord | AgentDeletion, prev: int) -> frames.Agent:
    if isinstance(entry, AgentDeletion):
        return frames.Agent(agent=entry.agent, event="deleted", prev=prev, last=entry.position)
    return frames.Agent(agent=entry.id, event="created", record=views.agent_view(entry), prev=prev, last=entry.position)
