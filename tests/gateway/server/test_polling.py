"""Reads over HTTP that go on after a cursor: while nothing is lost, and after a backup was put back."""

import http.client
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from commitcast.actors import AgentRuntime
from commitcast.actors.commands.uvicorn_server import serving
from commitcast.gateway.server.access.auth import Grant
from hostile import READ, Passes, allowed

ALL: Final = "all"
SOME: Final = "some"
SECONDS: Final = 10.0


class Reader:
    """Asks one server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, token: str = ALL, **query: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            body = response.read()
            is_json = response.headers["Content-Type"].startswith("application/json")
            return response.status, json.loads(body) if is_json else body
        finally:
            connection.close()


def grants() -> dict[str, Grant]:
    return {ALL: allowed("all", ("*", [READ])), SOME: allowed("some", ("a*", [READ]))}


@pytest.fixture(params=["own port", "asgi"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def served(tmp_path: Path, door: str) -> Generator[tuple[AgentRuntime, Reader], None, None]:
    """Yield a runtime of the same file each time, and a reader of it."""
    while True:
        listen = "asgi" if door == "asgi" else "127.0.0.1:0"
        with AgentRuntime(tmp_path / "a.db", listen=listen, token=Passes(**grants())) as runtime:
            if door != "asgi":
                yield runtime, Reader(str(runtime.address))
                continue
            with serving(runtime, ("127.0.0.1", 0), None, None) as address:
                yield runtime, Reader(address)


def say(runtime: AgentRuntime, agent: str, count: int) -> None:
    handle = runtime.agent(agent)
    for last in [handle.emit(str(number)) for number in range(count)]:
        last.get(SECONDS)


def launch(runtime: AgentRuntime, *agents: str) -> None:
    for agent in agents:
        runtime.launch(id=agent).start().get(SECONDS)


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    return status, body["error"]["code"]


def test_a_cursor_of_messages_from_beyond_a_backup_is_refused(tmp_path: Path, door: str) -> None:
    runs = served(tmp_path, door)
    runtime, reader = next(runs)
    launch(runtime, "a")
    say(runtime, "a", 10)
    _, within = reader.get("/v1/agents/a/messages", after=0)
    runtime.backup(tmp_path / "backup.db")
    say(runtime, "a", 5)
    _, beyond = reader.get("/v1/agents/a/messages", after=0)
    assert reader.get("/v1/agents/a/messages", after=15, epoch=beyond["epoch"])[0] == 200
    runtime.stop()
    shutil.copy(tmp_path / "backup.db", tmp_path / "a.db")

    runtime, reader = next(runs)
    say(runtime, "a", 10)
    refused = reader.get("/v1/agents/a/messages", after=beyond["next"], epoch=beyond["epoch"])
    taken = reader.get("/v1/agents/a/messages", after=within["next"], epoch=within["epoch"])
    runs.close()

    assert (within["next"], beyond["next"]) == (10, 15)
    assert code_of(refused) == (409, "stale_epoch")
    assert (taken[0], taken[1]["items"][0]["sequence"], taken[1]["next"]) == (200, 11, 20)


@pytest.mark.parametrize("token", [ALL, SOME])
def test_so_is_a_cursor_of_agents(tmp_path: Path, door: str, token: str) -> None:
    runs = served(tmp_path, door)
    runtime, reader = next(runs)
    launch(runtime, "a1", "a2")
    _, within = reader.get("/v1/agents", token, limit=1)
    runtime.backup(tmp_path / "backup.db")
    launch(runtime, "a3", "a4")
    _, beyond = reader.get("/v1/agents", token, limit=3)
    assert reader.get("/v1/agents", token, after=beyond["next"], epoch=beyond["epoch"])[1]["agents"][0]["id"] == "a4"
    runtime.stop()
    shutil.copy(tmp_path / "backup.db", tmp_path / "a.db")

    runtime, reader = next(runs)
    launch(runtime, "a5", "a3", "a4")
    refused = reader.get("/v1/agents", token, after=beyond["next"], epoch=beyond["epoch"])
    taken = reader.get("/v1/agents", token, after=within["next"], epoch=within["epoch"])
    runs.close()

    assert code_of(refused) == (409, "stale_epoch")
    assert [agent["id"] for agent in taken[1]["agents"]] == ["a2", "a5", "a3", "a4"]


@pytest.mark.parametrize("path", ["/v1/agents/a/messages", "/v1/agents"])
def test_an_epoch_of_nothing_is_refused(tmp_path: Path, door: str, path: str) -> None:
    runs = served(tmp_path, door)
    runtime, reader = next(runs)
    launch(runtime, "a")

    refused = reader.get(path, epoch="ffff")
    runs.close()

    assert code_of(refused) == (409, "stale_epoch")


@pytest.mark.parametrize("path", ["/v1/agents/a/events", "/v1/events"])
def test_event_streams_take_the_epoch_too(tmp_path: Path, path: str) -> None:
    runs = served(tmp_path, "asgi")
    runtime, reader = next(runs)
    launch(runtime, "a")

    refused = reader.get(path, after=0, epoch="ffff")
    runs.close()

    assert code_of(refused) == (409, "stale_epoch")
