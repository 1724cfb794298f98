"""Runs Pykka's own test suite against our pooled actor: `python tests/pykka_suite/run.py pykka-X.Y.Z.tar.gz`.

Every test must pass but those of `differences.toml`, and those must fail. The source distribution is not part of this
repository: `make pykka-suite` downloads it.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
THEIRS = "from pykka import ActorRegistry, ThreadingActor, ThreadingFuture"
OURS = "from pykka import ActorRegistry\nfrom adapter import SuiteActor as ThreadingActor, Future as ThreadingFuture"


def main(sdist: str) -> int:
    """Run the suite and compare; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        root = next(Path(folder).iterdir())
        conftest = root / "tests" / "conftest.py"
        text = conftest.read_text()
        if THEIRS not in text:
            print(f"{conftest} does not import what is replaced here: adapt {__file__}")
            return 1
        conftest.write_text(text.replace(THEIRS, OURS))
        (root / "adapter.py").write_text((HERE / "adapter.py").read_text())
        # Against the installed Pykka, and without the settings of either project.
        (root / "pyproject.toml").write_text("")
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=short", "-p", "no:commitcast", "--timeout", "30"]
        done = subprocess.run(
            [*command, "--rootdir", str(root), "-c", str(root / "pyproject.toml"), "tests"],
            cwd=root,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
    return _compare(done.stdout)


def _compare(output: str) -> int:
    found = _results(output)
    meant = {test for kind in tomllib.loads((HERE / "differences.toml").read_text()).values() for test in kind["tests"]}
    failed = {test for test, result in found.items() if result != "PASSED"}
    for test in sorted(failed - meant):
        print(f"FAILED, and is not meant to: {test}")
    for test in sorted(meant - failed):
        print(f"passes, and is listed as a difference: {test}")
    passed = len(found) - len(failed)
    print(f"Pykka's own suite: {passed} passed, {len(failed & meant)} differ as meant, {len(failed - meant)} failed")
    if failed != meant or passed < 100:
        print(output)
        return 1
    return 0


def _results(output: str) -> dict[str, str]:
    lines = re.findall(r"^(PASSED|FAILED|ERROR) tests/(\S+)", output, re.MULTILINE)
    return {test.replace("[threading]", ""): result for result, test in lines}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run Pykka's own tests against the actor library.")
    parser.add_argument("archive", help="Pykka's source distribution, .tar.gz")
    sys.exit(main(parser.parse_args().archive))
