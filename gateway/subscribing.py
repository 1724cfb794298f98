"""Where a subscription begins: the store is asked, the right is checked, and the cursor is one of that log."""

from commitcast.gateway import frames, views
from commitcast.gateway.auth import Grant
from commitcast.gateway.errors import ErrorCode
from commitcast.gateway.operations import Refusal, check_may_read, refusal_of
from commitcast.gateway.pump import Pump
from commitcast.persistence.errors import CommitcastError, SequenceAheadError


async def find(pump: Pump, grant: Grant, frame: frames.Subscribe) -> tuple[frames.Subscribed, int]:
    """Return the reply to `subscribe`, and the position of the last entry that the client has.

    Raises:
        Refusal: there is no such agent, none that the caller may know of, or the cursor is none of its log's.
    """
    try:
        return await (_find_all if frame.agent == frames.ALL else _find_one)(pump, grant, frame)
    except SequenceAheadError as error:
        raise Refusal(ErrorCode.AHEAD, str(error), head=error.head) from error
    except CommitcastError as error:
        raise refusal_of(error) from error


async def _find_one(pump: Pump, grant: Grant, frame: frames.Subscribe) -> tuple[frames.Subscribed, int]:
    after = None if frame.after == "tail" else frame.after
    standing = await pump.read(pump.store.standing, frame.agent, after)
    check_may_read(grant, frame.agent)  # after the read, so that it takes as long as for an agent that is not there
    record = standing.record
    reply = frames.Subscribed(
        id=frame.id,
        agent=frame.agent,
        epoch=record.epoch,
        after=record.head if after is None else after,
        head=record.head,
        first=1,
        status=record.status.value,
        record=views.agent_view(record),
    )
    _check_cursor(frame, reply)
    return reply, standing.position


async def _find_all(pump: Pump, grant: Grant, frame: frames.Subscribe) -> tuple[frames.Subscribed, int]:
    check_may_read(grant, frame.agent)
    last, epoch = await pump.read(pump.store.position)
    after = last if frame.after == "tail" else frame.after
    reply = frames.Subscribed(
        id=frame.id, agent=frame.agent, epoch=epoch, after=after, head=last, first=1, status=None, record=None
    )
    _check_cursor(frame, reply)
    return reply, after


def _check_cursor(frame: frames.Subscribe, reply: frames.Subscribed) -> None:
    if frame.epoch not in (None, reply.epoch):
        shown = (frame.epoch or "")[:40]
        message = f"the cursor belongs to epoch {shown!r} and this is {reply.epoch!r}: start again after 0"
        raise Refusal(ErrorCode.STALE_EPOCH, message)
    if reply.after > reply.head:
        raise SequenceAheadError(reply.after, reply.head)
