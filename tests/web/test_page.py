"""The page in a real browser, against the real server: what people see, and that nothing of an agent ever runs."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol.frames import Item
from texts import CASES
from waiting import TIMEOUT_S, wait_until

try:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        WebSocketRoute,
        expect,
        sync_playwright,
    )
except ImportError:
    pytest.skip("needs playwright: the page is tested in a browser", allow_module_level=True)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# No process that waits for a next page: starting one for each test takes a quarter of all time.
ARGUMENTS += ["--disable-site-isolation-trials", "--renderer-process-limit=1"]
ARGUMENTS += ["--disable-features=SpareRendererForSitePerProcess,Translate,MediaRouter,OptimizationHints"]
MANY = 100_000
MOST_NODES = 900
HOSTILE = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: the page is tested in it"),
    pytest.mark.sampled(6, of_file=True),  # a browser takes a fifth of the whole suite's time
]
expect.set_options(timeout=TIMEOUT_S * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(TIMEOUT_S * 1000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page whose console must stay quiet."""
    page = context.new_page()
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(f"{message.text} {message.location['url']}")

    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    # What a browser says of a server that is away, that asks for a token, and that has no such agent.
    expected = ("ERR_CONNECTION_REFUSED", "status of 401", "v1/agents/nobody")
    assert [text for text in said if not any(words in text for words in expected)] == []


