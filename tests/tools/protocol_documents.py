"""The documents that are made from the frame types: schema files, and the tables of `docs/protocol.md`.

`make protocol` writes them, and the `asyncapi.json` that the server serves; a test fails when they differ from the
types.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from protocol_schema import (
    CLIENT_FRAMES,
    NULL,
    REPLIES,
    SERVER_FRAMES,
    Json,
    asyncapi,
    frames_schema,
    meaning_of,
    tag_of,
)

ROOT: Final = Path(__file__).parents[2]
SERVED: Final = ROOT / "gateway" / "protocol" / "asyncapi.json"
"""The AsyncAPI document that is shipped in the package."""


def _table(*rows: Iterable[str]) -> str:
    """Return rows, of which the first is the head, as Markdown."""
    head, *rest = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rest)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])


def _client_frames() -> str:
    rows = [
        (f"`{tag_of(frame)}`", _fields(frame), "none" if reply is None else f"`{tag_of(reply)}`", meaning_of(frame))
        for frame, reply in REPLIES.items()
    ]
    return _table(("type", "fields", "reply", "meaning"), *rows)


def _server_frames() -> str:
    rows = [(f"`{tag_of(frame)}`", _fields(frame), meaning_of(frame)) for frame in SERVER_FRAMES]
    return _table(("type", "fields", "meaning"), *rows)


def _fields(frame: type[msgspec.Struct]) -> str:
    """Return the fields of a frame in short; the `id`, which every client frame has, is told in words."""
    told = [name for name in frame.__struct_fields__ if name != "id" or frame in SERVER_FRAMES]
    return " · ".join(f"{name}: {kind}" for name, kind in (_in_short(frame, name) for name in told))


def _in_short(of: type[msgspec.Struct], field: str) -> tuple[str, str]:
    """Return a field's name, with `?` if it may be left out, and what it is, with what it is then."""
    schema = frames_schema()["$defs"][of.__name__]
    inner = schema["properties"][field]
    if field in schema["required"]:
        return f"`{field}`", _kind(inner)
    default = "" if inner["default"] is None else f" = `{json.dumps(inner['default'])}`"
    return f"`{field}`?", _kind(inner, but=NULL) + default


def _kind(schema: Json, but: Json | None = None) -> str:
    """Return in a word or two what a field is."""
    match schema:
        case {"anyOf": choices}:
            return " or ".join(_kind(choice) for choice in choices if choice != but)
        case {"enum": values}:
            return " or ".join(f"`{json.dumps(value)}`" for value in values)
        case {"$ref": str(reference)}:
            return _KINDS[reference.rpartition("/")[2]]
        case {"type": "array", "items": inner}:
            return f"list of {_kind(inner)}"
        case {"type": "object", "additionalProperties": inner}:
            return f"{{…: {_kind(inner)}}}"
        case {"type": str(kind)}:
            return _KINDS.get(kind, kind)
    return "any JSON"


_KINDS: Final = {"string": "text", "Item": "item", "AgentView": "record", "ErrorView": "`{name, message}`"}


def _meanings(members: Sequence[type[msgspec.Struct]]) -> str:
    """Return what is said of the fields of some frames, once for all frames of which it is said."""
    found: dict[tuple[str, str], list[str]] = {}
    for frame in members:
        for field in frame.__struct_fields__:
            if meaning := meaning_of(frame, field):
                found.setdefault((field, meaning), []).append(f"`{tag_of(frame)}`")
    rows = [
        (f"`{field}`", "every frame" if len(tags) == len(members) else ", ".join(tags), meaning)
        for (field, meaning), tags in found.items()
    ]
    return _table(("field", "of", "meaning"), *rows)


def _struct(of: type[msgspec.Struct]) -> str:
    rows = [(*_in_short(of, field), meaning_of(of, field)) for field in of.__struct_fields__]
    return _table(("field", "is", "meaning"), *rows)


def _error_codes() -> str:
    rows = [(f"`{code.value}`", _yes(code.retry), meaning_of(ErrorCode, code.name)) for code in ErrorCode]
    return _table(("code", "retry", "meaning"), *rows)


def _close_codes() -> str:
    rows = [
        (str(code.value), f"`{code.name.lower()}`", _yes(code.come_back), meaning_of(CloseCode, code.name))
        for code in CloseCode
    ]
    return _table(("code", "name", "come back", "meaning"), *rows)


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "client frames": _client_frames,
    "client fields": lambda: _meanings(CLIENT_FRAMES),
    "server frames": _server_frames,
    "server fields": lambda: _meanings(SERVER_FRAMES),
    "items": lambda: _struct(frames.Item),
    "records": lambda: _struct(frames.AgentView),
    "error codes": _error_codes,
    "close codes": _close_codes,
}
"""What may stand between `<!-- generated: NAME -->` and `<!-- end -->`."""
_GENERATED: Final = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def documents(folder: Path) -> dict[Path, str]:
    """Return what each generated document in a folder has to contain; reads the prose around the tables there.

    Raises:
        FileNotFoundError: the folder has no `protocol.md`.
        KeyError: `protocol.md` asks for a table that there is not.
    """
    protocol = folder / "protocol.md"
    return {
        folder / "frames.schema.json": _pretty(frames_schema()),
        folder / "asyncapi.json": _pretty(asyncapi()),
        protocol: _GENERATED.sub(
            lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", protocol.read_text("utf-8")
        ),
    }


def served() -> str:
    """Return the required content of `SERVED`: the AsyncAPI document without white space, as it goes over the wire."""
    return json.dumps(asyncapi(), separators=(",", ":"), ensure_ascii=False)


def _pretty(document: Json) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(folder: Path, shipped: Path) -> None:
    """Write the generated documents into a folder, and the server's copy of `asyncapi.json`."""
    for path, text in {**documents(folder), shipped: served()}.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"Write the protocol's documents into docs/, and {SERVED.name}.")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of protocol.md and the schemas")
    parser.add_argument("--served", type=Path, default=SERVED, help="the copy of asyncapi.json that the server serves")
    options = parser.parse_args()
    main(options.docs, options.served)
