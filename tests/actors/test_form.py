"""Which form a runtime takes where a server process cannot be started."""

import sys
from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.remote.store import RemoteStore

pytestmark = pytest.mark.parametrize("server", ["process"], indirect=True)


@pytest.mark.parametrize("executable", ["/usr/bin/python3.13", "/opt/pypy/bin/pypy3", sys.executable])
def test_a_file_is_served_by_a_process_of_its_own(
    executable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)

    assert isinstance(AgentRuntime(tmp_path / "a.db").store, RemoteStore)


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/opt/app/app"])
def test_where_the_interpreter_is_part_of_another_program_it_is_not(
    executable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start `sys.executable` would start all of that program once more."""
    monkeypatch.setattr(sys, "executable", executable)

    assert not isinstance(AgentRuntime(tmp_path / "a.db").store, RemoteStore)
    with pytest.raises(InvalidValueError, match="server='process' needs"):
        AgentRuntime(tmp_path / "a.db", server="process")


def test_where_the_program_is_frozen_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)

    assert not isinstance(AgentRuntime(tmp_path / "a.db").store, RemoteStore)