def off_loop(work: Callable[[], Any]) -> Any:
    """Do something on a thread without an event loop, which playwright puts on this one."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[AgentRuntime]:
    runtime = AgentRuntime(tmp_path / "agents.db", listen="127.0.0.1:0")
    off_loop(runtime.start)
    yield runtime
    off_loop(runtime.stop)


def running(runtime: AgentRuntime, id: str, *, prompt: str = "") -> Any:
    agent = off_loop(lambda: runtime.launch(id=id, prompt=prompt, type="test"))
    off_loop(lambda: agent.start().get(TIMEOUT_S))
    return agent


def say(agent: Any, *contents: Any, **fields: Any) -> None:
    off_loop(lambda: [agent.emit(content, **fields) for content in contents][-1].get(TIMEOUT_S))


def stream(agent: Any, *pieces: str, **fields: Any) -> None:
    say(agent, *pieces, metadata={"delta": True}, **fields)


def complete(agent: Any, result: Any = None) -> None:
    off_loop(lambda: agent.complete(result).get(TIMEOUT_S))


def url(runtime: AgentRuntime, place: str = "") -> str:
    return f"http://{runtime.address}/{place}"


def expect_live(page: Page) -> None:
    """Wait until the agent that is shown is subscribed to and caught up."""
    expect(page.locator("#stream")).to_be_visible()
    expect(page.locator("#stream")).not_to_have_attribute("aria-busy", "true")


def text(page: Page) -> str:
    return "".join(page.locator(".body").all_text_contents())


def nodes(page: Page) -> int:
    count: int = page.evaluate("document.querySelectorAll('*').length")
    return count


def test_an_agent_is_watched_live_its_tokens_joined_and_other_messages_labelled(
    page: Page, runtime: AgentRuntime
) -> None:
    agent = running(runtime, "a1", prompt="Say hello")

    page.goto(url(runtime, "#agent=a1"))
    expect(page.locator("#state")).to_have_text("connected")
    expect_live(page)
    stream(agent, "Hel", "lo ", "there")
    expect(page.locator('.block[data-type="assistant"] .body')).to_have_text("Hello there")
    say(agent, "search('x')", type="tool", metadata={"tool": "search"})
    say(agent, "It broke", type="error")
    say(agent, "after")
    complete(agent, {"answer": 42})

    expect(page.locator("#ending")).to_contain_text("completed")
    expect(page.locator("#ending")).to_contain_text('"answer": 42')
    expect(page.locator("#state")).to_have_text("ended")
    labels = page.locator(".block header b").all_text_contents()
    assert labels == ["user", "assistant", "tool · search", "error", "assistant"]
    assert page.locator(".number").all_text_contents() == ["1", "2–4", "5", "6", "7"]


def test_the_list_shows_newest_first_and_keeps_up(page: Page, runtime: AgentRuntime) -> None:
    first = running(runtime, "first", prompt="count sheep")
    page.goto(url(runtime))
    expect(page.locator("#agents li")).to_have_count(1)
    expect(page.locator("#state")).to_have_text("connected")

    running(runtime, "second")
    say(first, "one", "two")
    complete(first)

    expect(page.locator("#agents .id")).to_have_text(["second", "first"])
    expect(page.locator("#agents .status")).to_have_text([re.compile("running"), re.compile("completed")])
    expect(page.locator("#agents .head")).to_have_text(["0", "3"])
    page.get_by_label("Filter agents by text").fill("sheep")
    expect(page.locator("#agents .id")).to_have_text(["first"])
    page.get_by_label("Filter agents by status").select_option("failed")
    expect(page.locator("#agents li")).to_have_count(0)
    expect(page.locator("#none")).to_be_visible()


def test_agents_of_long_ago_are_shown_on_demand(page: Page, runtime: AgentRuntime) -> None:
    ids = [f"agent-{number:03}" for number in range(250)]
    off_loop(lambda: runtime.launch_many(250, ids=ids))

    page.goto(url(runtime))

    for count in (100, 200, 250):
        expect(page.locator("#agents .id")).to_have_text(ids[::-1][:count])
        if count < 250:
            page.get_by_role("button", name="Show older agents").click()
    expect(page.locator("#older")).to_be_hidden()


def test_a_reload_in_mid_stream_shows_the_same_and_goes_on(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    stream(agent, "one ", "two ")
    expect(page.locator(".body")).to_have_text("one two ")

    page.reload()
    stream(agent, "three")

    expect(page.locator(".body")).to_have_text("one two three")


def test_a_cut_is_seen_and_resumed_and_nothing_is_missing(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    say(agent, *[f"{number} " for number in range(50)])
    expect(page.locator(".body")).to_contain_text("49")
    expect_live(page)

    page.get_by_role("button", name="Cut the connection").click()
    expect(page.locator("#state")).to_contain_text("reconnecting in")
    say(agent, *[f"{number} " for number in range(50, 120)])

    expect(page.locator("#notice")).to_have_text("Resumed after 50: 70 messages caught up, nothing missing.")
    expect(page.locator("#state")).to_have_text("connected")
    assert text(page).split() == [str(number) for number in range(120)]


def test_catching_up_is_counted(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    say(agent, "0 ")
    expect(page.locator(".body")).to_have_text("0")
    expect_live(page)
    page.evaluate("""
        window.seen = [];
        const text = document.getElementById("state-text");
        new MutationObserver(() => window.seen.push(text.textContent)).observe(text, { childList: true });
    """)

    page.get_by_role("button", name="Cut the connection").click()
    off_loop(lambda: [agent.emit(f"{number} ") for number in range(1, 10_000)])

    expect(page.locator("#notice")).to_have_text("Resumed after 1: 9,999 messages caught up, nothing missing.")
    expect(page.locator("#place")).to_have_text("#10,000 of 10,000")
    assert any(re.fullmatch(r"catching up: [\d,]+ of 10,000", said) for said in page.evaluate("window.seen"))
    shown = [int(number) for number in text(page).split()]
    assert shown == list(range(shown[0], 10_000))


def test_who_may_not_hear_of_all_agents_sees_the_list_all_the_same(page: Page, runtime: AgentRuntime) -> None:
    def refuse(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def pass_on(data: str | bytes) -> None:
            frame = json.loads(data)
            if frame["type"] == "subscribe" and frame["agent"] == "*":
                error = {"type": "error", "id": frame["id"], "agent": "*", "code": "forbidden", "message": "no"}
                route.send(json.dumps(error | {"retry": False}))
            else:
                server.send(data)

        route.on_message(pass_on)

    page.route_web_socket(re.compile("/v1/ws$"), refuse)
    running(runtime, "first")
    page.goto(url(runtime))
    expect(page.locator("#agents .id")).to_have_text(["first"])

    running(runtime, "second")

    expect(page.locator("#agents .id")).to_have_text(["second", "first"])


def test_a_restart_of_the_server_is_survived(page: Page, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    first = AgentRuntime(tmp_path / "a.db", listen=listen)
    off_loop(first.start)
    say(running(first, "a1"), "before")
    page.goto(url(first, "#agent=a1"))
    expect(page.locator(".body")).to_have_text("before")

    off_loop(first.stop)
    second = AgentRuntime(tmp_path / "a.db", listen=listen)
    off_loop(second.start)
    try:
        expect(page.locator("#ending")).to_contain_text("terminated")
        running(second, "a2")
        expect(page.locator("#agents .id")).to_have_text(["a2", "a1"])
        page.get_by_role("link", name="a2").click()
        expect(page.locator("#stream-id")).to_have_text("a2")
    finally:
        off_loop(second.stop)


def test_what_a_failed_agent_leaves_is_shown(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, "hm")
    off_loop(lambda: agent.fail(ValueError("no such thing")).get(TIMEOUT_S))

    page.goto(url(runtime, "#agent=a1"))

    expect(page.locator("#ending .error")).to_have_text("ValueError: no such thing")
    expect(page.locator("#state")).to_have_text("ended")


def test_what_agents_say_is_text_and_never_runs(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1", prompt=HOSTILE)
    say(agent, HOSTILE)
    say(agent, {"html": HOSTILE})
    say(agent, HOSTILE, type="tool", role="<b>role</b>", metadata={"tool": HOSTILE}, raw=HOSTILE)
    say(agent, "", type="system", metadata={"event": HOSTILE})
    off_loop(lambda: agent.fail(ValueError(HOSTILE)).get(TIMEOUT_S))

    page.goto(url(runtime, "#agent=a1"))
    expect(page.locator("#ending .error")).to_contain_text(HOSTILE)
    page.locator('.block[data-type="tool"] summary').click()

    expect(page.locator(".raw code")).to_have_text(HOSTILE)
    expect(page.locator('.block[data-type="assistant"] .body').first).to_have_text(HOSTILE)
    expect(page.locator("#agents .prompt")).to_contain_text("<script>")
    assert page.locator("main img, main script, nav img, nav script").count() == 0
    assert page.title() == "a1 · commitcast"


@pytest.fixture(scope="module")
def many_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an agent of 100,000 messages, which has ended."""
    path = tmp_path_factory.mktemp("many") / "agents.db"
    runtime = AgentRuntime(path)
    off_loop(runtime.start)
    agent = running(runtime, "many")
    off_loop(lambda: [agent.emit(f"{number}{chr(10) if number % 9 == 0 else ' '}") for number in range(1, MANY + 1)])
    complete(agent)
    off_loop(runtime.stop)
    return path


