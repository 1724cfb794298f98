"""What no response may do: run a script in a browser, show metrics to everybody, or grow without a limit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from commitcast.actors import AgentRuntime
from hostile import ADMIN, READ, UPGRADE, Passes, allowed, get, play, spoken

MIB: Final = 1024 * 1024


class TestScriptsInContent:
    SCRIPT: Final = "<script>alert(1)</script>"

    PATHS: Final = (
        *("/", "/web/app.js", "/web/client.js", "/web/style.css", "/healthz", "/readyz", "/asyncapi.json", "/metrics"),
        *("/v1/agents", "/v1/agents/a", "/v1/agents/a/messages", "/v1/agents?limit=x", f"/v1/agents?status={SCRIPT}"),
        *("/nothing", f"/{SCRIPT}", f"/v1/agents/{SCRIPT}", f"/v1/agents/{SCRIPT}/messages", f"/web/{SCRIPT}"),
    )

    def test_every_answer_says_what_it_is_and_what_may_run(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 1, text=self.SCRIPT)
            for path in self.PATHS:
                await self._check(runtime, path)

        play(tmp_path, scenario)

    async def _check(self, runtime: AgentRuntime, path: str) -> None:
        answer = await get(runtime, path)
        is_page = answer.headers["content-type"].startswith("text/html")
        assert is_page == (path == "/")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert "frame-ancestors 'none'" in policy

    @pytest.mark.parametrize(
        "headers", [(), UPGRADE[:2], (*UPGRADE[:3], ("Sec-WebSocket-Key", SCRIPT)), (("Connection", SCRIPT),)]
    )
    def test_a_handshake_that_fails_is_answered_as_carefully(
        self, tmp_path: Path, headers: Sequence[tuple[str, str]]
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await get(runtime, "/v1/ws", *headers)
            assert answer.status in (400, 426)
            assert self.SCRIPT.encode() not in answer.body
            assert answer.headers["x-content-type-options"] == "nosniff"

        play(tmp_path, scenario)


class TestExposedMetrics:
    @pytest.mark.parametrize(
        ("token", "status"), [(None, 401), ("wrong", 401), ("reader", 403), ("prefix", 403), ("admin", 200)]
    )
    def test_they_need_admin_over_everything_when_there_are_tokens(
        self, tmp_path: Path, token: str | None, status: int
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await get(runtime, "/metrics", token=token)
            assert answer.status == status
            assert (b"commitcast" in answer.body) == (status == 200)

        grants = {"reader": allowed("r", ("*", [READ])), "prefix": allowed("p", ("org1:*", [ADMIN]))}
        play(tmp_path, scenario, token=Passes(**grants, admin=allowed("a", ("*", [ADMIN]))))

    def test_a_server_on_loopback_without_tokens_shows_them(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            assert (await get(runtime, "/metrics")).status == 200

        play(tmp_path, scenario)


@pytest.mark.parametrize("prompt", ["x" * MIB, "\u6f22" * (MIB // 6)], ids=["ASCII", "CJK"])
def test_the_list_of_agents_is_bounded_in_bytes(tmp_path: Path, prompt: str) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        for number in range(8):
            await runtime.alaunch(id=f"a{number}", prompt=prompt)
        ids: list[str] = []
        after = 0
        while after is not None:
            page = await get(runtime, f"/v1/agents?limit=1000&after={after}")
            assert len(page.body) < MIB + len(prompt.encode()) + 64 * 1024
            ids += [agent["id"] for agent in page.json["agents"]]
            after = page.json["next"]
        assert ids == [f"a{number}" for number in range(8)]

    play(tmp_path, scenario)
