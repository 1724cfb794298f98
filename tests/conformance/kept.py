"""Checks that entries which a client received before its server was killed still exist. Runs on the runner's loop.

Entries that the server had not sent yet may exist or not. Entries that it had sent must exist unchanged, the cursor
resumes after them, and a new subscription receives the same entries.
"""

from typing import Any, Final

from cases import Fields
from lanes import ALL, Stream
from link import open_link
from matching import Mismatch, are_equal, shown

_OF_AN_AGENT: Final = ("agent", "event", "last")
"""What an `agent` frame says that does not change: its record is of the time at which it is sent."""


async def check_kept(url: str, before: Stream, timeout_s: float) -> None:
    """See that a subscription can be resumed, and that it and one that begins anew show the same history.

    Args:
        url: of the server that was started again.
        before: the subscription, as far as it had come when the server was killed.
        timeout_s: how long to wait for each thing that is to come.

    Raises:
        Mismatch: something that was sent is not there, or is another; or the cursor does not hold.
    """
    resumed = await _history(url, {"agent": before.agent, "after": before.cursor, "epoch": before.epoch}, timeout_s)
    anew = await _history(url, {"agent": before.agent, "after": before.began}, timeout_s)
    seen = _lasting(before.heard)
    _compare(seen, anew, "before the server was killed")
    repeats = [] if before.agent == ALL else _at(seen, before.cursor)
    _compare(seen + [entry for entry in resumed if entry not in repeats], anew, "when the subscription was resumed")


def _compare(wanted: list[Fields], found: list[Fields], when: str) -> None:
    for index, entry in enumerate(wanted):
        there = found[index] if index < len(found) else None
        if there is None or not are_equal(there, entry):
            what = "it is gone" if there is None else f"{shown(there)} is in its place"
            raise Mismatch(f"{shown(entry)} came {when}, and for one who begins anew {what}")


async def _history(url: str, wish: Fields, timeout_s: float) -> list[Fields]:
    """Subscribe, and return all that comes until it is live."""
    link = await open_link(url, {}, {}, timeout_s)
    try:
        await link.send({"type": "subscribe", "id": "kept", **wish})
        await link.expect({"type": "subscribed", "id": "kept", "agent": wish["agent"], "after": wish["after"]})
        return _lasting(await link.until_live(wish["agent"]))
    finally:
        await link.close()


def _lasting(entries: list[Fields]) -> list[Fields]:
    """Leave out what depends on when one asks."""
    return [_lasting_of(entry) for entry in entries if "live" not in entry]


def _lasting_of(entry: Fields) -> Fields:
    ((kind, value),) = entry.items()
    if kind == "agent":
        return {kind: {name: value.get(name) for name in _OF_AN_AGENT}}
    return {kind: {name: inner for name, inner in value.items() if name != "prev"}}


def _at(entries: list[Fields], cursor: int) -> list[Any]:
    """The changes of status right at a cursor, which are sent again when one resumes there."""
    return [entry for entry in entries if "status" in entry and entry["status"]["sequence"] == cursor]
