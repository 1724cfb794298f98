"""What client.js is tested with: Node."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CLIENT = Path(__file__).parents[2] / "gateway" / "web" / "client.js"
HARNESS = Path(__file__).parent / "harness.mjs"


class Node:
    """A script that runs in Node with client.js; its lines come as they are said."""

    def __init__(self, client: Path, script: str, url: str) -> None:
        flags = ["--experimental-websocket"] if _node_version() < 22 else []
        self._process = subprocess.Popen(
            ["node", *flags, "--no-warnings", str(HARNESS), str(client), url, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __iter__(self) -> Iterator[Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def next(self) -> Any:
        """Return the next thing said."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def tell(self, line: str = "") -> None:
        """Let the script's `heard()` return."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


@cache
def _node_version() -> int:
    return int(subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.lstrip("v").split(".")[0])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[[str, str], Node]]:
    """Start a script against a URL."""
    if shutil.which("node") is None:
        pytest.skip("needs node: client.js is tested in it")
    copy = tmp_path / "client.mjs"  # by its name Node knows it for a module
    shutil.copyfile(CLIENT, copy)
    started: list[Node] = []

    def start(script: str, url: str | None) -> Node:
        started.append(Node(copy, script, str(url)))
        return started[-1]

    yield start
    for each in started:
        each.close()
