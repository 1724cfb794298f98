"""A server that says what a test wants, on plain threads, and the frames that it mostly says."""

import json
import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

import websockets.sync.server
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from waiting import TIMEOUT_S

Fields = dict[str, Any]
LOGGER: Final = "scripted"
"""Of the server, which shows the headers that it receives."""

# The library never closes its selector. This kind holds no file; to collect all garbage for that of another kind takes
# longer than most tests.
NO_FILE: Final = SimpleNamespace(DefaultSelector=selectors.PollSelector, EVENT_READ=selectors.EVENT_READ)
websockets.sync.server.selectors = NO_FILE  # type: ignore[attr-defined, assignment]


def messages(prev: int, last: int, agent: str = "a1") -> Fields:
    """A frame with the messages behind `prev`, up to `last`."""
    fields = {"type": "assistant", "role": None, "content_type": "text", "metadata": None, "created_at": "x"}
    items = [{"sequence": n, "content": str(n)} | fields for n in range(prev + 1, last + 1)]
    return {"type": "messages", "agent": agent, "prev": prev, "last": last, "items": items}


def end(sequence: int) -> Fields:
    """The frame of an agent's end."""
    change = {"type": "status", "agent": "a1", "status": "completed", "previous": "running", "at": "x"}
    return change | {"sequence": sequence}


class ScriptedServer:
    """Answers each frame as a test wants, and keeps what it heard."""

    def __init__(self, answer: "Answer", accepted: set[str] | None, welcome: Fields) -> None:
        self.url = ""
        self.heard: list[Fields] = []
        self.tokens: list[str | None] = []
        self.paths: list[str] = []
        self._answer = answer
        self._accepted = accepted
        self._welcome: Fields = {"type": "welcome", "protocol": "commitcast.v1.json", "server": "test", "session": "s"}
        self._welcome |= {"heartbeat_s": 15.0, "limits": {}} | welcome
        self._here = threading.local()

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.paths)

    @property
    def asked(self) -> list[Any]:
        """The cursors that were subscribed after."""
        return [frame["after"] for frame in self.of("subscribe")]

    def of(self, type: str) -> list[Fields]:
        """Return what it heard of a type."""
        return [frame for frame in self.heard if frame["type"] == type]

    def accept(self, frame: Fields, *, head: int = 6, status: str = "running", **fields: Any) -> None:
        """Say `subscribed` to a subscribe."""
        reply = {"type": "subscribed", "id": frame["id"], "agent": frame["agent"], "epoch": "e", "first": 1}
        after = head if frame["after"] == "tail" else frame["after"]
        self.say(reply | {"after": after, "head": head, "status": status, "record": None} | fields)

    def say(self, *frames: Fields) -> None:
        """Send frames on the connection that is answered."""
        for frame in frames:
            self._connection.send(json.dumps(frame))

    def hear(self) -> Fields:
        """Wait for the next frame on the connection that is answered."""
        self.heard.append(json.loads(self._connection.recv(TIMEOUT_S)))
        return self.heard[-1]

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection that is answered."""
        self._connection.close(code, reason)

    @property
    def _connection(self) -> ServerConnection:
        connection: ServerConnection = self._here.connection
        return connection

    def check(self, connection: ServerConnection, request: Request) -> Response | None:
        """Look at the token of a connection."""
        token = request.headers.get("Authorization")
        self.tokens.append(token)
        is_accepted = self._accepted is None or (token or "").removeprefix("Bearer ") in self._accepted
        return None if is_accepted else connection.respond(HTTPStatus.UNAUTHORIZED, "no")

    def handle(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        self._here.connection = connection
        assert connection.request is not None
        self.paths.append(connection.request.path)
        with suppress(ConnectionClosed):
            self.say(self._welcome)
            for data in connection:
                self.heard.append(json.loads(data))
                self._answer(self, self.heard[-1])


Answer = Callable[[ScriptedServer, Fields], None]


@contextmanager
def answering(answer: Answer, *, accepted: set[str] | None = None, **welcome: Any) -> Iterator[ScriptedServer]:
    """A server that answers each frame; of tokens it takes those that are `accepted`, or all."""
    server = ScriptedServer(answer, accepted, welcome)
    subprotocols = [Subprotocol("commitcast.v1.json")]
    with blocking_server(server.handle, process_request=server.check, subprotocols=subprotocols) as server.url:
        yield server


def speaking(speak: Answer, **options: Any) -> AbstractContextManager[ScriptedServer]:
    """A server that accepts each subscription, and then speaks."""

    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            speak(server, frame)

    return answering(answer, **options)


def say_everything(server: ScriptedServer, frame: Fields) -> None:
    """Six messages and the end."""
    if frame["after"] < 6:
        server.say(messages(frame["after"], 6))
    server.say(end(6))


@contextmanager
def blocking_server(handle: Callable[[ServerConnection], None], **options: Any) -> Iterator[str]:
    """Serve on a free port, by the library's own server, and leave nothing open; yields the URL."""
    try:
        with serve(handle, "127.0.0.1", 0, logger=logging.getLogger(LOGGER), **options) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/ws"
            finally:
                server.shutdown()
                thread.join()
    finally:
        _close_pipe(server)


def _close_pipe(server: Server) -> None:
    """Close what wakes the server's thread: before 17 the library opens a pipe for it, and never closes that."""
    for end in (server.shutdown_watcher, server.shutdown_notifier):
        if isinstance(end, int):
            os.close(end)
