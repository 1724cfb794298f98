"""Where a subscription begins: the store is asked, the right is checked, and the cursor is one of that log."""

from typing import NamedTuple

from commitcast.gateway.hub import views
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.operations import Refusal, check_may_read, refusal_of
from commitcast.gateway.server.pump import Pump
from commitcast.persistence.errors import CommitcastError, SequenceAheadError


class Beginning(NamedTuple):
    """Where a subscription begins."""

    reply: frames.Subscribed
    position: int
    """Of the last entry that the client has."""
    log: str
    """The agent's own epoch, which its entries carry; of all agents none."""


async def find(pump: Pump, grant: Grant, frame: frames.Subscribe) -> Beginning:
    """Return where a subscription begins, with the reply to `subscribe`.

    Raises:
        Refusal: there is no such agent, none that the caller may know of, or the cursor is none of its log's.
    """
    try:
        return await (_find_all if frame.agent == frames.ALL else _find_one)(pump, grant, frame)
    except SequenceAheadError as error:
        raise Refusal(ErrorCode.AHEAD, str(error), head=error.head) from error
    except CommitcastError as error:
        raise refusal_of(error) from error


async def _find_one(pump: Pump, grant: Grant, frame: frames.Subscribe) -> Beginning:
    after = None if frame.after == "tail" else frame.after
    try:
        standing = await pump.read(pump.store.standing, frame.agent, after, frame.epoch)
    finally:  # after the read, so that it takes as long as for an agent that is not there; and before its errors
        check_may_read(grant, frame.agent)
    record = standing.record
    reply = frames.Subscribed(
        id=frame.id,
        agent=frame.agent,
        epoch=standing.epoch,
        after=record.head if after is None else after,
        head=record.head,
        first=1,
        status=record.status.value,
        record=views.agent_view(record),
    )
    _check_cursor(reply)
    return Beginning(reply, standing.position, record.epoch)


async def _find_all(pump: Pump, grant: Grant, frame: frames.Subscribe) -> Beginning:
    check_may_read(grant, frame.agent)
    known = None if frame.after == "tail" else frame.after
    last, epoch = await pump.read(pump.store.position, known, frame.epoch)
    after = last if known is None else known
    reply = frames.Subscribed(
        id=frame.id, agent=frame.agent, epoch=epoch, after=after, head=last, first=1, status=None, record=None
    )
    _check_cursor(reply)
    return Beginning(reply, after, "")


def _check_cursor(reply: frames.Subscribed) -> None:
    if reply.after > reply.head:
        raise SequenceAheadError(reply.after, reply.head)
