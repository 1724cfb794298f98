"""The programs beside the product read their command line before they do anything."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROGRAMS = sorted(
    str(path.relative_to(TESTS))
    for folder in ("tools", "conformance", "benchmarks", "pykka_suite")
    for path in (TESTS / folder).glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text("utf-8").splitlines()
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_shown_and_nothing_else_is_done(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / program), "--help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["tools/protocol_documents.py", "conformance/our_server.py"])
def test_an_argument_that_is_not_known_is_refused(program: str) -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / program), "--chek"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "unrecognized arguments: --chek" in done.stderr
