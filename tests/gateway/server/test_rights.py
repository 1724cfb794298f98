"""Who may do what: every operation for every kind of caller, keys that never meet, templates that stay the owner's."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest

from commitcast.actors import AgentRuntime, CommandSource, Template
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.templates import load_templates
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol import frames
from commitcast.gateway.server.access.auth import Grant, Permission
from commitcast.gateway.server.errors import TokenError
from commitcast.gateway.server.metrics import Traffic
from commitcast.gateway.server.reader import StoreReader
from commitcast.gateway.server.requests import AgentControl, Requests, refusal_of
from commitcast.persistence.errors import CommitcastError, InvalidValueError
from commitcast.persistence.records import MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from hostile import LAUNCH, READ, SEND, TERMINATE, Passes, allowed, get, opened, play, spoken
from subscribers import Fields, raw

pytestmark = pytest.mark.sampled(25, of_file=True)

MIB: Final = 1024 * 1024
EVERYTHING: Final = tuple(Permission)
CALLERS: Final = {
    "master": allowed("master", ("org1:*", EVERYTHING)),
    "reader": allowed("reader", ("org1:*", [READ])),
    "sender": allowed("sender", ("org1:*", [SEND])),
    "single": allowed("single", ("org1:a", EVERYTHING)),
    "nobody": allowed("nobody"),
}
REQUESTS: Final[dict[str, Fields]] = {"subscribe": {}, "send": {"content": "x"}, "terminate": {}}
HERE, ABSENT, FOREIGN = "org1:a", "org1:none", "org2:a"
YES, NO, NOT_THERE = None, "forbidden", "not_found"


def quick(context: AgentContext) -> Iterator[str]:
    """A source that ends at once."""
    yield f"was asked {context.prompt!r}"


class Clock:
    """Time as sessions and the check of tokens see it, which goes on when the test says so."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        """Seconds since 1970."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("session", "access.authentication"):
        monkeypatch.setattr(f"commitcast.gateway.server.{module}.time", clock)
    return clock


