"""The journal modes that tests of files run in, and the forms in which runtimes serve them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.actors.form import IN_PROCESS, PROCESS
from commitcast.persistence.sqlite.journal import DELETE, WAL
from commitcast.persistence.sqlite.store import SqliteStore

DRAWN: Final = [pytest.mark.sampled(1 / 3)]
"""Of what runs in WAL mode: CI runs all of it, the ordinary suite one shape of every third test."""


def in_mode(mode: str, *values: object) -> Any:
    """The shape of a test in one journal mode, for `parametrize(("journal_mode", ...), indirect=["journal_mode"])`."""
    return pytest.param(mode, *values, marks=DRAWN if mode == WAL else [])


MODES: Final = (in_mode(DELETE), in_mode(WAL))
"""Of each test marked `both_modes`."""


FORMS: Final = (
    pytest.param(IN_PROCESS),
    pytest.param(PROCESS, marks=pytest.mark.sampled(1 / 4)),
)
"""Of each test marked `both_forms`: a server process takes a quarter of a second to start."""


@contextmanager
def used_mode(mode: str) -> Iterator[None]:
    """Let stores and runtimes of this process use a journal mode unless they are given one."""
    defaults = [kind.__init__.__kwdefaults__ for kind in (SqliteStore, AgentRuntime)]
    for default in defaults:
        assert default is not None and default["journal_mode"] == DELETE
        default["journal_mode"] = mode
    try:
        yield
    finally:
        for default in defaults:
            assert default is not None
            default["journal_mode"] = DELETE
