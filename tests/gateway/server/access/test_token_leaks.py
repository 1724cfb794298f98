"""No token gets into a log, a response, an error or a `repr`."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.auth import StaticTokens
from commitcast.gateway.server.http.request import HttpRequest
from hostile import (
    CLOSE,
    TEXT,
    UPGRADE,
    get,
    masked,
    opened,
    play,
    request,
    server_of,
    upgraded,
    wire,
)

SECRET: Final = "S3cr3t-Tok3n"


class TestTokenInTheOpen:
    @pytest.mark.parametrize("name", ["token", "access_token", "jwt", "authorization", "bearer", "TOKEN", "%74oken"])
    def test_a_token_in_the_query_is_refused_even_if_it_is_right(self, tmp_path: Path, name: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for answer in (
                await upgraded(runtime, path=f"/v1/ws?x=1&{name}={SECRET}"),
                await get(runtime, f"/v1/agents?{name}={SECRET}", token=SECRET),
            ):
                assert answer.status == 400
                assert SECRET not in str(answer)

        play(tmp_path, scenario, token=SECRET)

    def test_no_token_gets_into_any_log_or_answer(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        wrong = SECRET + "-wrong"

        async def scenario(runtime: AgentRuntime) -> None:
            said: list[Any] = []
            for token in (SECRET, wrong):
                said.append(await get(runtime, "/v1/agents", token=token))
                said.append(await get(runtime, f"/v1/ws?token={token}"))
                for header in (("Authorization", f"Bearer {token}"), ("Sec-WebSocket-Protocol", _offer(token))):
                    said.append(await _all_that_is_said(runtime, header))
                said.append(await _all_that_is_said(runtime, hello=token))
            async with wire(runtime) as enemy:
                await enemy.send(request(runtime, "/v1/ws", [("Authorization", f"Bearer \x00{SECRET}")]))
                said.append(await enemy.is_dropped())
            assert SECRET not in str(said)

        with caplog.at_level(logging.DEBUG):
            for name in ("asyncio", "commitcast", "commitcast.gateway", "commitcast.gateway.websockets", "websockets"):
                caplog.set_level(logging.DEBUG, logger=name)
            play(tmp_path, scenario, token=SECRET)
        assert caplog.records, "nothing was logged, so nothing was looked at"
        assert not [record for record in caplog.records if SECRET in record.getMessage() + repr(record.__dict__)]

    @pytest.mark.parametrize("token", [f"{SECRET}/+=", f'{SECRET}"', f"{SECRET}{{"])
    def test_a_token_that_is_no_subprotocol_is_not_repeated(self, tmp_path: Path, token: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await upgraded(runtime, ("Sec-WebSocket-Protocol", _offer(token)))
            assert answer.status == 400
            assert SECRET not in str(answer)

        play(tmp_path, scenario, token=SECRET)

    def test_no_object_shows_its_token(self, tmp_path: Path) -> None:
        tokens = StaticTokens.single(SECRET)
        shown = [tokens, tokens.__dict__, tokens.verify(SECRET), frames.Hello(token=SECRET)]
        shown += [HttpRequest(path="/", token=SECRET)]

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", f"Bearer {SECRET}")):
                (peer,) = server_of(runtime).core._sessions
                shown.extend([peer, server_of(runtime), runtime, *asyncio.all_tasks()])
                assert SECRET not in " ".join(map(repr, shown))

        play(tmp_path, scenario, token=SECRET)


def _offer(token: str) -> str:
    return f"commitcast.v1.json, commitcast.bearer.{token}"


async def _all_that_is_said(runtime: AgentRuntime, *headers: tuple[str, str], hello: str | None = None) -> bytes:
    """Return every byte of a conversation, which ends with the token refused or with a bad request."""
    async with wire(runtime) as enemy:
        await enemy.send(request(runtime, "/v1/ws", (*UPGRADE, *headers)))
        if hello is not None:
            await enemy.send(masked(TEXT, json.dumps({"type": "hello", "id": 1, "token": hello, "client": 1})))
            await enemy.send(masked(TEXT, json.dumps({"type": "hello", "id": 2, "token": hello})))
        await enemy.send(masked(TEXT, json.dumps({"type": "send", "agent": "nobody", "content": "x"})))
        await enemy.send(masked(CLOSE, b"\x03\xe8"))
        return await enemy.is_dropped()