class TestOperations:
    @pytest.mark.parametrize(
        ("caller", "request_", "codes"),
        [
            ("master", "subscribe", (YES, NOT_THERE, NOT_THERE)),
            ("master", "send", (YES, NOT_THERE, NOT_THERE)),
            ("master", "terminate", (YES, NOT_THERE, NOT_THERE)),
            ("reader", "subscribe", (YES, NOT_THERE, NOT_THERE)),
            ("reader", "send", (NO, NO, NOT_THERE)),
            ("reader", "terminate", (NO, NO, NOT_THERE)),
            ("sender", "subscribe", (NOT_THERE, NOT_THERE, NOT_THERE)),
            ("sender", "send", (YES, NOT_THERE, NOT_THERE)),
            ("sender", "terminate", (NOT_THERE, NOT_THERE, NOT_THERE)),
            ("single", "subscribe", (YES, NOT_THERE, NOT_THERE)),
            ("single", "send", (YES, NOT_THERE, NOT_THERE)),
        ],
    )
    def test_each_caller_may_do_what_it_was_granted(
        self, tmp_path: Path, caller: str, request_: str, codes: tuple[str | None, ...]
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for agent in (HERE, FOREIGN):
                await spoken(runtime, agent, 1, end=False)
            async with opened(runtime, ("Authorization", f"Bearer {caller}")) as client:
                asked = [
                    await client.ask(request_, agent=each, **REQUESTS[request_]) for each in (HERE, ABSENT, FOREIGN)
                ]
            assert tuple(reply.get("code") for reply in asked) == codes
            done = {HERE: codes[0] is None and request_ != "subscribe", FOREIGN: False}
            for agent, was_changed in done.items():
                record = await runtime.agent(agent).arecord()
                assert (record.head > 1 or record.status.is_terminal) == was_changed

        play(tmp_path, scenario, token=Passes(**CALLERS))

    @pytest.mark.parametrize(
        ("caller", "prefix"), [("master", "org1:"), ("reader", None), ("single", None), ("sender", None)]
    )
    def test_who_may_launch_gets_agents_of_its_own_prefix(
        self, tmp_path: Path, caller: str, prefix: str | None
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", f"Bearer {caller}")) as client:
                reply = await client.ask("launch", template="quick", agent="org2:mine", id="l")
            if prefix is None:
                assert reply["code"] == "forbidden"
                assert not runtime.agents()
            else:
                assert reply["agent"].startswith(f"{prefix}quick-")

        play(tmp_path, scenario, token=Passes(**CALLERS), templates={"quick": Template(quick)})

    @pytest.mark.parametrize("caller", ["reader", "sender"])
    def test_reads_over_http_keep_to_the_same_rights(self, tmp_path: Path, caller: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for agent in (HERE, FOREIGN):
                await spoken(runtime, agent, 1)
            may = caller == "reader"
            for tail in ("", "/messages"):
                for agent, status in ((HERE, 200 if may else 404), (ABSENT, 404), (FOREIGN, 404)):
                    assert (await get(runtime, f"/v1/agents/{agent}{tail}", token=caller)).status == status
            listed = (await get(runtime, "/v1/agents", token=caller)).json["agents"]
            assert [agent["id"] for agent in listed] == ([HERE] if may else [])

        play(tmp_path, scenario, token=Passes(**CALLERS))

    def test_a_token_that_allows_nothing_is_sent_away_through_every_door(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for path in ("/v1/agents", f"/v1/agents/{HERE}", "/metrics"):
                answer = await get(runtime, path, token="nobody")
                assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
            async with opened(runtime, ("Authorization", "Bearer nobody")) as client:
                goodbye, code = await client.farewell()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4503, 4503)

        play(tmp_path, scenario, token=Passes(**CALLERS))

    def test_without_a_token_where_one_is_needed_nothing_is_done(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, HERE, 1, end=False)
            async with opened(runtime) as enemy:
                for request, fields in {**REQUESTS, "unsubscribe": {}, "ack": {}, "ping": {}}.items():
                    agent = {} if request in ("ack", "ping") else {"agent": HERE}
                    assert (await enemy.ask(request, **agent, **fields))["code"] == "unauthenticated"
                assert (await enemy.ask("launch", template="quick"))["code"] == "unauthenticated"
            for path in ("/v1/agents", f"/v1/agents/{HERE}", f"/v1/agents/{HERE}/messages", "/nothing"):
                assert (await get(runtime, path)).status == 401
            assert (await runtime.agent(HERE).arecord()).head == 1

        play(tmp_path, scenario, token=Passes(**CALLERS), templates={"quick": Template(quick)})


def test_a_refusal_in_another_script_is_cut_to_what_a_close_frame_can_carry(tmp_path: Path) -> None:
    class Refusing:
        def verify(self, token: str) -> Grant:
            raise TokenError("拒" * 100)

    async def scenario(runtime: AgentRuntime) -> None:
        async with opened(runtime, ("Authorization", "Bearer any")) as client:
            goodbye, code = await client.farewell()
            assert (goodbye["reason"], code) == ("拒" * 100, 4501)

    play(tmp_path, scenario, token=Refusing())


class TestWhichTokenCounts:
    """Of several, as the protocol's page says."""

    OFFER: Final = "Sec-WebSocket-Protocol"

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ([("Authorization", "Bearer reader"), (OFFER, "commitcast.v1.json, commitcast.bearer.bad")], 101),
            ([("Authorization", "Bearer bad"), (OFFER, "commitcast.v1.json, commitcast.bearer.reader")], 4501),
            ([(OFFER, "commitcast.bearer.reader, commitcast.v1.json, commitcast.bearer.bad")], 101),
            ([(OFFER, "commitcast.v1.json, commitcast.bearer.bad, commitcast.bearer.reader")], 4501),
            ([(OFFER, "something.else"), ("Authorization", "Bearer reader")], 101),
        ],
    )
    def test_the_header_then_the_first_that_is_offered_and_no_other(
        self, tmp_path: Path, headers: list[tuple[str, str]], code: int
    ) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, *headers) as client:
                if code == 101:
                    assert (await client.ask("ping"))["type"] == "ok"
                    assert (await client.ask("hello"))["type"] == "ok", "it changes nothing"
                    assert (await client.ask("subscribe", agent="org1:none"))["code"] == "not_found"
                else:
                    assert (await client.farewell())[1] == code

        play(tmp_path, scenario, token=Passes(**CALLERS))


