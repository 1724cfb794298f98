"""Doors: what a client may launch by one of them runs in the runtime that offers it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentRuntime, Template
from subscribers import Fields, raw
from waiting import TIMEOUT_S

pytestmark = pytest.mark.parametrize("server", ["process"], indirect=True)


TOKEN = "a" * 32


def echo(context: AgentContext) -> Iterator[str]:
    yield f"you said {context.prompt}"


def answer_to_launch(url: str | None, template: str) -> Any:
    async def scenario() -> Fields:
        async with raw(url, token=TOKEN) as client:
            return await client.ask("launch", template=template, prompt="hello")

    reply = asyncio.run(scenario())
    return reply.get("code") or reply["agent"]


def test_a_template_runs_in_a_runtime_that_offers_it_else_it_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    with AgentRuntime(path, listen="127.0.0.1:0", token=TOKEN) as door:
        assert answer_to_launch(door.url, "echo") == "not_found"

        with AgentRuntime(path, templates={"echo": Template(echo)}) as other:
            agent = answer_to_launch(door.url, "echo")
            assert other.agent(agent).wait(TIMEOUT_S).status == "completed"
            assert [message.content for message in door.agent(agent).messages()][-1] == "you said hello"

        assert answer_to_launch(door.url, "echo") == "unavailable"
        assert answer_to_launch(door.url, "other") == "not_found"