@pytest.fixture
def many(many_file: Path) -> Iterator[AgentRuntime]:
    runtime = AgentRuntime(many_file, listen="127.0.0.1:0")
    off_loop(runtime.start)
    yield runtime
    off_loop(runtime.stop)


def numbers(page: Page) -> list[int]:
    return [int(number) for number in text(page).split()]


def test_a_hundred_thousand_messages_open_at_the_tail_and_are_read_backwards(page: Page, many: AgentRuntime) -> None:
    page.goto(url(many, "#agent=many"))
    expect(page.locator("#ending")).to_be_visible()
    expect(page.locator("#place")).to_have_text("#100,000 of 100,000")
    shown = numbers(page)
    assert shown == list(range(shown[0], MANY + 1))
    assert len(shown) < 3_000

    page.locator("#log").hover()
    for _ in range(12):
        page.mouse.wheel(0, -4_000)
        shown = numbers(page)
        assert shown == list(range(shown[0], shown[-1] + 1)), "a hole, or a repeat"
        assert nodes(page) < MOST_NODES
        wait_until(lambda: page.evaluate("document.getElementById('log').scrollTop") > 0, "earlier messages")
    assert shown[0] < MANY - 1_000
    expect(page).to_have_url(re.compile("#agent=many&at="))

    page.get_by_role("button", name="Jump to latest").click()
    expect(page.locator("#place")).to_have_text("#100,000 of 100,000")
    expect(page.locator("#latest")).to_be_hidden()


def test_a_link_into_the_middle_shows_and_marks_the_message(page: Page, many: AgentRuntime) -> None:
    page.goto(url(many, "#agent=many&at=50000"))
    expect(page.locator("mark")).to_have_text("50000 ")
    expect(page.locator("mark")).to_be_in_viewport()

    page.evaluate("location.hash = 'agent=many&at=700'")
    expect(page.locator("mark")).to_have_text("700 ")
    page.go_back()
    expect(page.locator("mark")).to_have_text("50000 ")
    page.go_forward()
    expect(page.locator("mark")).to_have_text("700 ")

    page.locator("#log").hover()
    for _ in range(6):
        page.mouse.wheel(0, 4_000)
        shown = numbers(page)
        assert shown == list(range(shown[0], shown[-1] + 1)), "a hole, or a repeat"
        assert nodes(page) < MOST_NODES