class TestRightsThatEnd:
    def test_a_hello_with_fewer_rights_ends_what_it_does_not_allow(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agents = [await runtime.alaunch(id=id) for id in ("org1:a", "org1:b")]
            async with raw(runtime.url, token="master") as client:
                for agent in agents:
                    await client.subscribe(agent.id)
                    await client.until("live", agent=agent.id)
                await client.send("hello", id="less", token="single")
                lost = await client.until("error")
                assert (lost["agent"], lost["code"], lost.get("id")) == ("org1:b", "not_found", None)
                await client.until("ok", id="less")
                await agents[1].aemit("not for them")
                await agents[0].aemit("for them")
                assert (await client.follow("org1:a", 1)).contents == ["for them"]
                await client.still_works()
                assert not client.followers["org1:b"].items
                assert (await client.ask("subscribe", agent="org1:b", id="again"))["code"] == "not_found"

        play(tmp_path, scenario, token=Passes(**CALLERS))

    def test_a_hello_without_the_right_to_everything_ends_the_log_of_all(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url, token="all") as client:
                await client.subscribe("*")
                await client.until("live")
                await client.send("hello", id="less", token="reader")
                assert (await client.until("error"))["code"] == "forbidden"
                await client.until("ok", id="less")
                await spoken(runtime, "org1:a", 1)
                await client.still_works()
                assert not client.followers["*"].events

        play(tmp_path, scenario, token=Passes(**CALLERS, all=allowed("all", ("*", [READ]))))

    def test_a_bad_new_token_leaves_the_old_one(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="org1:a")
            async with raw(runtime.url, token="reader") as client:
                await client.subscribe("org1:a")
                assert (await client.ask("hello", token="wrong"))["code"] == "unauthenticated"
                await agent.aemit("still heard")
                assert (await client.follow("org1:a", 1)).contents == ["still heard"]

        play(tmp_path, scenario, token=Passes(**CALLERS))

    def test_an_expired_token_is_refused_on_every_frame(self, tmp_path: Path, clock: Clock) -> None:
        grants = {
            "short": allowed("short", ("*", EVERYTHING), expires_at=clock.now + 100),
            "fresh": allowed("short", ("*", EVERYTHING), expires_at=clock.now + 1_000),
        }

        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, HERE, 1, end=False)
            async with opened(runtime, ("Authorization", "Bearer short")) as client:
                assert (await client.ask("ping"))["type"] == "ok"
                clock.now += 500
                for request, fields in {**REQUESTS, "unsubscribe": {}}.items():
                    refusal = await client.ask(request, agent=HERE, **fields)
                    assert (refusal["code"], refusal["retry"]) == ("token_expired", True)
                for request in ("ping", "ack"):
                    assert (await client.ask(request))["code"] == "token_expired"
                assert (await client.ask("launch", template="quick"))["code"] == "token_expired"
                assert (await client.ask("hello", token="fresh"))["type"] == "ok"
                assert (await client.ask("subscribe", agent=HERE))["type"] == "subscribed"

        play(tmp_path, scenario, token=Passes(**grants), templates={"quick": Template(quick)})

    def test_at_expiry_goodbye_comes_and_no_message_after_it(self, tmp_path: Path) -> None:
        tokens = Passes()

        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            expires_at = time.time() + 0.3
            tokens.grants["short"] = allowed("short", ("*", [READ]), expires_at=expires_at)
            async with opened(runtime, ("Authorization", "Bearer short")) as client:
                await client.ask("subscribe", agent="a")
                farewell = asyncio.create_task(client.farewell())
                while not farewell.done():
                    await agent.aemit("x")
                last, code = farewell.result()
                assert (last["type"], last["code"], code) == ("goodbye", 4001, 4001)
                assert time.time() >= expires_at

        play(tmp_path, scenario, token=tokens)

    def test_a_clock_that_is_set_back_does_not_make_a_token_eternal(self, tmp_path: Path, clock: Clock) -> None:
        grant = allowed("short", ("*", [READ]), expires_at=clock.now + 0.1)

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer short")) as client:
                assert (await client.ask("ping"))["type"] == "ok"
                clock.now -= 0.1
                farewell = asyncio.create_task(client.farewell())
                await asyncio.wait([farewell], timeout=0.15)  # the timer has fired, and the clock says that it is early
                assert not farewell.done()
                clock.now += 1
                assert (await farewell)[1] == 4001

        play(tmp_path, scenario, token=Passes(short=grant))

    def test_a_token_that_has_expired_before_it_comes_is_told_so(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime, ("Authorization", "Bearer old")) as client:
                assert (await client.farewell())[1] == 4001
            assert (await get(runtime, "/v1/agents", token="old")).status == 401

        play(tmp_path, scenario, token=Passes(old=allowed("old", ("*", [READ]), expires_at=time.time() - 1)))

    def test_a_verifier_that_fails_lets_nobody_in_and_says_goodbye(self, tmp_path: Path) -> None:
        class Broken:
            def verify(self, token: str) -> Grant:
                raise {"os": ConnectionError("the key server is down"), "other": RuntimeError("a defect")}[token]

        async def scenario(runtime: AgentRuntime) -> None:
            for token in ("os", "other"):
                answer = await get(runtime, "/v1/agents", token=token)
                assert (answer.status, answer.json["error"]["code"]) == (503, "unavailable")
                async with opened(runtime, ("Authorization", f"Bearer {token}")) as client:
                    goodbye, code = await client.farewell()
                    assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4005, 4005)

        play(tmp_path, scenario, token=Broken())


