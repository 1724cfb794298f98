"""Static files for browsers: the page, its style, and `client.js`.

Owns the list of files that are served; nothing else in the folder can be requested. Files are read once.
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
    """Return the file at a path of the server; None if there is none."""
    file = _FILES.get(path)
    if file is None:
        return None
    name, content_type = file
    return Asset(content_type, resources.files("commitcast.gateway.web").joinpath(name).read_bytes())
