"""What the browser's half is tested with: Node for client.js, Chromium for the page, and a server that says anything."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
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
        self._welcome = {"type": "welcome", "protocol": "commitcast.v1.json", "server": "test", "session": "s"}
        self._welcome |= {"heartbeat_s": 15.0, "limits": {}} | welcome
        self.heard: list[Fields] = []
        self.connections = 0
        self.paths: list[str] = []
        self.connection: ServerConnection

    def of(self, type: str) -> list[Fields]:
        """Return what it heard of a type."""
        return [frame for frame in self.heard if frame["type"] == type]

    def say(self, *frames: Fields) -> None:
        """Send frames."""
        for frame in frames:
            self.connection.send(json.dumps(frame))

    def accept(self, frame: Fields, *, head: int = 6, status: str = "running", **fields: Any) -> None:
        """Say `subscribed` to a subscribe."""
        reply = {"type": "subscribed", "id": frame["id"], "agent": frame["agent"], "epoch": "e", "first": 1}
        after = head if frame["after"] == "tail" else frame["after"]
        self.say(reply | {"after": after, "head": head, "status": status, "record": None} | fields)

    def handle(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        self.connection = connection
        self.connections += 1
        assert connection.request is not None
        self.paths.append(connection.request.path)
        self.say(self._welcome)
        try:
            for data in connection:
                frame = json.loads(data)
                self.heard.append(frame)
                self._answer(self, frame)
        except ConnectionClosed:
            pass


@contextmanager
def _serving(answer: Callable[[Scripted, Fields], None], **welcome: Any) -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted(answer, welcome)
    with serve(scripted.handle, "127.0.0.1", 0, compression=None, subprotocols=SUBPROTOCOLS) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield scripted, f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/ws"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serving() -> Callable[..., Any]:
    """Make a server out of a function that answers frames: a context manager of it and its URL."""
    return _serving