class TestKeys:
    GRANTS: Final = {name: allowed(name, ("*", EVERYTHING)) for name in ("one", "two")}

    def test_two_callers_with_the_same_key_do_not_meet(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            sent, launched = [], []
            for caller in ("one", "two"):
                async with opened(runtime, ("Authorization", f"Bearer {caller}")) as client:
                    sent.append((await client.ask("send", agent="a", content=f"of {caller}", key="k"))["sequence"])
                    launched.append((await client.ask("launch", template="quick", prompt=caller, key="k"))["agent"])
            assert sent == [1, 2]
            assert len(set(launched)) == 2

        play(tmp_path, scenario, token=Passes(**self.GRANTS), templates={"quick": Template(quick)})

    def test_a_callers_key_is_not_the_hosts(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            mine = await runtime.alaunch(id="a", idempotency_key="k")
            await mine.aemit("mine", key="k")
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                assert (await client.ask("send", agent="a", content="theirs", key="k"))["sequence"] == 2
                assert (await client.ask("launch", template="quick", key="k"))["agent"] != "a"

        play(tmp_path, scenario, token=Passes(**self.GRANTS), templates={"quick": Template(quick)})

    def test_repeated_at_once_and_after_a_restart_it_is_done_once(self, tmp_path: Path) -> None:
        replies: list[Fields] = []
        requests: list[tuple[str, Fields]] = [
            ("send", {"agent": "a", "content": "x"}),
            ("launch", {"template": "quick", "prompt": "x"}),
        ]

        async def repeat(runtime: AgentRuntime, request: str, fields: Fields) -> None:
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                replies.append(await client.ask(request, key="once", **fields))

        async def before(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            await asyncio.gather(*(repeat(runtime, *each) for each in requests * 4))
            assert (await runtime.agent("a").arecord()).head == 1
            assert len(runtime.agents()) == 2

        async def after(runtime: AgentRuntime) -> None:
            await asyncio.gather(*(repeat(runtime, *requests[1]) for _ in range(4)))
            assert len(runtime.agents()) == 2

        options: Any = {"token": Passes(**self.GRANTS), "templates": {"quick": Template(quick)}}
        play(tmp_path, before, **options)
        play(tmp_path, after, **options)
        assert {(reply["type"], reply.get("sequence")) for reply in replies} == {("ok", 1), ("ok", None)}
        assert len({reply["agent"] for reply in replies}) == 2

    def test_what_was_sent_is_told_again_when_the_agent_has_ended(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            agent.start()
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                first = await client.ask("send", agent="a", content="x", key="k")
                await agent.complete()
                assert await client.ask("send", agent="a", content="x", key="k") == first
                late = await client.ask("send", agent="a", content="new", key="l")
                assert (late["code"], late["retry"]) == ("conflict", False)

        play(tmp_path, scenario, token=Passes(**self.GRANTS))

    def test_the_same_key_for_something_else_is_a_bad_request(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                await client.ask("send", agent="a", content="this", key="k")
                assert (await client.ask("send", agent="a", content="that", key="k")).get("code") == "bad_request"
                await client.ask("launch", template="quick", prompt="this", key="k")
                other = await client.ask("launch", template="quick", prompt="that", key="k")
                assert other.get("code") == "bad_request"
                other = await client.ask("launch", template="quicker", prompt="this", key="k")
                assert (other.get("code"), other.get("agent")) == ("bad_request", None)
                assert "client:" not in json.dumps(other), "the key as it is stored is nobody's business"

        templates = {"quick": Template(quick), "quicker": Template(quick)}
        play(tmp_path, scenario, token=Passes(**self.GRANTS), templates=templates)


class TestWhatTheHostRefuses:
    GRANTS: Final = TestKeys.GRANTS

    def test_a_program_that_takes_no_input_is_a_conflict_and_no_fault_of_the_request(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                agent = (await client.ask("launch", template="waits", prompt="this"))["agent"]
                refused = await client.ask("send", agent=agent, content="x")
                assert (refused["code"], refused["agent"], refused["retry"]) == ("conflict", agent, False)
                await client.ask("terminate", agent=agent)

        templates = {"waits": Template(CommandSource(["sleep", "60"], type="text"))}
        play(tmp_path, scenario, token=Passes(**self.GRANTS), templates=templates)

    @pytest.mark.parametrize("retryable", [True, False])
    def test_what_the_host_refuses_with_a_code_of_the_protocol_is_told_with_it(
        self, tmp_path: Path, retryable: bool
    ) -> None:
        class FullError(CommitcastError):
            code = "limit"

        class Full:
            async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
                raise error

        error = FullError("the agent has not read what it was sent: try again later")
        FullError.retryable = retryable
        grant = allowed("one", ("*", [SEND]))
        requests = Requests(StoreReader(SqliteStore(":memory:"), Traffic()), cast(AgentControl, Full()), Redactor())
        with pytest.raises(FullError) as caught:
            asyncio.run(requests.perform(grant, frames.Send(agent="a", content="x")))

        refusal = refusal_of(caught.value)
        assert (refusal.code, refusal.retry) == ("limit", retryable)
        assert refusal.message == str(error)


TELLS_WHAT_IT_GOT: Final = """
import json, os, sys
print(json.dumps([sys.argv[1:], sys.stdin.read()[:100], os.getcwd(), os.environ.get("EVIL")]))
"""


def by_input() -> Template:
    """A template whose program gets the prompt on standard input."""
    return Template(CommandSource([sys.executable, "-c", TELLS_WHAT_IT_GOT], type="text"))


class TestTemplates:
    GRANT: Final = allowed("one", ("org1:*", EVERYTHING))

    async def _told(self, runtime: AgentRuntime, template: str, **fields: Any) -> Any:
        """Launch, and return what the program says that it got."""
        async with raw(runtime.url, token="one") as client:
            launched = await client.ask("launch", template=template, id="l", **fields)
            assert launched["type"] == "ok", launched
            await client.subscribe(launched["agent"])
            follower = await client.follow_to_end(launched["agent"], 1)
            return [json.loads(item.content) for item in follower.items if item.type != "user"] or follower.changes[-1]

    @pytest.mark.parametrize(
        "prompt", ["--help", "-c import os", "$(id)", "a'b\"c\n; reboot", "\u0000 and on", "{prompt}"]
    )
    def test_a_prompt_is_never_anything_but_text(self, tmp_path: Path, prompt: str) -> None:
        path = tmp_path / "templates.toml"
        command = json.dumps([sys.executable, "-c", TELLS_WHAT_IT_GOT, "--", "{prompt}"])
        path.write_text(f'[argument]\ncommand = {command}\ntype = "text"\nprompt = "argument"\n')

        async def scenario(runtime: AgentRuntime) -> None:
            ((_, read, _, _),) = await self._told(runtime, "input", prompt=prompt)
            assert read == prompt.replace("\r\n", "\n")
            told = await self._told(runtime, "argument", prompt=prompt)
            if "\0" in prompt:
                assert told.status == "failed"
            else:
                assert told[0][0] == ["--", prompt]

        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates={**load_templates(path), "input": by_input()})

    def test_a_prompt_of_a_mebibyte_arrives_or_is_refused_by_the_system_alone(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            ((_, read, _, _),) = await self._told(runtime, "input", prompt="y" * MIB)
            assert read == "y" * 100
            ended = await self._told(runtime, "argument", prompt="y" * MIB)
            assert ended.status == "failed" and "cannot start" in ended.error.message

        command = CommandSource([sys.executable, "-c", "pass", "--", "{prompt}"], type="text")
        argument = Template(command, prompt="argument")
        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates={"input": by_input(), "argument": argument})

    def test_what_cannot_be_started_tells_the_client_no_path_and_the_owner_all(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        hidden = tmp_path / "where-it-lies"
        hidden.mkdir()
        no_program, not_executable, no_interpreter = hidden / "none", hidden / "plain", hidden / "script"
        not_executable.write_text("#!/bin/sh\n")
        no_interpreter.write_text(f"#!{hidden}/nothing\n")
        no_interpreter.chmod(0o700)
        commands = {
            "no-program": CommandSource([str(no_program)], type="text"),
            "not-executable": CommandSource([str(not_executable)], type="text"),
            "no-interpreter": CommandSource([str(no_interpreter)], type="text"),
            "no-folder": CommandSource(["/bin/cat"], type="text", cwd=hidden / "nowhere"),
            "too-long": CommandSource([str(no_interpreter), "x" * MIB], type="text"),
        }

        async def scenario(runtime: AgentRuntime) -> None:
            for name in commands:
                ended = await self._told(runtime, name, prompt="x")
                assert ended.status == "failed", name
                assert "where-it-lies" not in ended.error.message and "/" not in ended.error.message, ended.error

        templates = {name: Template(source) for name, source in commands.items()}
        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates=templates)
        logged = [record.getMessage() for record in caplog.records if "cannot start" in record.getMessage()]
        assert len(logged) == len(commands)
        assert all("where-it-lies" in line for line in logged)

    def test_a_client_supplies_no_program_environment_or_folder(self, tmp_path: Path) -> None:
        evil = {"argv": ["/bin/false"], "command": ["/bin/false"], "env": {"EVIL": "1"}, "environment": {"EVIL": "1"}}
        evil |= {"cwd": "/", "folder": "/", "source": "x", "type_": "jsonl", "configuration": {"env": {"EVIL": "1"}}}

        async def scenario(runtime: AgentRuntime) -> None:
            ((argv, _, folder, environment),) = await self._told(runtime, "input", **evil)
            assert (argv, folder, environment) == ([], str(Path.cwd()), None)

        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates={"input": by_input()})

    def test_a_template_in_python_is_checked_like_one_in_a_file(self) -> None:
        with pytest.raises(InvalidValueError, match="standard input"):
            Template(CommandSource(["review", "{prompt}"], type="text"))

    @pytest.mark.parametrize("name", ["none", "", "../quick", "quick\u0000", "QUICK", "x" * 10_000])
    def test_an_unknown_template_is_not_found(self, tmp_path: Path, name: str) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                reply = await client.ask("launch", template=name)
                assert (reply["code"], reply["retry"]) == ("not_found", False)
                assert len(reply["message"]) < 500
            assert not runtime.agents()

        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates={"quick": Template(quick)})

    def test_a_full_template_refuses_however_many_ask_at_once_and_has_room_again(self, tmp_path: Path) -> None:
        release = threading.Event()

        def waits(context: AgentContext) -> Iterator[str]:
            context.cancelled.on_set(release.set)
            release.wait()
            yield "done"

        async def scenario(runtime: AgentRuntime) -> None:
            async with raw(runtime.url, token="one") as client:
                for number in range(6):
                    await client.send("launch", template="busy", id=number, key=f"key {number}")
                replies = [await client.receive() for _ in range(6)]
                launched = [reply for reply in replies if reply["type"] == "ok"]
                refused = [reply for reply in replies if reply["type"] == "error"]
                assert len(launched) == 2
                assert {reply["code"] for reply in refused} == {"limit"}
                again = await client.ask("launch", template="busy", id="again", key=f"key {launched[0]['id']}")
                assert again["agent"] == launched[0]["agent"], "what was done already is told, full or not"
                for reply in launched:
                    await client.ask("terminate", agent=reply["agent"], id=f"end {reply['id']}")
                assert (await client.ask("launch", template="busy", id="room"))["type"] == "ok"

        play(tmp_path, scenario, token=Passes(one=self.GRANT), templates={"busy": Template(waits, max_running=2)})

    def test_a_key_remembers_its_launch_after_a_restart_of_a_full_template(self, tmp_path: Path) -> None:
        first: list[str] = []

        async def wait_for_ever(context: AgentContext) -> None:
            await asyncio.Event().wait()

        async def before(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                first.append((await client.ask("launch", template="busy", key="k"))["agent"])

        async def after(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer one")) as client:
                assert (await client.ask("launch", template="busy", key="another"))["type"] == "ok"
                assert (await client.ask("launch", template="busy", key="k")).get("agent") == first[0]

        options: Any = {
            "token": Passes(one=self.GRANT),
            "templates": {"busy": Template(wait_for_ever, max_running=1)},
        }
        play(tmp_path, before, **options)
        play(tmp_path, after, **options)


@pytest.mark.parametrize("operation", [SEND, LAUNCH, TERMINATE])
def test_a_server_without_tokens_is_read_only(tmp_path: Path, operation: Permission) -> None:
    fields: dict[Permission, Fields] = {
        SEND: {"agent": "a", "content": "x"},
        LAUNCH: {"template": "quick"},
        TERMINATE: {"agent": "a"},
    }

    async def scenario(runtime: AgentRuntime) -> None:
        await runtime.alaunch(id="a")
        async with opened(runtime) as client:
            assert (await client.ask(operation.value, **fields[operation]))["code"] == "forbidden"

    play(tmp_path, scenario, templates={"quick": Template(quick)})


class TestPagesOfAgents:
    """What a tenant gets to page on with tells nothing of the others."""

    TENANTS: Final = Passes(
        one=allowed("one", ("org1:*", [READ])),
        both=allowed("both", ("org1:*", [READ]), ("org2:a0", [READ])),
        all=allowed("all", ("*", [READ])),
    )

    @staticmethod
    async def pages(runtime: AgentRuntime, token: str, query: str, first: Any = 0) -> tuple[list[str], list[Any]]:
        """Return every id in order, and every `next`."""
        ids: list[str] = []
        cursors: list[Any] = [first]
        while cursors[-1] is not None:
            page = await get(runtime, f"/v1/agents?{query}&after={cursors[-1]}", token=token)
            assert page.status == 200, page
            ids += [agent["id"] for agent in page.json["agents"]]
            cursors.append(page.json["next"])
        return ids, cursors[1:]

    @staticmethod
    async def launched(runtime: AgentRuntime) -> None:
        """Launch agents of two tenants by turns, who say something between."""
        for number in range(5):
            for tenant in ("org1", "org2"):
                await spoken(runtime, f"{tenant}:a{number}", 3)

    @pytest.mark.parametrize("order", ["oldest", "newest"])
    @pytest.mark.parametrize("limit", [1, 2, 5, 6])
    def test_a_tenant_gets_each_of_its_agents_once_and_in_order(self, tmp_path: Path, order: str, limit: int) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await self.launched(runtime)
            ids, cursors = await self.pages(runtime, "one", f"order={order}&limit={limit}")
            own = [f"org1:a{number}" for number in range(5)]
            assert ids == (own if order == "oldest" else own[::-1])
            assert all(cursor is None or cursor.removeprefix("@") in own for cursor in cursors)
            assert (await self.pages(runtime, "both", f"order=oldest&limit={limit}"))[0][:3] == [
                "org1:a0",
                "org2:a0",
                "org1:a1",
            ]
            assert len((await self.pages(runtime, "all", f"order={order}&limit={limit}"))[0]) == 10

        play(tmp_path, scenario, token=self.TENANTS)

    def test_positions_cannot_be_tried_nor_agents_of_others(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await self.launched(runtime)
            for after in ("1", "5", "@", "@@org1:a0", "org1:a0", "-1", "00"):
                answer = await get(runtime, f"/v1/agents?after={after}", token="one")
                assert answer.status == (404 if after[0] == "@" else 400), after
            foreign, absent = [
                await get(runtime, f"/v1/agents?after=@{id}", token="one") for id in ("org2:a0", "org2:zz")
            ]
            assert foreign.status == absent.status == 404
            assert foreign.body.replace(b"org2:a0", b"ID") == absent.body.replace(b"org2:zz", b"ID")

        play(tmp_path, scenario, token=self.TENANTS)


def test_names_that_the_host_adds_are_hidden_wherever_an_agent_is_shown(tmp_path: Path) -> None:
    async def scenario(runtime: AgentRuntime) -> None:
        async with raw(runtime.url) as watcher:
            await watcher.subscribe("*")
            await watcher.until("live")
            await runtime.alaunch(
                id="a", configuration={"sessionId": "hidden", "max_tokens": 4_096, "apiKey": "hidden"}
            )
            created = (await watcher.until("agent", event="created"))["record"]
            subscribed = (await watcher.ask("subscribe", agent="a"))["record"]
        one = (await get(runtime, "/v1/agents/a")).json
        (listed,) = (await get(runtime, "/v1/agents")).json["agents"]

        shown = [record["configuration"] for record in (created, subscribed, one, listed)]
        assert shown == [{"max_tokens": 4_096}] * 4

    play(tmp_path, scenario, redact=["session id"])
