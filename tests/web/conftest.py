"""What client.js is tested with: Node, and a server that says anything."""

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

Fields = dict[str, Any]
CLIENT = Path(__file__).parents[2] / "gateway" / "web" / "client.js"
HARNESS = Path(__file__).parent / "harness.mjs"
SUBPROTOCOLS = [Subprotocol("commitcast.v1.json")]


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


class Scripted:
    """A server that answers each frame as a test wants, and remembers what it heard."""

    def __init__(self, answer: Callable[["Scripted", Fields], None], welcome: Fields) -> None:
        self._answer = answer
        self._welcome: Fields = {"type": "welcome", "protocol": "commitcast.v1.json", "server": "test", "session": "s"}
        self._welcome |= {"heartbeat_s": 15.0, "limits": {}} | welcome
        self._closing: tuple[int, str] | None = None
        self._saying: list[Fields] = []
        self.heard: list[Fields] = []
        self.connections = 0
        self.paths: list[str] = []

    def of(self, type: str) -> list[Fields]:
        """Return what it heard of a type."""
        return [frame for frame in self.heard if frame["type"] == type]

    def say(self, *frames: Fields) -> None:
        """Send frames."""
        self._saying += frames

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection after what was said."""
        self._closing = code, reason

    def accept(self, frame: Fields, *, head: int = 6, status: str = "running", **fields: Any) -> None:
        """Say `subscribed` to a subscribe."""
        reply = {"type": "subscribed", "id": frame["id"], "agent": frame["agent"], "epoch": "e", "first": 1}
        after = head if frame["after"] == "tail" else frame["after"]
        self.say(reply | {"after": after, "head": head, "status": status, "record": None} | fields)

    async def handle(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        self.connections += 1
        assert connection.request is not None
        self.paths.append(connection.request.path)
        await connection.send(json.dumps(self._welcome))
        async for data in connection:
            frame = json.loads(data)
            self.heard.append(frame)
            self._answer(self, frame)
            saying, self._saying = self._saying, []
            for said in saying:
                await connection.send(json.dumps(said))
            if self._closing is not None:
                closing, self._closing = self._closing, None
                await connection.close(*closing)
                return


class _Thread(threading.Thread):
    """A loop that serves until it is stopped."""

    def __init__(self, scripted: Scripted) -> None:
        super().__init__()
        self._scripted = scripted
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._is_listening = threading.Event()
        self.port = 0

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with serve(self._scripted.handle, "127.0.0.1", 0, compression=None, subprotocols=SUBPROTOCOLS) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._is_listening.set()
            await self._stopping.wait()

    def listen(self) -> str:
        """Start, and return the URL."""
        self.start()
        self._is_listening.wait()
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()


@contextmanager
def _serving(answer: Callable[[Scripted, Fields], None], **welcome: Any) -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted(answer, welcome)
    thread = _Thread(scripted)
    url = thread.listen()
    try:
        yield scripted, url
    finally:
        thread.stop()


@pytest.fixture
def serving() -> Callable[..., Any]:
    """Make a server out of a function that answers frames: a context manager of it and its URL."""
    return _serving
