"""The cases of what messages make one text, for every reader: the terminal's, the page's, and that of the document."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from commitcast.gateway.protocol.frames import Item


class Case(NamedTuple):
    """Messages of one agent, and the texts that a person reads: each with the sequence of its first message."""

    name: str
    items: list[Item]
    shown: list[tuple[int, str]]
    is_for_example: bool


def _item(sequence: int, type: str, content: str, metadata: Any) -> Item:
    return Item(sequence, type, None, content, "text", metadata, "2026-01-02T03:04:05.678901Z")


def _case(case: dict[str, Any]) -> Case:
    items = [_item(sequence, *message) for sequence, message in enumerate(case["messages"], 1)]
    return Case(case["name"], items, [tuple(shown) for shown in case["shown"]], "no_example" not in case)


CASES = [_case(case) for case in json.loads(Path(__file__).with_name("texts.json").read_text("utf-8"))]
