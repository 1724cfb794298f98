"""What a program used, over all turns of a run: tokens, times, money. Pure."""

from typing import Any


class Counter:
    """A number that a program reports as its total so far: of one session, so it falls when another one begins."""

    def __init__(self) -> None:
        self._before = 0.0
        self._latest = 0.0

    def at(self, total: float) -> float:
        """Take the latest total; return the one over all sessions."""
        if total < self._latest:
            self._before += self._latest
        self._latest = total
        return self._before + total


def add_up(total: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return what a program used in several turns, summed over all that are numbers; of anything else, the latest."""
    return {**total, **{name: _sum(total.get(name), value) for name, value in more.items()}}


def _sum(total: Any, value: Any) -> Any:
    if isinstance(value, dict) and isinstance(total, dict):
        return add_up(total, value)
    if is_number(value) and is_number(total):
        return total + value
    return value


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
