"""Paths that are kept, and a current folder that is gone."""

from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence.errors import StorePathError
from commitcast.persistence.paths import absolute
from commitcast.persistence.sqlite.verify import verify


@pytest.fixture
def in_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


def test_it_goes_on_meaning_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a.db") == tmp_path / "a.db"


@pytest.mark.both_forms
def test_a_relative_one_means_nothing_without_a_folder(in_no_folder: None, tmp_path: Path) -> None:
    with pytest.raises(StorePathError, match=r"cannot open a\.db: the current folder of this process was deleted"):
        AgentRuntime("a.db")
    with AgentRuntime(tmp_path / "a.db") as runtime:
        runtime.launch(id="a")
        with pytest.raises(StorePathError, match="give an absolute path"):
            runtime.store.backup("copy.db")
    with pytest.raises(StorePathError, match="give an absolute path"):
        verify("a.db")
