"""What a runtime loads: neither parsers nor the gateway's server, unless it is told to run commands or to listen."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Final

from commitcast.actors import AgentRuntime
from commitcast.gateway.server.options import HEARTBEAT_S

PROGRAM: Final = """
import sys
from commitcast import AgentRuntime

with AgentRuntime(sys.argv[1]) as runtime:
    agent = runtime.launch(lambda context: ["from a source"], id="a1")
    agent.emit("from the host").get(10)
    agent.wait(10)
print(*sys.modules)
"""
NOT_NEEDED: Final = (
    "commitcast.actors.commands",
    "commitcast.actors.control",
    "commitcast.actors.sources.command",
    "commitcast.actors.sources.output_reader",
    "commitcast.actors.sources.parsers",
    "commitcast.actors.sources.processes.pipes",
    "commitcast.actors.templates",
    "commitcast.gateway.client",
    "commitcast.gateway.hub",
    "commitcast.gateway.protocol.frames",
    "commitcast.gateway.server.access",
    "commitcast.gateway.server.http",
    "commitcast.gateway.server.server",
    "jwt",
    "starlette",
    "tomllib",
    "typer",
    "websockets",
)


def test_a_runtime_without_subscribers_and_commands_loads_neither_server_nor_parsers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "agents.db")]

    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert "commitcast.actors.runtime" in loaded
    assert [name for name in loaded if any(name == no or name.startswith(f"{no}.") for no in NOT_NEEDED)] == []


def test_the_default_of_the_heartbeat_is_the_servers() -> None:
    assert inspect.signature(AgentRuntime).parameters["heartbeat_s"].default == HEARTBEAT_S
