"""What of an agent's configuration a subscriber may see. Pure.

A configuration is the host's: nobody here knows what is in it. So whatever is named like a secret is left out, wherever
the name stands: as a key, as an option before its value, in `NAME=value`, in a header or a URL; and so is what looks
like one. It is better to hide a word too much than a secret too little; what must stay secret does not belong there.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

HIDDEN: Final = "[hidden]"
"""In place of a value whose place says something, such as an argument."""
_SECRET: Final = ("token", "secret", "pass", "pwd", "key", "credential", "auth", "bearer", "cookie", "dsn", "env")
_MAX_DEPTH: Final = 100
"""A store takes deeper nesting than Python's stack does; below this nothing is shown."""
_NAMES: Final = frozenset({"name", "key", "header", "field", "option", "variable", "var"})
_VALUES: Final = frozenset({"value", "values", "val", "content", "data", "text", "default"})
"""Keys of an object that is itself a name with its value, as `{"name": "Authorization", "value": …}`."""

_ALONE: Final = re.compile(
    r"(?:.*[-_.])?(?:authorization|auth|token|secret|password|passwd|passphrase|pwd|apikey|key|cookie|credentials?)",
    re.IGNORECASE,
)
"""A name that says by itself that what stands behind it is secret, without an option's dashes or an equals sign."""
_OPTION: Final = re.compile(r"--?[\w.-]+")
_LOGIN_OPTIONS: Final = frozenset({"-u", "--user", "--login", "--proxy-user"})
_ASSIGNING: Final = re.compile(r"""(?<![\w.-])(?P<name>[\w.-]{1,80})(?P<sign>["']?\s{0,3}[=:]\s{0,3}["']?)""")
"""A name and the sign behind it. The look-behind keeps it linear: a long word is looked at from its beginning only."""
_ASSIGNED: Final = re.compile(r"""(?:(?:bearer|basic|digest|token)\s+)?[^\s"'&,;]+""", re.IGNORECASE)
_IN_URL: Final = re.compile(r"(?<=://)[^/\s@?#\"']+@")
_SCHEME: Final = re.compile(r"^\s*(bearer|basic|digest|token)\s+\S+\s*$", re.IGNORECASE)
_SHAPES: Final = re.compile(
    r"(?<![\w-])(?:sk|pk|rk)[-_][\w-]{16,}"  # OpenAI, Anthropic, Stripe
    r"|(?<!\w)(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|xox[a-z]-|AIza|ya29\.)[\w.-]{16,}"
    r"|(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)"
    r"|(?<![\w-])(?>(?:[\w-]*?-)??eyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token, with what is tied to it
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
"""Each takes time in proportion to the text: none looks at the same run of characters from several beginnings in it."""


def without_secrets(value: Any, depth: int = 0) -> Any:
    """Leave out or hide what may be a secret: a viewer never needs one."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return _of_object(value, depth)
    if isinstance(value, list):
        return list(_of_list(value, depth))
    return _of_text(value) if isinstance(value, str) else value


def _of_object(value: dict[str, Any], depth: int) -> dict[str, Any]:
    shown = {name: without_secrets(inner, depth + 1) for name, inner in value.items() if not _is_secret(name)}
    if any(name.lower() in _NAMES and isinstance(inner, str) and _is_secret(inner) for name, inner in value.items()):
        return {name: HIDDEN if name.lower() in _VALUES else inner for name, inner in shown.items()}
    return shown


def _of_list(value: list[Any], depth: int) -> Iterator[Any]:
    before: Any = None
    for inner in value:
        yield HIDDEN if _is_before_secret(before, inner) else without_secrets(inner, depth + 1)
        before = inner


def _is_before_secret(before: Any, value: Any) -> bool:
    """Whether a value in a list is what the text before it names: an option's, a header's, a variable's."""
    if not isinstance(before, str) or (isinstance(value, str) and _OPTION.fullmatch(value)):
        return False
    if _OPTION.fullmatch(before):
        return _is_secret(before) or (before in _LOGIN_OPTIONS and ":" in str(value))
    return _ALONE.fullmatch(before) is not None


def _of_text(text: str) -> str:
    hidden = "".join(_without_assigned(_IN_URL.sub(f"{HIDDEN}@", text)))
    return _SHAPES.sub(HIDDEN, _SCHEME.sub(rf"\1 {HIDDEN}", hidden))


def _without_assigned(text: str) -> Iterator[str]:
    """Yield a text in pieces, without the values of secret names in it."""
    done = at = 0
    while match := _ASSIGNING.search(text, at):
        at = match.end()
        value = _ASSIGNED.match(text, at) if _is_assigned(match["name"], match["sign"]) else None
        if value is not None:
            yield text[done:at] + HIDDEN
            done = at = value.end()
    yield text[done:]


def _is_assigned(name: str, sign: str) -> bool:
    """Whether what stands behind a name and a sign is secret. A colon also stands behind words that name nothing."""
    return _is_secret(name) if "=" in sign else _ALONE.fullmatch(name) is not None


def _is_secret(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _SECRET)