def test_from_the_middle_of_a_running_agent_one_reads_on_to_its_tail(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, *[f"{number}\n" for number in range(1, 901)])
    page.goto(url(runtime, "#agent=a1&at=100"))
    expect(page.locator("mark")).to_have_text("100")
    expect_live(page)

    say(agent, *[f"{number}\n" for number in range(901, 951)])
    expect(page.locator("#latest")).to_have_text("Jump to latest (950)")
    assert 950 not in numbers(page)
    page.locator("#log").focus()

    def is_at_tail() -> bool:
        page.keyboard.press("End")
        return page.locator("#latest").is_hidden()

    wait_until(is_at_tail, "the tail")
    say(agent, "951\n")

    expect(page.locator("#place")).to_have_text("#951 of 951")
    expect(page.locator("#log")).to_contain_text("951")
    shown = numbers(page)
    assert shown == list(range(shown[0], 952))


def test_who_reads_further_up_is_not_moved_by_new_messages(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, *[f"line {number}\n" for number in range(300)])
    page.goto(url(runtime, "#agent=a1"))
    expect(page.locator("#log")).to_contain_text("line 299")
    expect_live(page)
    page.locator("#log").hover()
    page.mouse.wheel(0, -2_000)
    expect(page.locator("#latest")).to_be_visible()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    before = page.evaluate("document.getElementById('log').scrollTop")

    say(agent, *[f"new {number}\n" for number in range(50)])
    expect(page.locator("#log")).to_contain_text("new 49")

    assert abs(page.evaluate("document.getElementById('log').scrollTop") - before) < 2
    page.get_by_role("button", name="Jump to latest").click()
    below = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
    wait_until(lambda: page.evaluate(below + "(document.getElementById('log'))") < 2, "the end of the list")


