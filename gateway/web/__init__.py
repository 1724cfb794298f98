"""The browser's half: the page, its style, and `client.js`, as files that the server hands out as they are.

Owns the list of what may be handed out; nothing else in the folder can be asked for. Pure; files are read once.
"""

from functools import cache
from importlib import resources
from typing import Final

import msgspec


class Asset(msgspec.Struct, frozen=True):
    """A file for browsers."""

    content_type: str
    data: bytes


_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{
        f"/web/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("agents", "app", "blocks", "client", "elements", "messages", "reads", "stream", "texts")
    },
    "/web/client.d.ts": ("client.d.ts", "text/plain; charset=utf-8"),
    "/web/style.css": ("style.css", "text/css; charset=utf-8"),
}


@cache
def asset(path: str) -> Asset | None:
    """Return the file at a path of the server, or None if there is none."""
    found = _FILES.get(path)
    if found is None:
        return None
    name, content_type = found
    return Asset(content_type, resources.files("commitcast.gateway.web").joinpath(name).read_bytes())
