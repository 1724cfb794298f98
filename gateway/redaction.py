"""What of an agent's configuration a subscriber may see. Pure.

A configuration is the host's: nobody here knows what is in it, so whatever is named like a secret is left out.
"""

from typing import Any, Final

_SECRET: Final = ("token", "secret", "pass", "pwd", "key", "credential", "auth", "bearer", "cookie", "dsn", "env")
_MAX_DEPTH: Final = 100
"""A store takes deeper nesting than Python's stack does; below this nothing is shown."""


def without_secrets(value: Any, depth: int = 0) -> Any:
    """Leave out every entry whose name suggests a secret: a viewer never needs one."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {
            name: without_secrets(inner, depth + 1)
            for name, inner in value.items()
            if not any(word in name.lower() for word in _SECRET)
        }
    if isinstance(value, list):
        return [without_secrets(inner, depth + 1) for inner in value]
    return value
