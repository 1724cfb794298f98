"""client.js in Node, played against by the conformance suite: the same cases that our Python clients pass."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cases import Case, Fields, load_cases
from client_runner import ClientFailed, run_client_case
from matching import Mismatch
from waiting import SLOWNESS

CLIENT: Final = Path(__file__).parents[2] / "gateway" / "web" / "client.js"
FOLLOWING: Final = Path(__file__).parent / "conformance.mjs"
TIMEOUT_S: Final = 5.0 * SLOWNESS
CANNOT: Final = {"http_status"}
"""What no browser tells a page."""


class Node:
    """client.js in a process of its own, for one subscription after another."""

    def __init__(self, client: Path) -> None:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
        flags = ["--experimental-websocket"] if int(version.lstrip("v").split(".")[0]) < 22 else []
        command = ["node", *flags, "--no-warnings", str(FOLLOWING), str(client)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, value: Any = True) -> Fields:
        """Have something done, and wait for the answer."""
        self.tell(what, value)
        return self.hear()

    def tell(self, what: str, value: Any = True) -> None:
        """Have something done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({what: value}) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Fields:
        """Wait for the next answer."""
        assert self.process.stdout is not None
        answer: Fields = json.loads(self.process.stdout.readline())
        return answer


class NodeFollower:
    """A subscription of client.js."""

    def __init__(self, node: Node, url: str, given: Fields) -> None:
        self._node = node
        self._taking: asyncio.Task[Fields] | None = None
        node.ask("follow", {"url": url, "given": given})

    async def take(self) -> Fields | None:
        """Return the next message."""
        self._taking = asyncio.create_task(asyncio.to_thread(self._node.ask, "take"))
        answer = await self._taking
        if "error" in answer:
            raise ClientFailed(answer["error"])
        item: Fields | None = answer.get("item")
        return item

    async def standing(self) -> Fields:
        """Return where it stands."""
        return await asyncio.to_thread(self._node.ask, "standing")

    async def close(self) -> None:
        """End it: the end answers a `take` that waits, and only then this is answered."""
        self._node.tell("close")
        if self._taking is not None:
            await asyncio.wait([self._taking])
        await asyncio.to_thread(self._node.hear)


class ClientJs:
    """Makes subscriptions of client.js."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def follow(self, url: str, given: Fields) -> NodeFollower:
        """Subscribe."""
        return NodeFollower(self._node, url, given)


@pytest.fixture(scope="session")  # tests come in random order: it would be started again and again
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if shutil.which("node") is None:
        pytest.skip("needs node: client.js is tested in it")
    copy = tmp_path_factory.mktemp("client") / "client.mjs"  # by its name Node knows it for a module
    shutil.copyfile(CLIENT, copy)
    node = Node(copy)
    yield node
    node.process.kill()
    node.process.communicate()


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    "case", [case for case in load_cases("client") if not CANNOT & set(case.needs)], ids=lambda case: case.name
)
def test_client_js_passes(case: Case, node: Node, request: pytest.FixtureRequest) -> None:
    if case.known_defect is not None:
        request.node.add_marker(pytest.mark.xfail(reason=case.known_defect, raises=Mismatch, strict=True))

    asyncio.run(run_client_case(case, ClientJs(node), timeout_s=TIMEOUT_S))
