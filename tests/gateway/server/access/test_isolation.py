"""A caller learns nothing of the agents that it may not read: neither by guessing ids nor from shared frames."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.server.access.auth import Operation
from hostile import (
    ADMIN,
    READ,
    Passes,
    allowed,
    get,
    opened,
    play,
    spoken,
)
from subscribers import raw


class TestGuessingOfIds:
    GRANT: Final = allowed("one", ("org1:*", tuple(Operation)))
    """Everything, on its own agents."""

    @pytest.mark.parametrize(
        ("type", "fields"),
        [
            ("subscribe", {}),
            ("subscribe", {"after": 99}),
            ("subscribe", {"after": "tail"}),
            ("subscribe", {"epoch": "guessed"}),
            ("send", {"content": "x"}),
            ("send", {"content": "x", "key": "k"}),
            ("terminate", {}),
            ("unsubscribe", {}),
        ],
        ids=str,
    )
    def test_an_agent_of_others_is_answered_for_like_one_that_is_not_there(
        self, tmp_path: Path, type: str, fields: dict[str, Any]
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            async with opened(runtime, ("Authorization", "Bearer one")) as enemy:
                there = await enemy.ask(type, agent="org2:here", **fields)
                nowhere = await enemy.ask(type, agent="org2:gone", **fields)
                assert json.dumps(there).replace("org2:here", "org2:gone") == json.dumps(nowhere)
                assert there["code"] == "not_found"
                await enemy.say("ack", agent={"org2:here": 3, "org2:gone": 3})
                assert (await enemy.ask("ping"))["type"] == "ok"
                assert (await runtime.agent("org2:here").arecord()).head == 5

        play(tmp_path, scenario, token=Passes(one=self.GRANT))

    @pytest.mark.parametrize("tail", ["", "/messages", "/messages?after=99", "/messages?limit=1&raw=1"])
    def test_nor_do_reads_over_http_tell(self, tmp_path: Path, tail: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            there = await get(runtime, f"/v1/agents/org2:here{tail}", token="one")
            nowhere = await get(runtime, f"/v1/agents/org2:gone{tail}", token="one")
            assert there.status == 404
            assert there.body.replace(b"org2:here", b"org2:gone") == nowhere.body
            assert there.headers | {"date": ""} == nowhere.headers | {"date": ""}

        play(tmp_path, scenario, token=Passes(one=self.GRANT))

    def test_lists_heartbeats_and_metrics_name_only_what_is_ones_own(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org2:here", 5, end=False)
            await spoken(runtime, "org1:mine", 2, end=False)
            async with (
                opened(runtime, ("Authorization", "Bearer one")) as client,
                raw(runtime.url, token="two") as other,
            ):
                await other.subscribe("org2:here")
                await client.ask("subscribe", agent="org1:mine")
                await client.ask("subscribe", agent="org2:here")
                assert (await client.until("heartbeat"))["heads"].keys() <= {"org1:mine"}
                listed = await get(runtime, "/v1/agents", token="one")
                assert [agent["id"] for agent in listed.json["agents"]] == ["org1:mine"]
                assert b"org2" not in (await get(runtime, "/metrics", token="two")).body

        grants = {"one": self.GRANT, "two": allowed("two", ("*", [READ, ADMIN]))}
        play(tmp_path, scenario, heartbeat_s=0.05, token=Passes(**grants))

    def test_a_page_of_the_list_does_not_count_the_agents_of_others(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "org1:mine", 1)
            before = await get(runtime, "/v1/agents?limit=2", token="one")
            await spoken(runtime, "org2:here", 1)
            after = await get(runtime, "/v1/agents?limit=2", token="one")
            assert after.body == before.body

        play(tmp_path, scenario, token=Passes(one=self.GRANT))


class TestSharedFrames:
    def test_two_callers_at_the_same_cursor_get_only_what_each_may_read(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            both = [await runtime.alaunch(id=id) for id in ("shared", "org1:a", "org2:a")]
            async with raw(runtime.url, token="one") as one, raw(runtime.url, token="two") as two:
                for caller, own, others in ((one, "org1:a", "org2:a"), (two, "org2:a", "org1:a")):
                    await caller.subscribe("shared")
                    await caller.subscribe(own)
                    assert (await caller.ask("subscribe", agent=others, id="?"))["code"] == "not_found"
                for agent in both:
                    await agent.aemit(f"of {agent.id}")
                for caller, own in ((one, "org1:a"), (two, "org2:a")):
                    heard = (await caller.follow("shared", 1)).contents + (await caller.follow(own, 1)).contents
                    assert heard == ["of shared", f"of {own}"]
                    await caller.still_works()
                    assert caller.followers.keys() == {"shared", own}

        grants = {
            name: allowed(name, ("shared", [READ]), (f"org{number}:*", [READ]))
            for number, name in ((1, "one"), (2, "two"))
        }
        play(tmp_path, scenario, token=Passes(**grants))

    def test_everything_needs_the_right_to_read_everything(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for token, code in (("prefix", "forbidden"), ("blind", "forbidden"), ("all", None)):
                async with raw(runtime.url, token=token) as caller:
                    assert (await caller.ask("subscribe", agent="*")).get("code") == code

        grants = {"prefix": allowed("p", ("org1:*", [READ])), "blind": allowed("b", ("*", [ADMIN]))}
        play(tmp_path, scenario, token=Passes(**grants, all=allowed("a", ("*", [READ]))))
