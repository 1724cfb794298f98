"""Whole numbers that JavaScript cannot hold, as text, in JSON that is passed on as it is stored. Pure.

`JSON.parse` makes a double of every number: of one beyond 2^53 - 1 it makes another one, without a word. So such a
number travels as the text of its digits, through every door. That there is none is the usual case, and is seen without
decoding anything; what is stored is not changed, nor is what a host reads in its own process.
"""

import re
from typing import Final

from commitcast.gateway.protocol.frames import MAX_NUMBER

_MOST: Final = str(MAX_NUMBER)
_AS_NINE: Final = bytes.maketrans(b"012345678", b"9" * 9)
_MANY_DIGITS: Final = b"9" * len(_MOST)
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL)
"""A string or a number of JSON (RFC 8259 sections 6 and 7); what is between is passed over."""


def within_reach(json: str) -> str:
    """Return a JSON document in which every whole number that JavaScript cannot hold is text."""
    if len(json) < len(_MOST) or _MANY_DIGITS not in json.encode("utf-8", "surrogatepass").translate(_AS_NINE):
        return json
    return _TOKEN.sub(_as_text, json)


def _as_text(match: re.Match[str]) -> str:
    token = match[0]
    digits = token.removeprefix("-")
    if not digits.isdecimal() or (len(digits), digits) <= (len(_MOST), _MOST):
        return token
    return f'"{token}"'
