"""Writes whole numbers that JavaScript cannot represent as strings, in JSON that is sent as it is stored. Pure.

`JSON.parse` reads every number as a double, and silently changes one beyond 2^53 - 1. So such a number is sent as the
string of its digits, over every kind of connection. Most documents have none, which is found without decoding them.
What is stored is not changed, nor is what a host reads in its own process.
"""

import re
from typing import Final

from commitcast.gateway.protocol.frames import MAX_NUMBER

_MOST: Final = str(MAX_NUMBER)
_AS_NINE: Final = bytes.maketrans(b"012345678", b"9" * 9)
_MANY_DIGITS: Final = b"9" * len(_MOST)
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL)
"""A string or a number of JSON (RFC 8259 sections 6 and 7); what is between is skipped."""


def within_reach(json: str) -> str:
    """Return a JSON document in which every whole number that JavaScript cannot represent is a string."""
    if len(json) < len(_MOST) or _MANY_DIGITS not in json.encode("utf-8", "surrogatepass").translate(_AS_NINE):
        return json
    return _TOKEN.sub(_as_text, json)


def _as_text(match: re.Match[str]) -> str:
    token = match[0]
    digits = token.removeprefix("-")
    if not digits.isdecimal() or (len(digits), digits) <= (len(_MOST), _MOST):
        return token
    return f'"{token}"'
