"""Lines that programs print: the fixtures beside the tests of the parsers, and made-up ones."""

import json
from pathlib import Path
from typing import Any

TRANSCRIPTS = Path(__file__).parents[1] / "actors" / "sources" / "transcripts"


def lines_of(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")


def encode(*events: Any) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]
