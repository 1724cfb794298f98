"""Loads the cases of `cases.json`. Pure, except that it reads that file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

SUBPROTOCOL: Final = "commitcast.v1.json"
"""Of the WebSocket handshake. The suite shares no code with what it judges, or it would share its mistakes."""
CASES: Final = Path(__file__).with_name("cases.json")

Fields = dict[str, Any]
Side = Literal["server", "client"]


@dataclass(frozen=True)
class Case:
    """One conversation, and its expected outcome."""

    name: str
    """A sentence that is true of every implementation that passes."""
    why: str
    """The rule that it tests: a section of docs/protocol.md, and what stands there."""
    steps: list[Fields]
    given: Fields = field(default_factory=dict)
    """What is there before the first step."""
    needs: list[str] = field(default_factory=list)
    """Abilities that the protocol does not demand; see docs/conformance.md."""
    known_defect: str | None = None
    """Why it does not pass yet."""


def load_cases(side: Side) -> list[Case]:
    """Return the cases for servers, or those for clients."""
    return [Case(**fields) for fields in json.loads(CASES.read_text("utf-8"))[side]]
