"""What an SQLite error in a transaction means."""

from pathlib import Path

import apsw
import pytest

from commitcast.persistence.errors import StoreUnavailableError
from commitcast.persistence.sqlite.commit_errors import explain
from commitcast.persistence.sqlite.opening import check_name


@pytest.mark.parametrize("name", ["a" * 247, "漢" * 82, "😀" * 61, "x.db"], ids=["ASCII", "CJK", "emoji", "short"])
def test_the_reason_why_a_journal_cannot_be_opened_is_not_the_length_of_a_name_that_can_be_used(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    check_name(path)

    there = explain(apsw.CantOpenError(), 0, path)
    gone = explain(apsw.CantOpenError(), 0, tmp_path / "gone" / name)

    assert isinstance(there, StoreUnavailableError)
    assert "its journal could not be opened" in str(there)
    assert "No such file or directory" in str(gone)
    assert list(tmp_path.iterdir()) == []