def test_a_flood_of_messages_keeps_the_document_small(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    expect_live(page)

    off_loop(lambda: [agent.emit(f"assistant {number}\n") for number in range(3_000)])
    off_loop(lambda: [agent.emit(f"tool {number}\n", type="tool") for number in range(3_000)])
    complete(agent)

    expect(page.locator("#ending")).to_contain_text("completed")
    expect(page.locator("#log")).to_contain_text("tool 2999")
    assert nodes(page) < 1_500
    shown = [line for line in text(page).splitlines() if line.startswith("tool")]
    assert shown == [f"tool {number}" for number in range(3_000 - len(shown), 3_000)]


def speak(agent: Any, items: list[Any]) -> None:
    """Have an agent say what others have said, but its prompt."""
    fields = [{"type": each.type, "metadata": each.metadata} for each in items]
    off_loop(lambda: [agent.emit(each.content, **of) for each, of in zip(items, fields, strict=True)][-1].get(10))


ROUNDS = 12


def message(text: str) -> Item:
    return Item(1, "user", None, text, "text", None, "")


def lines(texts: list[str]) -> list[str]:
    """The lines that somebody sees, however they are parted into blocks."""
    return [line for text in texts for line in text.split("\n") if line.strip()]


def lines_on(page: Page) -> list[str]:
    return lines(page.locator(".body").all_text_contents())


def test_a_text_in_pieces_is_shown_once_and_whole_messages_are_kept_apart(page: Page, runtime: AgentRuntime) -> None:
    for number, case in enumerate(CASES):
        speak(running(runtime, f"case-{number}"), case.items)

    page.goto(url(runtime))
    for number, case in enumerate(CASES):
        page.evaluate(f"location.hash = 'agent=case-{number}'")
        expect(page.locator("#stream-id")).to_have_text(f"case-{number}")
        expect_live(page)
        assert lines_on(page) == lines([text for _, text in case.shown]), case.name


def test_pieces_are_joined_as_they_come(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    expect_live(page)

    for piece, said in (("The answer ", "The answer "), ("is", "The answer is"), (" 42.", "The answer is 42.")):
        stream(agent, piece)
        expect(page.locator(".body")).to_have_text(said)
    say(agent, "The answer is 42.", metadata={"repeats_deltas": True})
    say(agent, "", type="system", metadata={"event": "message_stop"})
    say(agent, "The answer is 42.", type="response")
    stream(agent, "Next.")

    expect(page.locator(".body")).to_have_text(["The answer is 42.", "Next."])
    assert page.locator(".number").all_text_contents() == ["1–3", "7"]
    expect(page.locator("#place")).to_have_text("#7 of 7")


def test_read_backwards_texts_are_joined_and_hidden_as_they_are_forwards(page: Page, runtime: AgentRuntime) -> None:
    cases = [case for case in CASES if "empty lines" not in case.name]
    agent = running(runtime, "a1")
    items: list[Any] = []
    wanted: list[str] = []
    for number in range(ROUNDS):
        items.append(message(f"round {number}"))
        wanted.append(f"round {number}")
        for case in cases:
            items += [*case.items, message(case.name)]
            wanted += [*lines([text for _, text in case.shown]), case.name]
    speak(agent, items)
    page.goto(url(runtime, "#agent=a1"))
    expect(page.locator("#log")).to_contain_text(f"round {ROUNDS - 1}")
    expect_live(page)

    page.locator("#log").hover()
    seen = 0
    for _ in range(200):
        shown = lines_on(page)[1:]  # at the upper edge it may be that a piece's beginning is not there yet
        assert " ".join(shown) in " ".join(wanted), "a hole, or a repeat"
        seen = max(seen, len(shown))
        if lines_on(page)[0] == "round 0":
            break
        page.mouse.wheel(0, -6_000)
    assert lines_on(page)[:40] == wanted[:40]  # the page keeps some 48 blocks
    assert seen > 50


def test_a_response_is_known_also_when_the_first_message_is_hidden(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, "", type="system", metadata={"event": "message_start"})
    stream(agent, "The answer ", "is 42.")
    say(agent, "The answer is 42.", type="response")
    complete(agent)

    page.goto(url(runtime, "#agent=a1"))

    expect(page.locator("#ending")).to_contain_text("completed")
    expect(page.locator(".body")).to_have_text(["The answer is 42."])


def test_a_long_answer_in_pieces_is_not_shown_again_as_the_response(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    pieces = [f"{number:07} " for number in range(10_000)]
    stream(agent, *pieces)
    say(agent, "".join(pieces), type="response")
    complete(agent)

    page.goto(url(runtime, "#agent=a1"))

    expect(page.locator("#ending")).to_contain_text("completed")
    expect(page.locator("#place")).to_have_text("#10,001 of 10,001")
    assert page.locator('.block[data-type="response"]').count() == 0


def test_everything_is_shown_on_demand_and_stays_so_in_this_tab(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    speak(agent, CASES[0].items)
    page.goto(url(runtime, "#agent=a1"))
    expect(page.locator(".body")).to_have_text(["hi", "The answer is 42.", "Again."])

    page.get_by_role("button", name="Show everything").click()
    expect(page.locator(".block")).to_have_count(10)
    assert page.locator(".number").all_text_contents() == ["1", "2", "3", "4", "5–6", "7", "8", "9", "10", "11"]
    page.reload()
    expect(page.locator(".block")).to_have_count(10)
    expect(page.get_by_role("button", name="Show everything")).to_have_attribute("aria-pressed", "true")

    page.get_by_role("button", name="Show everything").click()
    expect(page.locator(".block")).to_have_count(3)


def test_a_link_to_a_message_that_is_hidden_leads_to_its_place(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    for number in range(60):
        say(agent, f"question {number}\n\n", type="user")
        stream(agent, f"answer {number}")
        say(agent, f"answer {number}", metadata={"repeats_deltas": True})

    page.goto(url(runtime, "#agent=a1&at=60"))

    expect(page.locator(".block", has_text=re.compile("^.*answer 19$"))).to_be_in_viewport()


def test_hidden_messages_without_end_are_read_past(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, "look", type="user")
    hidden = {"type": "system", "metadata": {"event": "content_block_delta"}}
    off_loop(lambda: [agent.emit("", **hidden) for _ in range(3_000)][-1].get(TIMEOUT_S))

    page.goto(url(runtime, "#agent=a1"))

    expect(page.locator(".body")).to_have_text("look")


def test_the_raw_line_is_fetched_on_demand(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    say(agent, "hello", raw=b'{"text":"hello"}')
    say(agent, "\xe9", type="tool", raw=b"\xe9")
    page.goto(url(runtime, "#agent=a1"))

    expect(page.locator("summary")).to_have_count(2)
    for summary in page.locator("summary").all():
        summary.click()

    expect(page.locator(".raw code")).to_have_text(['{"text":"hello"}', "base64: 6Q=="])


def test_everything_is_reached_by_keyboard(page: Page, runtime: AgentRuntime) -> None:
    for name in ("one", "two", "three"):
        say(running(runtime, name), f"I am {name}")
    page.goto(url(runtime))
    expect(page.locator("#stream-id")).to_have_text("three")
    expect(page.locator("#state")).to_have_text("connected")
    focused = (
        "document.activeElement.id || document.activeElement.getAttribute('href') || document.activeElement.tagName"
    )

    walked = []
    for _ in range(10):
        page.keyboard.press("Tab")
        walked.append(page.evaluate(focused))
    assert walked == [
        "#",
        "cut",
        "filter-text",
        "filter-status",
        "#agent=three",
        "everything",
        "log",
        "#agent=three&at=1",
        "SUMMARY",
        "BODY",
    ]

    page.locator("#agents a").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#stream-id")).to_have_text("one")
    page.go_back()
    expect(page.locator("#stream-id")).to_have_text("three")


def test_what_is_new_is_read_out_but_not_token_by_token(page: Page, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    page.goto(url(runtime, "#agent=a1"))
    say(agent, "before", type="user")
    expect(page.locator(".body")).to_have_text("before")
    expect_live(page)
    page.evaluate("""
        window.heard = [];
        const note = (node) => node.textContent !== "before" && window.heard.push(node.textContent);
        new MutationObserver((all) => all.forEach(({ addedNodes }) => addedNodes.forEach(note)))
            .observe(document.getElementById("spoken"), { childList: true });
    """)

    tokens = [f"token {number} " for number in range(40)]
    stream(agent, *tokens)
    say(agent, "look()", type="tool")
    wait_until(lambda: "look()" in page.evaluate("window.heard"), "all to be read out")

    heard = page.evaluate("window.heard")
    assert "".join(heard) == "".join(tokens) + "look()"
    assert len(heard) <= 4
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"
    assert page.locator("#log").get_attribute("aria-live") == "off"


def test_the_token_is_asked_for_kept_for_the_tab_and_never_in_an_address(page: Page, tmp_path: Path) -> None:
    runtime = AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", token="s3cret")
    off_loop(runtime.start)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    try:
        agent = running(runtime, "a1")
        page.goto(url(runtime, "#agent=a1"))
        for token in ("wrong", "s3cret"):
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Continue").click()
        say(agent, "behind the door")
        expect(page.locator(".body")).to_have_text("behind the door")
        expect(page.locator("#state")).to_have_text("connected")
        page.reload()
        expect(page.locator(".body")).to_have_text("behind the door")
    finally:
        off_loop(runtime.stop)
    assert any(address.startswith("ws:") for address in asked)
    assert not any("s3cret" in address for address in asked)


def test_without_agents_it_says_what_to_run_until_one_comes(page: Page, runtime: AgentRuntime) -> None:
    page.goto(url(runtime))
    expect(page.locator("#empty")).to_contain_text("commitcast demo")
    expect(page.locator("#state")).to_have_text("connected")

    running(runtime, "a1")

    expect(page.locator("#empty")).to_be_hidden()
    expect(page.get_by_role("link", name="a1")).to_be_visible()


def test_an_agent_that_is_not_there_is_said_to_be_missing(page: Page, runtime: AgentRuntime) -> None:
    page.goto(url(runtime))
    page.evaluate("location.hash = 'agent=nobody'")

    expect(page.locator("#notice")).to_have_text("There is no agent nobody.")


def test_it_fits_a_narrow_window(page: Page, runtime: AgentRuntime) -> None:
    say(running(runtime, "an-agent-with-a-name-that-is-longer-than-the-window-is-wide"), "x" * 300)
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(url(runtime))
    expect(page.locator("#agents li")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    page.locator("#agents a").click()
    expect(page.locator(".body")).to_be_visible()
    expect(page.locator("nav")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="Back to the agents").click()
    expect(page.locator("nav")).to_be_visible()
