"""Hides what is named or shaped like a secret in an agent's configuration before subscribers see it. Pure.

This is cosmetic: it spares viewers the obvious, and is not a security boundary. A configuration is the host's, and
nothing here knows what is in it; what must stay secret does not belong there. A host adds its own names.

A value is hidden when its name is listed: as a key, as an option before it, in `NAME=value`, in a header or a URL.
Names are split into words (`Api-Key`, `apiKey` and `API_KEY` are all "api key"), and a name matches by its last words:
`GITHUB_TOKEN` and `SECRET_KEY_BASE` are hidden; `max_tokens`, `author` and `environment` are not. Long names match at
the end of a word that is written together, too (`PGPASSWORD`); short ones do not (`compass`).
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from commitcast.persistence.errors import InvalidValueError

HIDDEN: Final = "[hidden]"
"""In place of a value whose place says something, such as an argument."""
_LONG_NAMES: Final = (
    *("password", "passwd", "pwd", "passphrase", "passcode", "secret", "credential", "cookie"),
    *("api key", "access key", "secret key", "private key", "signing key", "encryption key", "master key", "auth key"),
    *("account key", "deploy key", "license key", "service key", "shared key", "storage key", "ssh key", "pgp key"),
    *("tls key", "ssl key"),
)
"""No other word ends with one of them, so they also match inside a word that is written together."""
SECRET_NAMES: Final = (
    *(*_LONG_NAMES, "token", "bearer", "pass", "pw", "auth", "oauth", "dsn", "env", "jwt", "pat"),
    *("authentication", "authorization"),
    *("pass key", "db pass", "pg pass", "my pass", "root pass", "ssh pass", "user pass"),
    *("access token", "api token", "auth token", "bearer token", "bot token", "oauth token", "refresh token"),
    *("csrf token", "device token", "github token", "id token", "secret token", "session token", "user token"),
)
"""Listed without a host's own, and their plurals; the words of a name are separated by spaces."""
SHOWN_NAMES: Final = (
    *("bos token", "cls token", "end token", "eos token", "eot token", "image token", "mask token", "next token"),
    *("pad token", "page token", "sep token", "special token", "start token", "stop token", "unk token"),
    *("dry pass", "final pass", "first pass", "multi pass", "one pass", "second pass", "single pass", "two pass"),
    *("cache key", "dedup key", "foreign key", "group key", "hash key", "idempotency key", "index key", "join key"),
    *("lookup key", "map key", "message key", "object key", "partition key", "primary key", "public key"),
    *("range key", "routing key", "row key", "sort key", "translation key", "unique key"),
)
"""Shown although they end with a listed name, or with "key", which hides each name that it is not alone."""
_QUALIFIERS: Final = (
    *("base", "default", "encoded", "hash", "hex", "pem", "plain", "plaintext", "raw", "string", "value", "b"),
    *("backup", "current", "dev", "live", "new", "old", "previous", "primary", "prod", "production", "secondary"),
    *("header", "staging", "test"),
)
"""Words after a name that do not change what it names: `password_hash`, `SECRET_KEY_BASE`, `API_KEY_PROD`."""
_MAX_NAME_WORDS: Final = 8
"""Of a name, from its end, that are compared with the list."""
_MAX_DEPTH: Final = 100
"""A store takes deeper nesting than Python's stack does; below this nothing is shown."""
_NAMES: Final = frozenset({"name", "key", "header", "field", "option", "variable", "var"})
_VALUES: Final = frozenset({"value", "values", "val", "content", "data", "text", "default"})
"""Keys of an object that is itself a name with its value, as `{"name": "Authorization", "value": …}`."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_LONG_ENDING: Final = re.compile(
    rf"(?:token|(?:{'|'.join(_LONG_NAMES).replace(' ', '')})s?)(?:{'|'.join(_QUALIFIERS)})?$"
)
_NAME: Final = re.compile(r"[\w.-]+")
_OPTION: Final = re.compile(r"--?[\w.-]+")
_LOGIN_OPTIONS: Final = frozenset({"-u", "--user", "--login", "--proxy-user"})
_ASSIGNING: Final = re.compile(r"""(?<![\w.-])(?P<name>[\w.-]{1,80})["']?\s{0,3}[=:]\s{0,3}["']?""")
"""A name and the sign behind it. The look-behind keeps it linear: a long word is looked at from its beginning only."""
_ASSIGNED: Final = re.compile(r"""(?:(?:bearer|basic|digest|token)\s+)?[^\s"'&,;]+""", re.IGNORECASE)
_IN_URL: Final = re.compile(r"(?<=://)[^/\s@?#\"']+@")
_SCHEME: Final = re.compile(r"^\s*(bearer|basic|digest|token)\s+\S+\s*$", re.IGNORECASE)
_SHAPES: Final = re.compile(
    r"(?<![\w-])(?:sk|pk|rk)[-_][\w-]{16,}"  # OpenAI, Anthropic, Stripe
    r"|(?<!\w)(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|xox[a-z]-|AIza|ya29\.)[\w.-]{16,}"
    r"|(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)"
    r"|(?<![\w-])(?>(?:[\w-]*?-)??eyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token, and a prefix tied to it
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
"""Each takes time in proportion to the text: none looks at the same run of characters from several beginnings in it."""


class Redactor:
    """Hides the values of listed names, and what is shaped like a secret."""

    def __init__(self, names: Collection[str] = (), shown: Collection[str] = ()) -> None:
        """Make it.

        Args:
            names: a host's own, in addition to `SECRET_NAMES`.
            shown: names that are not hidden although they end with a listed one, unless they are in `names`.

        Raises:
            InvalidValueError: one of them cannot match any name.
        """
        listed = _joined(names, "redact")
        plurals = (f"{name}s" for name in SECRET_NAMES if name != "token")  # tokens are also what models count
        self._secret = listed.union(*(_joined(builtin, "") for builtin in (SECRET_NAMES, [*plurals])))
        self._shown = (_joined(shown, "redact_except") | _joined(SHOWN_NAMES, "")) - listed

    def redact(self, value: Any) -> Any:
        """Return a JSON value without what may be a secret."""
        return self._redact(value, 0)

    def _redact(self, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return self._redact_object(value, depth)
        if isinstance(value, list):
            return list(self._redact_list(value, depth))
        return self._redact_text(value) if isinstance(value, str) else value

    def _redact_object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        shown = {name: self._redact(inner, depth + 1) for name, inner in value.items() if not self._is_secret(name)}
        if any(self._names_secret(name, inner) for name, inner in value.items()):
            return {name: HIDDEN if name.lower() in _VALUES else inner for name, inner in shown.items()}
        return shown

    def _names_secret(self, name: str, value: Any) -> bool:
        """Whether a member of an object says that the object's value is secret."""
        return name.lower() in _NAMES and isinstance(value, str) and self._is_secret(value)

    def _redact_list(self, value: list[Any], depth: int) -> Iterator[Any]:
        before: Any = None
        for inner in value:
            yield HIDDEN if self._is_before_secret(before, inner) else self._redact(inner, depth + 1)
            before = inner

    def _is_before_secret(self, before: Any, value: Any) -> bool:
        """Whether a value in a list belongs to the name before it: an option's, a header's, a variable's."""
        if not isinstance(before, str) or (isinstance(value, str) and _OPTION.fullmatch(value)):
            return False
        if before in _LOGIN_OPTIONS and ":" in str(value):
            return True
        return _NAME.fullmatch(before) is not None and self._is_secret(before)

    def _redact_text(self, text: str) -> str:
        hidden = "".join(self._without_assigned(_IN_URL.sub(f"{HIDDEN}@", text)))
        return _SHAPES.sub(HIDDEN, _SCHEME.sub(rf"\1 {HIDDEN}", hidden))

    def _without_assigned(self, text: str) -> Iterator[str]:
        """Yield a text in pieces, without the values of secret names in it."""
        done = at = 0
        while match := _ASSIGNING.search(text, at):
            at = match.end()
            value = _ASSIGNED.match(text, at) if self._is_secret(match["name"]) else None
            if value is not None:
                yield text[done:at] + HIDDEN
                done = at = value.end()
        yield text[done:]

    def _is_secret(self, name: str) -> bool:
        """Whether a name, or its last words, are listed, also before qualifiers; the longest listed ending decides."""
        words = _words(name[-_MAX_NAME_WORDS * 32 :])[-_MAX_NAME_WORDS:]
        while words:
            for start in range(len(words)):
                ending = "".join(words[start:])
                if ending in self._shown or ending in self._secret:
                    return ending not in self._shown
            if _LONG_ENDING.search(words[-1]) or (words[-1] == "key" and len(words) > 1):
                return True
            if words.pop() not in _QUALIFIERS:
                return False
        return False


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _joined(names: Collection[str], option: str) -> frozenset[str]:
    """Return names as they are compared. Raises `InvalidValueError`."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Collection):
        raise InvalidValueError(f"{option} must be a list of names, not {names!r:.80}")
    for name in names:
        if not isinstance(name, str) or not 0 < len(_words(name)) <= _MAX_NAME_WORDS:
            raise InvalidValueError(
                f"{option} must list names of 1 to {_MAX_NAME_WORDS} words with letters, not {name!r:.80}"
            )
    return frozenset("".join(_words(name)) for name in names)
