"""Lines that programs print: the fixtures beside the tests of the parsers, and made-up ones."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from commitcast.actors.sources.draft import Draft, Ending
from commitcast.actors.sources.parsers import Parser, first_parser
from commitcast.actors.sources.verdict import decide_ending

TRANSCRIPTS = Path(__file__).parents[1] / "actors" / "sources" / "transcripts"


class Heard(NamedTuple):
    """What was understood of a program's output, and how its agent ends."""

    parser: Parser
    drafts: list[Draft]
    ending: Ending

    @property
    def shown(self) -> list[tuple[str, str]]:
        return [(draft.type, str(draft.content)) for draft in self.drafts]

    @property
    def raw(self) -> list[bytes | str]:
        return [draft.raw for draft in self.drafts if draft.raw is not None]


def lines_of(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")


def encode(*events: Any) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]


def hear(
    lines: list[bytes],
    type: str = "text",
    *,
    argv: tuple[str, ...] = ("x", "--output-format", "json"),
    exit_code: int = 0,
) -> Heard:
    """Read lines as those of a program; with the type "text", of one whose name is not known."""
    parser = first_parser(type, argv, is_guess=type == "text")
    drafts: list[Draft] = []
    for line in lines:
        parser = parser.successor(line) or parser
        drafts += parser.feed(line)
    drafts += parser.flush()
    return Heard(parser, drafts, decide_ending("x", exit_code, parser, ""))
