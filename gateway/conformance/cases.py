"""The cases, as they stand in `cases.json`. Pure, but for reading that file."""

from importlib import resources
from typing import Any, Literal

import msgspec

Fields = dict[str, Any]
Side = Literal["server", "client"]


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One conversation, and what must come of it."""

    name: str
    """A sentence that is true of whatever passes."""
    why: str
    """The rule that it tests: a section of docs/protocol.md, and what stands there."""
    steps: list[Fields]
    given: Fields = {}
    """What is there before the first step."""
    needs: list[str] = []
    """What not everybody can do who keeps to the protocol; see docs/conformance.md."""
    known_defect: str | None = None
    """Why it does not pass yet."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    protocol: str
    server: list[Case]
    client: list[Case]


def load_cases(side: Side) -> list[Case]:
    """Return the cases for servers, or those for clients."""
    data = resources.files("commitcast.gateway.conformance").joinpath("cases.json").read_bytes()
    cases: list[Case] = getattr(msgspec.json.decode(data, type=_File), side)
    return cases
