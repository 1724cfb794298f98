"""What a server's owner may write into a file of templates, and what clients make of it."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentRuntime, CommandSource, Template
from commitcast.actors.control import RuntimeControl
from commitcast.actors.errors import RuntimeStoppedError, TemplateFullError, TemplateNotFoundError
from commitcast.actors.messages import Terminate
from commitcast.actors.templates import load_templates
from commitcast.persistence.errors import AgentNotFoundError, IdempotencyConflictError, InvalidValueError
from commitcast.persistence.records import AgentStatus
from waiting import TIMEOUT_S, wait_until


class TestFiles:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "templates.toml"
        path.write_text(text)
        return path

    def test_a_template_says_what_is_run_and_how(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            f"""
            [reverse]
            command = ["rev"]
            folder = "{tmp_path}"
            environment = {{ LANG = "C.UTF-8" }}
            restart = "on_failure"
            max_running = 2
            max_running_in_all = 3
            [review.er]
            """.replace("[review.er]", '["review.er"]\ncommand = ["cat"]\ntype = "text"'),
        )

        templates = load_templates(path)

        assert set(templates) == {"reverse", "review.er"}
        assert (templates["reverse"].max_running, templates["reverse"].max_running_in_all) == (2, 3)
        assert (templates["review.er"].max_running, templates["review.er"].max_running_in_all) == (8, 64)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "has no templates"),
            ("[a", "cannot be read"),
            ("[a]\n", "template a in .*command"),
            ("a = 1", "template a in .*object"),
            ('[a]\ncommand = "cat"', "template a in .*array"),
            ('[a]\ncommand = ["cat"]\ncwd = "/"', "template a in .*cwd"),
            ('[a]\ncommand = ["cat"]\nmax_running = 0', "max_running must be 1 or more"),
            ('[a]\ncommand = ["cat"]\nmax_running_in_all = 0', "max_running_in_all must be 1 or more"),
            ('[a]\ncommand = ["cat"]\nrestart = "always"', "template a in .*always"),
            ('[a]\ncommand = ["cat"]\ntype = "fortran"', "'fortran' is not an agent type"),
            ("[a]\ncommand = []", "template a in"),
            ('["a b"]\ncommand = ["cat"]', "'a b' is not a valid template name"),
            (
                '[a]\ncommand = ["claude", "-p", "{prompt}"]',
                'standard input: leave {prompt} out, or write prompt = "arg',
            ),
            ('[a]\ncommand = ["cat", "--text={prompt}"]\nprompt = "argument"', "must be a whole argument"),
            ('[a]\ncommand = ["sh", "-c", "echo {prompt}"]\nprompt = "argument"', "must be a whole argument"),
            ('[a]\ncommand = ["{prompt}", "x"]\nprompt = "argument"', "must be a whole argument, and not the program"),
            ('[a]\ncommand = ["cat"]\nprompt = "argument"', "needs an argument"),
            ('[a]\ncommand = ["cat"]\nprompt = "file"', "template a in .*file"),
        ],
    )
    def test_what_cannot_be_used_is_refused_in_one_sentence(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(InvalidValueError, match=says) as caught:
            load_templates(self.write(tmp_path, text))

        assert "\n" not in str(caught.value)

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match="cannot be read"):
            load_templates(tmp_path / "nothing.toml")

    @pytest.mark.parametrize(
        "command",
        [
            ["awk", "--", "{prompt}"],
            ["ssh", "host", "--", "{prompt}"],
            ["python3", "-c", "import os, sys; os.system(sys.argv[-1])", "--", "{prompt}"],
            ["docker", "run", "--entrypoint={prompt}", "image"],
            ["own-program", "--", "{prompt}"],
            ["own-program", "--prompt={prompt}"],
        ],
    )
    def test_a_prompt_is_never_an_argument_unless_the_owner_says_so(self, tmp_path: Path, command: list[str]) -> None:
        with pytest.raises(InvalidValueError, match='write prompt = "argument" if the program takes that argument as'):
            load_templates(self.write(tmp_path, f"[a]\ncommand = {json.dumps(command)}"))

    def test_a_prompt_is_a_whole_argument_where_the_owner_says_so(self, tmp_path: Path) -> None:
        text = '[a]\ncommand = ["review", "--deep", "{prompt}"]\nprompt = "argument"'

        source = load_templates(self.write(tmp_path, text))["a"].source

        assert isinstance(source, CommandSource) and source.argv == ("review", "--deep", "{prompt}")


def test_a_source_that_is_not_in_a_template_is_refused_at_once() -> None:
    source: Any = CommandSource(["cat"])

    with pytest.raises(InvalidValueError, match=r"^the template 'a' must be a Template, not .+: wrap its source$"):
        AgentRuntime(":memory:", templates={"a": source})


class TestPlaces:
    @pytest.mark.parametrize("place", ["Stdin", "bogus", "", None, 1, ["stdin"]])
    @pytest.mark.parametrize("argv", [["sh", "-c", "{prompt}"], ["cat"]])
    def test_a_place_of_the_prompt_that_there_is_not_is_refused(self, argv: list[str], place: Any) -> None:
        with pytest.raises(InvalidValueError, match=r'^prompt must be "stdin" or "argument", not '):
            Template(CommandSource(argv), prompt=place)
        with pytest.raises(InvalidValueError, match=r'^prompt must be "stdin" or "argument", not '):
            Template(lambda context: ["hello"], prompt=place)

    def test_a_source_without_arguments_has_no_place_for_the_prompt_in_them(self) -> None:
        with pytest.raises(
            InvalidValueError, match=r'"argument" is only for a CommandSource: leave it out; .*prompt`$'
        ):
            Template(lambda context: ["hello"], prompt="argument")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[AgentRuntime]:
    def wait(context: AgentContext) -> Iterator[str]:
        yield context.prompt.upper()
        context.cancelled.wait(TIMEOUT_S)

    waiter = Template(wait, type="test", configuration={"a": 1}, max_running=2, max_running_in_all=4)
    same = Template(wait, type="test", configuration={"a": 1})
    templates = {"waiter": waiter, "other": same, "waiter-2": same}
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", templates=templates) as runtime:
        yield runtime


def play(runtime: AgentRuntime, scenario: Callable[[RuntimeControl], Awaitable[Any]]) -> Any:
    assert runtime.gateway is not None
    operations = runtime.gateway.core.requests.control
    assert isinstance(operations, RuntimeControl)

    async def bounded() -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            return await scenario(operations)

    return asyncio.run(bounded())


class TestLaunching:
    def test_the_agent_is_the_templates_with_the_callers_prompt_and_prefix(self, runtime: AgentRuntime) -> None:
        record = play(runtime, lambda operations: operations.launch("waiter", "hello", key=None, prefix="org1:"))

        assert re.fullmatch(r"org1:waiter-[0-9a-f]{16}", record.id)
        assert (record.type, record.prompt, record.configuration) == ("test", "hello", {"a": 1})
        messages = wait_until(lambda: (m := runtime.agent(record.id).messages()) and len(m) == 2 and m, "its words")
        assert [message.content for message in messages] == ["hello", "HELLO"]

    def test_while_the_runtime_stops_it_is_refused_before_anything_is_stored(self, runtime: AgentRuntime) -> None:
        runtime._running.directory.end_all(Terminate(), time.monotonic())

        with pytest.raises(RuntimeStoppedError):
            play(runtime, lambda operations: operations.launch("waiter", "", key=None, prefix=""))
        assert runtime.agents() == []

    def test_the_same_key_finds_the_agent_again(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            first, again = await asyncio.gather(
                *(operations.launch("waiter", "hello", key="k", prefix="") for _ in range(2))
            )
            assert first.id == again.id
            with pytest.raises(IdempotencyConflictError):
                await operations.launch("waiter", "something else", key="k", prefix="")

        play(runtime, scenario)
        assert len(runtime.agents()) == 1

    def test_a_key_of_another_template_is_refused_whenever_it_was_used(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            outcomes = await asyncio.gather(
                *(operations.launch(name, "hello", key="k", prefix="") for name in ("waiter", "other", "waiter-2")),
                return_exceptions=True,
            )
            launched = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            assert len(launched) == 1
            assert sum(isinstance(outcome, IdempotencyConflictError) for outcome in outcomes) == 2
            first = launched[0].id.rpartition("-")[0]
            for name in {"waiter", "other", "waiter-2"} - {first}:
                with pytest.raises(IdempotencyConflictError):
                    await operations.launch(name, "hello", key="k", prefix="")
            assert (await operations.launch(first, "hello", key="k", prefix="")).id == launched[0].id

        play(runtime, scenario)
        assert len(runtime.agents()) == 1

    def test_one_tenant_keeps_no_template_from_another(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            for prefix in ("one:", "two:"):
                launched = [await operations.launch("waiter", "", key=None, prefix=prefix) for _ in range(2)]
                with pytest.raises(TemplateFullError, match="2 agents of the template 'waiter' are running"):
                    await operations.launch("waiter", "", key=None, prefix=prefix)
            with pytest.raises(
                TemplateFullError, match="limit of running agents of the template 'waiter' is reached"
            ) as caught:
                await operations.launch("waiter", "", key=None, prefix="three:")
            assert (caught.value.code, caught.value.retryable) == ("limit", True)
            await operations.launch("other", "", key=None, prefix="three:")
            await operations.terminate(launched[0].id, "enough")
            assert (await operations.launch("waiter", "", key=None, prefix="three:")).id.startswith("three:")

        play(runtime, scenario)

    def test_tenants_that_launch_at_the_same_time_keep_to_the_bound_of_all(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            outcomes = await asyncio.gather(
                *(operations.launch("waiter", "", key=None, prefix=f"t{number}:") for number in range(9)),
                return_exceptions=True,
            )
            assert sum(isinstance(outcome, TemplateFullError) for outcome in outcomes) == 5

        play(runtime, scenario)

    def test_no_more_run_than_the_template_allows_until_one_has_ended(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            outcomes = await asyncio.gather(
                *(operations.launch("waiter", str(number), key=f"k{number}", prefix="") for number in range(4)),
                return_exceptions=True,
            )
            launched = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            refused = [outcome for outcome in outcomes if isinstance(outcome, TemplateFullError)]
            assert (len(launched), len(refused)) == (2, 2)
            again = await operations.launch("waiter", launched[0].prompt, key=f"k{launched[0].prompt}", prefix="")
            assert again.id == launched[0].id
            await operations.terminate(launched[0].id, "enough")
            assert (await operations.launch("waiter", "next", key=None, prefix="")).id

        play(runtime, scenario)

    def test_an_unknown_template_is_named(self, runtime: AgentRuntime) -> None:
        with pytest.raises(TemplateNotFoundError, match="'nothing'"):
            play(runtime, lambda operations: operations.launch("nothing", "", key=None, prefix=""))


class TestPromptsAsArguments:
    @pytest.mark.parametrize(
        ("command", "prompt", "content"),
        [
            (["echo", "{prompt}"], "a b; $(id)", "a b; $(id)"),
            (["echo", "said", "--", "{prompt}"], "-n", "said -- -n"),
            (["cat"], "-n", "-n"),
        ],
    )
    def test_the_program_gets_the_prompt_as_one_text(
        self, tmp_path: Path, command: list[str], prompt: str, content: str
    ) -> None:
        place: Any = "argument" if "{prompt}" in command else "stdin"
        template = Template(CommandSource(command, type="text"), prompt=place)

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(template.source, prompt=prompt)

            assert [message.content for message in agent.follow()] == [prompt, content]

    def test_one_that_the_program_could_read_as_an_option_is_refused(self, tmp_path: Path) -> None:
        started = tmp_path / "started"
        template = Template(CommandSource(["touch", str(started), "{prompt}"], type="text"), prompt="argument")

        with AgentRuntime(tmp_path / "a.db") as runtime:
            record = runtime.launch(template.source, prompt="--reference=/etc/passwd").wait(TIMEOUT_S)

        assert record.status is AgentStatus.FAILED
        assert "the prompt begins with '-'" in (record.error_message or "")
        assert not started.exists()


class TestTerminating:
    def test_an_agent_that_has_ended_is_found_as_it_ended(self, runtime: AgentRuntime) -> None:
        async def scenario(operations: RuntimeControl) -> None:
            agent = await runtime.alaunch(id="a")
            await agent.start()
            await agent.complete("done")
            assert (await operations.terminate("a", None)).status is AgentStatus.COMPLETED

        play(runtime, scenario)

    def test_an_agent_that_there_is_not_is_not_found(self, runtime: AgentRuntime) -> None:
        with pytest.raises(AgentNotFoundError):
            play(runtime, lambda operations: operations.terminate("nobody", None))
